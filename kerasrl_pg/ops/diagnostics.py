"""Figures that say how learning goes; no loss uses them."""

from __future__ import annotations

from kerasrl_pg.ops.returns import explained_variance
from kerasrl_pg.ops.statistics import unit_mean_weight
from kerasrl_pg.types import Batch, Metrics


def critic_metrics(batch: Batch) -> Metrics:
    """`explained_variance` of the values at the time of acting, over the batches of all replicas.

    Args:
        batch: [T, N, ...], its weights of any mean.
    """
    weight = unit_mean_weight(batch.weight)
    return {"explained_variance": explained_variance(batch.value, batch.value_target, weight)}
