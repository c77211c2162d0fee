"""The policy gradient with a choice of baseline, side by side: none, the batch's mean, or the critic's value."""

from __future__ import annotations

import dataclasses
from typing import Literal

import tensorflow as tf

from kerasrl_pg import ops
from kerasrl_pg.algorithms import validation
from kerasrl_pg.types import Batch, Metrics, Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """One step on the log-probabilities weighted by Q minus a baseline.

    Q is the discounted return to the rollout's end, bootstrapped there with the critic, which is learned whatever the
    baseline. With the baseline "value" this is actor-critic.

    Source: Sutton et al. 2000, "Policy Gradient Methods for Reinforcement Learning with Function Approximation".

    Raises:
        ValueError: a hyperparameter out of its range.

    Example:
        >>> PolicyGradient(baseline="mean").rollout_length
        32
    """

    baseline: Literal["none", "mean", "value"] = "value"
    """What is subtracted from Q: nothing, the batch's mean Q, or V(observation)."""
    rollout_length: int = 32
    """Steps per environment between updates (T)."""
    discount: float = 0.99
    """Weight of the next step's return, per environment step (γ)."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    max_gradient_norm: float | None = None
    """Bound of the gradient's global norm; None for none."""

    def __post_init__(self):
        validation.check_choice(self, "baseline", ("none", "mean", "value"))
        validation.check_count(self, "rollout_length")
        validation.check_range(self, "discount", 0, 1)
        validation.check_range(self, "value_coef", 0, float("inf"))
        validation.check_range(self, "entropy_coef", 0, float("inf"))
        validation.check_range(self, "max_gradient_norm", 0, float("inf"), above=True, optional=True)

    def update(self, learner, rollout: Rollout, seed: tf.Tensor) -> Metrics:
        """One step on the whole rollout."""
        batch = learner.map(self.prepare, rollout)
        learner.update_value_statistics(batch)
        metrics = learner.descend(self.loss, batch, max_gradient_norm=self.max_gradient_norm)
        return {**metrics, **learner.mean(ops.critic_metrics, batch)}

    def prepare(self, rollout: Rollout) -> Batch:
        """Q and Q minus the baseline, [T, N]."""
        batch = ops.advantage_batch(rollout, discount=self.discount, gae_lambda=1.0)
        if self.baseline == "value":
            return batch
        action_value = batch.value_target
        if self.baseline == "mean":
            mean, _ = ops.moments(action_value, ops.unit_mean_weight(batch.weight))
            action_value -= mean
        return batch._replace(advantage=action_value)

    def loss(self, policy, batch: Batch) -> tuple[tf.Tensor, Metrics]:
        """-E[log π · (Q - baseline)] + value_coef · E[(V - Q)²] - entropy_coef · E[H]."""
        distribution, value = policy(batch.observation, training=True)
        policy_loss = ops.policy_gradient_loss(distribution.log_prob(batch.action), batch.advantage, batch.weight)
        value_loss = ops.value_loss(value, batch.value_target, weight=batch.weight, scale=policy.value_scale)
        entropy = ops.entropy(distribution, batch.weight)
        total = policy_loss + self.value_coef * value_loss - self.entropy_coef * entropy
        return total, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
