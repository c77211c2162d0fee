"""The cross-entropy method: every environment plays one whole episode, and the policy imitates the best of them."""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from kerasrl_pg import ops
from kerasrl_pg.algorithms import validation
from kerasrl_pg.types import Batch, Metrics, Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Fit the policy to the actions of the episodes with the highest returns.

    Of N episodes the elite are those whose undiscounted return is at least that of the ⌈elite_share · N⌉-th best: all
    that tie with it belong to the elite, which is thus never smaller than the share asked for.

    Source: Rubinstein & Kroese 2004, "The Cross-Entropy Method"; de Boer et al. 2005, "A Tutorial on the Cross-Entropy
    Method", eqs. 22-23, whose sampling distribution over parameters is here the policy's own over actions.

    Raises:
        ValueError: a hyperparameter out of its range.

    Example:
        >>> CrossEntropy(elite_share=0.2).epochs
        1
    """

    elite_share: float = 0.1
    """Share of the episodes that is imitated, ties aside (ρ)."""
    epochs: int = 1
    """Gradient steps on each round's elite."""

    rollout_length = None  # whole episodes

    def __post_init__(self):
        validation.check_range(self, "elite_share", 0, 1, above=True)
        validation.check_count(self, "epochs")

    def update(self, learner, rollout: Rollout, seed: tf.Tensor) -> Metrics:
        """`epochs` steps on all episodes of the elite together."""
        batch = learner.map(self.prepare, rollout)
        metrics = learner.descend_minibatches(self.loss, batch, epochs=self.epochs, num_minibatches=1, seed=seed)
        return {**metrics, **learner.mean(elite_metrics, batch)}

    def prepare(self, rollout: Rollout) -> Batch:
        """Weight 0 for the steps of all but the elite, chosen among all replicas' episodes; `[T, n]`.

        The episode's return stands in the place of the advantage.
        """
        valid = tf.cast(rollout.valid, tf.float32)  # [T, n]
        returns = tf.reduce_sum(valid * rollout.reward, axis=0)  # [n]
        elite = tf.cast(returns >= elite_threshold(ops.gather_across_replicas(returns), self.elite_share), tf.float32)
        spread = tf.broadcast_to(returns, tf.shape(valid))  # [n] -> [T, n]
        return Batch(
            rollout.observation, rollout.action, rollout.log_prob, rollout.value, spread, spread, valid * elite
        )

    def loss(self, policy, batch: Batch) -> tuple[tf.Tensor, Metrics]:
        """-E[log π(a|s)], the mean over the steps of the elite."""
        distribution, _ = policy(batch.observation, training=True)
        policy_loss = -ops.weighted_mean(distribution.log_prob(batch.action), batch.weight)
        return policy_loss, {"policy_loss": policy_loss, "entropy": ops.entropy(distribution, batch.weight)}


def elite_threshold(returns: tf.Tensor, share: float) -> tf.Tensor:
    """The return of the ⌈share · N⌉-th best of `returns` [N], scalar.

    Example:
        >>> float(elite_threshold(tf.constant([1.0, 5.0, 3.0, 5.0, 2.0]), 0.5))
        3.0
    """
    # A product such as 0.07 · 100 lies a rounding above the integer that is meant.
    place = max(1, math.ceil(share * returns.shape[0] - 1e-6))
    return tf.sort(returns, direction="DESCENDING")[place - 1]


def elite_metrics(batch: Batch) -> Metrics:
    """`elite_return`, the mean over the elite's episodes, and `elite_fraction` of the episodes; of a [T, n] batch."""
    chosen = batch.weight[0]  # [n]: every episode has a first step
    return {
        "elite_return": ops.weighted_mean(batch.advantage[0], ops.unit_mean_weight(chosen)),
        "elite_fraction": tf.reduce_mean(chosen),
    }
