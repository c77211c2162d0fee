"""A2C: one gradient step on the whole rollout of N environments, advantages from a learned value function."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from kerasrl_pg import ops
from kerasrl_pg.algorithms import validation
from kerasrl_pg.types import Batch, Metrics, Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class A2C:
    """Synchronous advantage actor-critic.

    Source: Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning" (arXiv:1602.01783), in the
    synchronous form of OpenAI's baselines; GAE from Schulman et al. 2016 (arXiv:1506.02438).

    Raises:
        ValueError: a hyperparameter out of its range.

    Example:
        >>> A2C(rollout_length=8).gae_lambda
        1.0
    """

    rollout_length: int | None = 5
    """Steps per environment between updates (T); None plays one whole episode in each, whose Monte-Carlo returns λ = 1
    takes up to the end of the task (where a time limit cuts it, V stands in for what would have followed)."""
    discount: float = 0.99
    """Weight of the next step's return, per environment step (γ)."""
    gae_lambda: float = 1.0
    """λ of GAE; 1 gives the paper's n-step advantage, with n up to `rollout_length`."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    entropy_coef: float = 0.01
    """Weight of the entropy bonus; Mnih et al. 2016, section 8."""
    normalize_advantage: bool = False
    """Standardise the advantages of each batch."""
    max_gradient_norm: float | None = 0.5
    """Bound of the gradient's global norm; None for none."""
    policy_gradient_metrics: bool = False
    """Measure the gradient of the policy's loss alone, before each step: its root mean square, maximum and variance;
    with them the mean advantage, value and value target. One more backward pass."""

    def __post_init__(self):
        if self.rollout_length is not None:
            validation.check_count(self, "rollout_length")
        validation.check_range(self, "discount", 0, 1)
        validation.check_range(self, "gae_lambda", 0, 1)
        validation.check_range(self, "value_coef", 0, float("inf"))
        validation.check_range(self, "entropy_coef", 0, float("inf"))
        for name in ("normalize_advantage", "policy_gradient_metrics"):
            validation.check_switch(self, name)
        validation.check_range(self, "max_gradient_norm", 0, float("inf"), above=True, optional=True)

    def update(self, learner, rollout: Rollout, seed: tf.Tensor) -> Metrics:
        """One step on the whole rollout."""
        batch = learner.map(self.prepare, rollout)
        learner.update_value_statistics(batch)
        before = self.measure_policy_gradient(learner, batch) if self.policy_gradient_metrics else {}
        metrics = learner.descend(self.loss, batch, max_gradient_norm=self.max_gradient_norm)
        return {**metrics, **learner.mean(ops.critic_metrics, batch), **before}

    def prepare(self, rollout: Rollout) -> Batch:
        """Advantages and value targets, [T, N]."""
        return ops.advantage_batch(rollout, discount=self.discount, gae_lambda=self.gae_lambda)

    def measure_policy_gradient(self, learner, batch: Batch) -> Metrics:
        """Figures of the policy's loss alone; of a [T, N] batch."""

        def loss(policy, own):
            own = self.normalized(own)
            return self.policy_loss(policy(own.observation, training=True).distribution, own), {}

        statistics = learner.gradient_statistics(loss, batch)
        named = {f"policy_gradient_{name}": value for name, value in statistics.items()}
        return {**named, **learner.mean(ops.batch_means, batch)}

    def loss(self, policy, batch: Batch) -> tuple[tf.Tensor, Metrics]:
        """-E[log π · A] + value_coef · E[(V - target)²] - entropy_coef · E[H]."""
        batch = self.normalized(batch)
        distribution, value = policy(batch.observation, training=True)
        policy_loss = self.policy_loss(distribution, batch)
        value_loss = ops.value_loss(value, batch.value_target, weight=batch.weight, scale=policy.value_scale)
        entropy = ops.entropy(distribution, batch.weight)
        total = policy_loss + self.value_coef * value_loss - self.entropy_coef * entropy
        return total, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

    def policy_loss(self, distribution, batch: Batch) -> tf.Tensor:
        """-E[log π · A]."""
        return ops.policy_gradient_loss(distribution.log_prob(batch.action), batch.advantage, batch.weight)

    def normalized(self, batch: Batch) -> Batch:
        """The batch, with advantages of mean 0 and variance 1 where they are asked for."""
        if not self.normalize_advantage:
            return batch
        return batch._replace(advantage=ops.normalize(batch.advantage, batch.weight))
