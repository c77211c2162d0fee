"""PPO: several epochs of minibatches on one rollout, the policy's change held small by a clipped ratio."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from kerasrl_pg import ops
from kerasrl_pg.algorithms import validation
from kerasrl_pg.types import Batch, Metrics, Rollout

LOWEST_RATE, HIGHEST_RATE = 1e-6, 1e-2
"""Where `adaptive_kl` keeps the learning rate; one that begins outside is brought there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPO:
    """Proximal policy optimisation with the clipped surrogate objective.

    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv:1707.06347), eq. 7; defaults from
    CleanRL's `ppo.py`, but for `clip_value` and the value loss, which is halved there.

    Departures from the paper: advantages are standardised per minibatch and the gradient is clipped (both from OpenAI's
    baselines), and minibatches shuffle time within each environment. The value loss is that of the paper: what the
    baselines and CleanRL clip is clipped only if `clip_value` is set (Andrychowicz et al. 2021, found that it hurts).

    Raises:
        ValueError: a hyperparameter out of its range, or minibatches that do not divide the rollout.

    Example:
        >>> PPO(rollout_length=32, epochs=20, num_minibatches=1).clip_epsilon
        0.2
    """

    rollout_length: int = 128
    """Steps per environment between updates (T)."""
    epochs: int = 4
    """Passes over each rollout (K)."""
    num_minibatches: int = 4
    """Gradient steps a pass; divides `rollout_length`."""
    discount: float = 0.99
    """Weight of the next step's return, per environment step (γ)."""
    gae_lambda: float = 0.95
    """λ of GAE."""
    reward_ends_return: bool = False
    """Count nothing that comes after a reward other than 0, as if the episode ended with it: for games that are played
    point by point (Karpathy 2016, "Deep Reinforcement Learning: Pong from Pixels")."""
    clip_epsilon: float | LearningRateSchedule = 0.2
    """Bound of the probability ratio's distance from 1 (ε); a Keras schedule counts gradient steps."""
    clip_value: float | None = None
    """Bound of the value's change within an update; None for none. In units of return, or of the targets' standard
    deviation where the model normalises them."""
    value_coef: float = 0.5
    """Weight of the value loss (c₁)."""
    entropy_coef: float | LearningRateSchedule = 0.01
    """Weight of the entropy bonus (c₂); a Keras schedule counts gradient steps."""
    entropy_values: tuple[float, float] | None = None
    """The value V(s) up to which a state has the whole bonus and that from which on it has none, falling linearly in
    between: explore where little is expected, be precise where much is. None for the whole bonus everywhere."""
    normalize_advantage: bool = True
    """Standardise the advantages of each minibatch, over all replicas."""
    max_gradient_norm: float | None = 0.5
    """Bound of the gradient's global norm; None for none."""
    target_kl: float | None = None
    """End an update once `approx_kl` of a gradient step passes 1.5 times this; None for never."""
    adaptive_kl: float | LearningRateSchedule | None = None
    """Move the learning rate by a factor of 1.5 after each update, from 1e-6 to 1e-2, to keep `approx_kl` within a
    factor of 2 of this; a Keras schedule counts gradient steps. The optimizer's learning rate must be a number; one
    outside these bounds is brought there."""

    def __post_init__(self):
        for name in ("rollout_length", "epochs", "num_minibatches"):
            validation.check_count(self, name)
        for name in ("discount", "gae_lambda"):
            validation.check_range(self, name, 0, 1)
        validation.check_range(self, "value_coef", 0, float("inf"))
        validation.check_schedule(self, "clip_epsilon", 0, float("inf"), above=True)
        validation.check_schedule(self, "entropy_coef", 0, float("inf"))
        if self.entropy_values is not None:
            validation.check_interval(self, "entropy_values")
        if self.adaptive_kl is not None:
            validation.check_schedule(self, "adaptive_kl", 0, float("inf"), above=True)
        for name in ("clip_value", "max_gradient_norm", "target_kl"):
            validation.check_range(self, name, 0, float("inf"), above=True, optional=True)
        for name in ("reward_ends_return", "normalize_advantage"):
            validation.check_switch(self, name)
        if self.rollout_length % self.num_minibatches:
            raise ValueError(
                f"PPO: num_minibatches must divide rollout_length ({self.rollout_length}), got {self.num_minibatches}"
            )

    def update(self, learner, rollout: Rollout, seed: tf.Tensor) -> Metrics:
        """`epochs` passes of `num_minibatches` gradient steps."""
        batch = learner.map(self.prepare, rollout)
        if self.clip_value is None:
            learner.update_value_statistics(batch)
        clip_epsilon, entropy_coef = (learner.scheduled(each) for each in (self.clip_epsilon, self.entropy_coef))
        metrics = learner.descend_minibatches(
            functools.partial(self.loss, clip_epsilon=clip_epsilon, entropy_coef=entropy_coef),
            batch,
            epochs=self.epochs,
            num_minibatches=self.num_minibatches,
            seed=seed,
            max_gradient_norm=self.max_gradient_norm,
            stop=None if self.target_kl is None else is_above("approx_kl", 1.5 * self.target_kl),
        )
        if self.clip_value is not None:  # before, V would move by the statistics alone, and be clipped for it
            learner.update_value_statistics(batch)
        if self.adaptive_kl is not None:
            factor = learning_rate_factor(metrics["approx_kl"], learner.scheduled(self.adaptive_kl))
            learner.scale_learning_rate(factor, lowest=LOWEST_RATE, highest=HIGHEST_RATE)
        return {**metrics, **learner.mean(ops.critic_metrics, batch)}

    def prepare(self, rollout: Rollout) -> Batch:
        """Advantages and value targets, [T, N]."""
        if self.reward_ends_return:
            rollout = rollout._replace(terminated=rollout.terminated | tf.not_equal(rollout.reward, 0.0))
        return ops.advantage_batch(rollout, discount=self.discount, gae_lambda=self.gae_lambda)

    def loss(
        self, policy, batch: Batch, *, clip_epsilon: tf.Tensor | float, entropy_coef: tf.Tensor | float
    ) -> tuple[tf.Tensor, Metrics]:
        """Clipped surrogate + value_coef · value loss - entropy_coef · bonus; Schulman et al. 2017, eq. 9.

        The bonus is the entropy, or with `entropy_values` the mean of the states' shares of it.
        """
        weight = batch.weight
        advantage = ops.normalize(batch.advantage, weight) if self.normalize_advantage else batch.advantage
        distribution, value = policy(batch.observation, training=True)
        log_prob = distribution.log_prob(batch.action)
        policy_loss = ops.clipped_surrogate_loss(
            log_prob, batch.log_prob, advantage, clip_epsilon=clip_epsilon, weight=weight
        )
        if self.clip_value is None:
            value_loss = ops.value_loss(value, batch.value_target, weight=weight, scale=policy.value_scale)
        else:
            value_loss = ops.clipped_value_loss(
                value,
                batch.value,
                batch.value_target,
                clip_epsilon=self.clip_value,
                weight=weight,
                scale=policy.value_scale,
            )
        entropy = bonus = ops.entropy(distribution, weight)
        if self.entropy_values is not None:
            bonus = ops.entropy(distribution, weight * falling(batch.value, *self.entropy_values))
        total = policy_loss + self.value_coef * value_loss - entropy_coef * bonus
        return total, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": ops.approx_kl(log_prob, batch.log_prob, weight),
            "clip_fraction": ops.clip_fraction(log_prob, batch.log_prob, clip_epsilon=clip_epsilon, weight=weight),
        }


