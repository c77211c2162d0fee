"""What there is to know of a `tf.distribute` strategy: whether it is one, and over how many processes it spreads."""

from __future__ import annotations

import contextlib
from typing import Any

import tensorflow as tf


def spread_by(strategy: tf.distribute.Strategy | None) -> tf.distribute.Strategy | None:
    """`strategy`, or None for TensorFlow's default one, which spreads over nothing.

    Raises:
        TypeError: it is no strategy.
        ValueError: the call is within the scope of another one than it names.
    """
    if strategy is not None and not isinstance(strategy, tf.distribute.Strategy):
        raise TypeError(f"strategy must be a tf.distribute.Strategy or None, got {strategy!r}")
    around = tf.distribute.get_strategy()
    if tf.distribute.has_strategy() and strategy is not around:
        raise ValueError(f"this is called within the scope of {around}: pass strategy=... of that scope, or leave it")
    return None if strategy is around and not tf.distribute.has_strategy() else strategy


def scope(strategy: tf.distribute.Strategy | None) -> Any:
    """The context in which variables of `strategy` are made; one that does nothing for None."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def num_workers(strategy: tf.distribute.Strategy | None) -> int:
    """Processes that a strategy spreads over; 1 without one."""
    if strategy is None:
        return 1
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)


def number_in_cluster(resolver: tf.distribute.cluster_resolver.ClusterResolver) -> int:
    """A process's number among all that learn; a task's id counts within its type, and a chief comes first."""
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", []))
    return resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
