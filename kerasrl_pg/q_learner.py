"""One gradient step of Q-learning: a `Learner` with a second, frozen network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kerasrl_pg.any_optimizer import gradients_seen_by
from kerasrl_pg.learner import Learner
from kerasrl_pg.models.actor_critic import with_own_losses
from kerasrl_pg.types import Metrics, Transitions

QLoss = Callable[[Callable, Callable, Transitions], tuple[tf.Tensor, Metrics, tf.Tensor]]
"""`loss(q, target_q, transitions) -> (scalar to minimise, metrics, errors [B])`."""


class QLearner:
    """Learns action values from transitions; every replica of a strategy takes its share of a batch.

    Args:
        learner: the network that learns and its optimizer.
        target: the frozen network, a `QPolicy` of the same model; None takes targets from the network that learns.
    """

    def __init__(self, learner: Learner, target: Any | None):
        self.learner = learner
        self.target = target

    def update_target(self, *, every: int | None) -> None:
        """Copy the weights to the frozen network if the number of gradient steps so far is a multiple of `every`."""
        if self.target is None or every is None:
            return
        steps = tf.convert_to_tensor(gradients_seen_by(self.learner.optimizer))
        tf.cond(tf.equal(steps % every, 0), self.copy_to_target, lambda: None)

    def copy_to_target(self) -> None:
        """Make the frozen network equal to the one that learns."""
        assert self.target is not None
        for frozen, variable in zip(self.target.model.weights, self.learner.policy.model.weights, strict=True):
            frozen.assign(tf.convert_to_tensor(variable))

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ValueError unless the replicas of a process divide a batch."""
        local = self.learner.local_replicas
        if batch_size % local:
            raise ValueError(f"batch_size must be a multiple of the {local} replicas of a process, got {batch_size}")

    def descend_transitions(
        self, loss: QLoss, transitions: Transitions, *, max_gradient_norm: float | None = None
    ) -> tuple[Metrics, tf.Tensor]:
        """One gradient step.

        Args:
            loss: see `QLoss`.
            transitions: [B, ...], whose number the replicas divide.
            max_gradient_norm: bound of the global norm of the gradient averaged over all replicas; None for none.

        Returns:
            The loss's metrics, averaged over all replicas, and the errors [B] of this worker's transitions.

        Raises:
            ValueError: the replicas do not divide B.
        """
        policy, strategy = self.learner.policy, self.learner.strategy
        target = policy if self.target is None else self.target

        def own_step(whole: Transitions):
            own = self._share(whole)
            with tf.GradientTape() as tape:
                value, metrics, error = loss(policy.action_values, target.action_values, own)
                value = with_own_losses(policy.model, value)
            norm = self.learner.apply_gradient(tape, value, max_gradient_norm)
            return {"loss": value, **metrics, "gradient_norm": norm}, error

        if strategy is None:
            return own_step(transitions)
        self.check_batch_size(transitions.action.shape[0])
        metrics, error = strategy.run(own_step, args=(transitions,))
        return self.learner.mean_over_replicas(metrics), tf.concat(strategy.experimental_local_results(error), axis=0)

    def _share(self, whole: Transitions) -> Transitions:
        """This replica's rows of a worker's batch."""
        if self.learner.strategy is None:
            return whole
        local = self.learner.local_replicas
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group % local
        own = whole.action.shape[0] // local
        return tf.nest.map_structure(lambda x: x[replica * own : (replica + 1) * own], whole)
