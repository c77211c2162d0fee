"""REINFORCE: whole episodes, gradient steps on the log-probabilities weighted by the returns."""

from __future__ import annotations

import dataclasses
from typing import Literal

import tensorflow as tf

from kerasrl_pg import ops
from kerasrl_pg.algorithms import validation
from kerasrl_pg.types import Batch, Metrics, Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reinforce:
    """Monte-Carlo policy gradient: every environment plays one whole episode, then the policy takes gradient steps.

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
    gradient_step_per: Literal["batch", "episode"] = "batch"
    """"batch" takes one step on the mean over all steps of all episodes; "episode" one after the other a step on the
    sum over the steps of each episode, all of which the policy of before the update has played."""
    standardize_returns: bool = False
    """Subtract the mean return and divide by the standard deviation: of the batch, or of each episode if a gradient
    step is of one."""
    dropout_while_acting: bool = False
    """Sample the actions of training with the model's dropout on, as it is while learning. Without that, dropout makes
    the policy that learns another one than the policy that has acted; evaluations never drop anything."""
    max_gradient_norm: float | None = None
    """Bound of the gradient's global norm; None for none."""
    max_gradient_value: float | None = None
    """Bound of each element of the gradient; None for none. Excludes `max_gradient_norm`."""

    rollout_length = None  # whole episodes

    def __post_init__(self):
        validation.check_range(self, "discount", 0, 1)
        validation.check_range(self, "entropy_coef", 0, float("inf"))
        validation.check_choice(self, "gradient_step_per", ("batch", "episode"))
        for name in ("standardize_returns", "dropout_while_acting"):
            validation.check_switch(self, name)
        for name in ("max_gradient_norm", "max_gradient_value"):
            validation.check_range(self, name, 0, float("inf"), above=True, optional=True)
        if self.max_gradient_norm is not None and self.max_gradient_value is not None:
            raise ValueError(
                f"Reinforce: max_gradient_value must be None where max_gradient_norm is set, "
                f"got {self.max_gradient_value!r} and {self.max_gradient_norm!r}"
            )

    def update(self, learner, rollout: Rollout, seed: tf.Tensor) -> Metrics:
        """One step on all episodes, or one on each."""
        batch = learner.map(self.prepare, rollout)
        descend = learner.descend_episodes if self.gradient_step_per == "episode" else learner.descend
        return descend(
            self.loss, batch, max_gradient_norm=self.max_gradient_norm, max_gradient_value=self.max_gradient_value
        )

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
        """-E[log π · G] - entropy_coef · E[H], means over steps, H being that of each step's own distribution."""
        returns = ops.normalize(batch.advantage, batch.weight) if self.standardize_returns else batch.advantage
        distribution, _ = policy(batch.observation, training=True)
        policy_loss = ops.policy_gradient_loss(distribution.log_prob(batch.action), returns, batch.weight)
        entropy = ops.entropy(distribution, batch.weight)
        return policy_loss - self.entropy_coef * entropy, {"policy_loss": policy_loss, "entropy": entropy}
