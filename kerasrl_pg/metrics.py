"""Metrics as one row of numbers, in which a compiled loop hands them on."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasrl_pg.types import Metrics

MOST_METRICS = 24
"""Room for metrics in a compiled loop, whose running sums need a size before the names are known."""


def pack_metrics(metrics: Metrics, names: list[str]) -> tf.Tensor:
    """[MOST_METRICS] float32: the scalars in the order of their names, which are put into `names`; then zeros.

    A compiled loop needs the size of its running sums before its body, which alone knows the metrics, is traced.

    Raises:
        ValueError: too many, or one that is no scalar.
    """
    names[:] = sorted(metrics)
    if len(names) > MOST_METRICS:
        raise ValueError(f"an update has room for {MOST_METRICS} metrics, got {len(names)}: {', '.join(names)}")
    for name in names:
        if tf.convert_to_tensor(metrics[name]).shape.rank != 0:
            raise ValueError(f"metric {name!r} must be a scalar, got {metrics[name]}")
    row = tf.stack([tf.cast(metrics[name], tf.float32) for name in names])
    return tf.pad(row, [[0, MOST_METRICS - len(names)]])


def unpack_metrics(row: Any, names: list[str]) -> dict[str, Any]:
    """The inverse of `pack_metrics`, of a `[..., MOST_METRICS]` tensor or array."""
    return {name: row[..., index] for index, name in enumerate(names)}
