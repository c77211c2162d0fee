"""REINFORCE: whole episodes, one gradient step on the log-probabilities weighted by the returns."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from kerasrl_pg import ops
from kerasrl_pg.algorithms import validation
from kerasrl_pg.types import Batch, Metrics, Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reinforce:
    """Monte-Carlo policy gradient, batched: every environment plays one whole episode, then one gradient step.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning". It has no critic: where a time limit ends an episode the return is what was seen until then, which
    biases it; A2C and PPO bootstrap there.

    Raises:
        ValueError: a hyperparameter out of its range.

    Example:
        >>> Reinforce(entropy_coef=0.01).discount
        0.99
    """

    discount: float = 0.99
    """Weight of the next step's return, per environment step (γ)."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    standardize_returns: bool = False
    """Subtract the batch's mean return and divide by its standard deviation."""
    max_gradient_norm: float | None = None
    """Bound of the gradient's global norm; None for none."""

    rollout_length = None  # whole episodes

    def __post_init__(self):
        validation.check_range(self, "discount", 0, 1)
        validation.check_range(self, "entropy_coef", 0, float("inf"))
        validation.check_switch(self, "standardize_returns")
        validation.check_range(self, "max_gradient_norm", 0, float("inf"), above=True, optional=True)

    def update(self, learner, rollout: Rollout, seed: tf.Tensor) -> Metrics:
        """One step on all episodes."""
        batch = learner.map(self.prepare, rollout)
        return learner.descend(self.loss, batch, max_gradient_norm=self.max_gradient_norm)

    def prepare(self, rollout: Rollout) -> Batch:
        """The returns G, [T, N], in the place of the advantage."""
        returns = ops.discounted_returns(
            rollout.reward,
            rollout.terminated,
            rollout.truncated,
            tf.zeros_like(rollout.next_value),
            discount=self.discount,
        )
        weight = tf.cast(rollout.valid, tf.float32)
        return Batch(rollout.observation, rollout.action, rollout.log_prob, rollout.value, returns, returns, weight)

    def loss(self, policy, batch: Batch) -> tuple[tf.Tensor, Metrics]:
        """-E[log π · G] - entropy_coef · E[H], means over steps."""
        distribution, _ = policy(batch.observation, training=True)
        returns = ops.normalize(batch.advantage, batch.weight) if self.standardize_returns else batch.advantage
        policy_loss = ops.policy_gradient_loss(distribution.log_prob(batch.action), returns, batch.weight)
        entropy = ops.entropy(distribution, batch.weight)
        return policy_loss - self.entropy_coef * entropy, {"policy_loss": policy_loss, "entropy": entropy}
