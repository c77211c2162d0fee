"""Figures that say how learning goes; no loss uses them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from kerasrl_pg.ops.returns import explained_variance
from kerasrl_pg.ops.statistics import unit_mean_weight, weighted_mean
from kerasrl_pg.types import Batch, Metrics


def critic_metrics(batch: Batch) -> Metrics:
    """`explained_variance` of the values at the time of acting, over the batches of all replicas.

    Args:
        batch: [T, N, ...], its weights of any mean.

    Returns:
        A scalar by its name.

    Example:
        >>> value, target = tf.constant([[1.0, 2.0]]), tf.constant([[1.0, 3.0]])
        >>> zeros, ones = tf.zeros([1, 2]), tf.ones([1, 2])
        >>> float(critic_metrics(Batch(zeros, zeros, zeros, value, zeros, target, ones))["explained_variance"])
        0.75
    """
    weight = unit_mean_weight(batch.weight)
    return {"explained_variance": explained_variance(batch.value, batch.value_target, weight)}


def batch_means(batch: Batch) -> Metrics:
    """`advantage_mean`, `value_mean` and `value_target_mean` of the valid steps.

    Args:
        batch: [T, N, ...], its weights of any mean.

    Returns:
        Three scalars by name.

    Example:
        >>> value, weight = tf.constant([[1.0, 9.0]]), tf.constant([[1.0, 0.0]])
        >>> float(batch_means(Batch(value, value, value, value, value, value, weight))["value_mean"])
        1.0
    """
    weight = unit_mean_weight(batch.weight)
    names = ("advantage", "value", "value_target")
    return {f"{name}_mean": weighted_mean(getattr(batch, name), weight) for name in names}


def gradient_statistics(gradients: Sequence[tf.Tensor]) -> Metrics:
    """How large the elements of a gradient are, all tensors together: √E[g²], max |g|, E[(g - E[g])²].

    Args:
        gradients: tensors of any shape.

    Returns:
        Scalars: `rms`, the root of the mean square; `max`, the largest absolute value; `variance` (population).

    Example:
        >>> statistics = gradient_statistics([tf.constant([[3.0], [-5.0]]), tf.constant([1.0, 1.0])])
        >>> {name: float(value) for name, value in statistics.items()}
        {'rms': 3.0, 'max': 5.0, 'variance': 9.0}
    """
    elements = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)  # [weights]
    return {
        "rms": tf.sqrt(tf.reduce_mean(tf.square(elements))),
        "max": tf.reduce_max(tf.abs(elements)),
        "variance": tf.math.reduce_variance(elements),
    }
