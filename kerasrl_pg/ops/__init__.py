"""Pure tensor functions: no Keras, no state, no environment.

Each one is an equation with a source, works eagerly, in a `tf.function` and under XLA, raises on inputs that
would broadcast by accident, and says where gradient flows.
"""

from kerasrl_pg.ops.diagnostics import batch_means, critic_metrics, gradient_statistics
from kerasrl_pg.ops.distributions import (
    EpsilonGreedy,
    action_distribution,
    action_spec,
    parameter_size,
    sample,
    to_environment,
)
from kerasrl_pg.ops.policy_losses import (
    approx_kl,
    clip_fraction,
    clipped_surrogate_loss,
    entropy,
    policy_gradient_loss,
)
from kerasrl_pg.ops.returns import (
    advantage_batch,
    discounted_returns,
    explained_variance,
    gae,
    n_step_returns,
)
from kerasrl_pg.ops.statistics import (
    element_moments,
    gather_across_replicas,
    mean_across_replicas,
    merge_moments,
    moments,
    moments_of_replicas,
    normalize,
    unit_mean_weight,
    weighted_mean,
)
from kerasrl_pg.ops.value_losses import (
    clipped_value_loss,
    double_q_target,
    huber,
    q_target,
    td_error,
    value_loss,
)

__all__ = [
    "EpsilonGreedy",
    "action_distribution",
    "action_spec",
    "advantage_batch",
    "approx_kl",
    "batch_means",
    "clip_fraction",
    "clipped_surrogate_loss",
    "clipped_value_loss",
    "critic_metrics",
    "discounted_returns",
    "double_q_target",
    "element_moments",
    "entropy",
    "explained_variance",
    "gae",
    "gather_across_replicas",
    "gradient_statistics",
    "huber",
    "mean_across_replicas",
    "merge_moments",
    "moments",
    "moments_of_replicas",
    "n_step_returns",
    "normalize",
    "parameter_size",
    "policy_gradient_loss",
    "q_target",
    "sample",
    "td_error",
    "to_environment",
    "unit_mean_weight",
    "value_loss",
    "weighted_mean",
]