def falling(value: tf.Tensor, start: float, end: float) -> tf.Tensor:
    """1 up to `start`, 0 from `end` on, a straight line in between.

    Example:
        >>> falling(tf.constant([-3.0, -1.0, 0.0, 1.0, 3.0]), -1.0, 1.0).numpy().tolist()
        [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    return tf.clip_by_value((end - value) / (end - start), 0.0, 1.0)


def is_above(name: str, limit: float) -> Callable[[Metrics], tf.Tensor]:
    """Whether a metric of a gradient step is above `limit`.

    Example:
        >>> bool(is_above("approx_kl", 0.02)({"approx_kl": tf.constant(0.03)}))
        True
    """
    return lambda metrics: metrics[name] > limit


def learning_rate_factor(approx_kl: tf.Tensor, target: tf.Tensor | float) -> tf.Tensor:
    """1/1.5 where the policy moved more than twice as far as asked, 1.5 where less than half as far, else 1.

    Source: the adaptive KL penalty of Schulman et al. 2017, section 4, on the learning rate instead of the penalty, and
    with its numbers exchanged: there the penalty moves by a factor of 2 where the KL is off by more than 1.5.

    Example:
        >>> [round(float(learning_rate_factor(tf.constant(kl), 0.01)), 2) for kl in (0.03, 0.01, 0.001)]
        [0.67, 1.0, 1.5]
    """
    return tf.where(approx_kl > 2.0 * target, 1 / 1.5, tf.where(approx_kl < 0.5 * target, 1.5, 1.0))
