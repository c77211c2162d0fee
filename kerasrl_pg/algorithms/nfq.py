"""NFQ: the replay's Q-learning targets are computed by a frozen copy, fitted, and computed anew."""

from __future__ import annotations

import dataclasses

import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from kerasrl_pg import ops
from kerasrl_pg.algorithms import validation
from kerasrl_pg.types import Metrics, Transitions


@dataclasses.dataclass(frozen=True, kw_only=True)
class NFQ:
    """Neural fitted Q iteration, by minibatches.

    Each update is one iteration of fitted Q: the network is copied, and `gradient_steps` minibatches of the replay
    are regressed on the copy's targets. With `gradient_steps=1` the targets are the network's own.

    Source: Riedmiller 2005, "Neural Fitted Q Iteration". Departures: minibatches of a replay that grows while acting
    ε-greedily and an optimizer of the user's choice, where the paper fits all transitions at once with Rprop; rewards
    are maximised, where the paper minimises costs; time limits bootstrap.

    Raises:
        ValueError: a hyperparameter out of its range, or a replay smaller than a batch.

    Example:
        >>> NFQ(gradient_steps=10).batch_size
        10
    """

    rollout_length: int = 1
    """Steps per environment between updates (T)."""
    gradient_steps: int = 1
    """Gradient steps an update, on the targets of one copy of the network."""
    batch_size: int = 10
    """Transitions a gradient step."""
    discount: float = 0.99
    """Weight of the next step's return, per environment step (γ)."""
    replay_size: int = 100_000
    """Transitions that the replay holds."""
    learning_starts: int = 100
    """Environment steps before the first gradient step."""
    epsilon: float | LearningRateSchedule = 0.6
    """Probability of a random action; a Keras schedule counts environment steps."""
    max_gradient_norm: float | None = None
    """Bound of the gradient's global norm; None for none."""

    learns_action_values = True
    n_step = 1
    sampler = None

    def __post_init__(self):
        for name in ("rollout_length", "gradient_steps", "batch_size", "replay_size", "learning_starts"):
            validation.check_count(self, name)
        validation.check_range(self, "discount", 0, 1)
        validation.check_schedule(self, "epsilon", 0, 1)
        validation.check_range(self, "max_gradient_norm", 0, float("inf"), above=True, optional=True)
        validation.check_replay(self)

    @property
    def target_every(self) -> int:
        """Gradient steps between copies: those of one update."""
        return self.gradient_steps

    def update(self, learner, transitions: Transitions) -> tuple[Metrics, tf.Tensor]:
        """One gradient step; returns metrics and the errors δ [B], before the step."""
        learner.update_target(every=self.target_every)
        return learner.descend_transitions(self.loss, transitions, max_gradient_norm=self.max_gradient_norm)

    def loss(self, q, target_q, batch: Transitions) -> tuple[tf.Tensor, Metrics, tf.Tensor]:
        """E[δ²] with δ = r + γ·max Q⁻(s', ·) - Q(s, a)."""
        target = ops.q_target(batch.reward, batch.discount, target_q(batch.next_observation))
        action_values = q(batch.observation, training=True)
        error = ops.td_error(action_values, batch.action, target)
        return (
            tf.reduce_mean(tf.square(error)),
            {
                "td_error": tf.reduce_mean(tf.abs(error)),
                "action_value": tf.reduce_mean(tf.reduce_max(action_values, axis=-1)),
            },
            error,
        )
