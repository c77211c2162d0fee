"""DQN: Q-learning from a replay, with a target network that stands still between copies."""

from __future__ import annotations

import dataclasses

import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule, PolynomialDecay

from kerasrl_pg import ops
from kerasrl_pg.algorithms import validation
from kerasrl_pg.types import Metrics, Transitions

EXPLORATION = PolynomialDecay(1.0, 1_000_000, end_learning_rate=0.1)
"""ε of Mnih et al. 2015, Extended Data Table 1: 1 to 0.1 over a million frames, read as agent steps."""

IMPORTANCE = PolynomialDecay(0.4, 1_000_000, end_learning_rate=1.0)
"""β of Schaul et al. 2016, Table 3: 0.4 to 1, here over a million steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prioritized:
    """Sample transitions by the size of their error: p_i = (|δ_i| + offset)^exponent, P(i) = p_i / Σ p.

    Source: Schaul et al. 2016 (arXiv:1511.05952), section 3.3 and 3.4; new transitions get the largest priority so
    far, importance weights are divided by the largest of their batch.

    Raises:
        ValueError: a hyperparameter out of its range.

    Example:
        >>> Prioritized(exponent=0.7).offset
        0.1
    """

    exponent: float = 0.6
    """How much priorities matter (α); 0 is uniform sampling."""
    offset: float = 0.1
    """Added to the error's size (ε), in units of return, so that nothing is never seen again."""
    importance_exponent: float | LearningRateSchedule = IMPORTANCE
    """How much of the sampling's bias the weights undo (β); a Keras schedule counts environment steps."""

    def __post_init__(self):
        validation.check_range(self, "exponent", 0, 1)
        validation.check_range(self, "offset", 0, float("inf"), above=True)
        validation.check_schedule(self, "importance_exponent", 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DQN:
    """Deep Q-learning, and its variants: each is another target, sampler or model.

    Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning" (Nature 518), algorithm 1.

    | variant | by |
    |---|---|
    | without a target network | `target_every=None` |
    | Double DQN (van Hasselt et al. 2016) | `double=True` |
    | Dueling DQN (Wang et al. 2016) | `model=dueling_q_network(...)` in `fit_agent` |
    | prioritized replay (Schaul et al. 2016) | `sampler=Prioritized()` |
    | n-step targets (Sutton 1988; Hessel et al. 2018) | `n_step=3` |

    Departures from the paper: time limits bootstrap instead of ending the task. The `gradient_steps`
    of one update follow one another; outside the graph their batches are drawn, and priorities told, all at once.

    Raises:
        ValueError: a hyperparameter out of its range, or a replay smaller than a batch.

    Example:
        >>> DQN(double=True, epsilon=0.1).target_every
        10000
    """

    rollout_length: int = 4
    """Steps per environment between updates (T)."""
    gradient_steps: int = 1
    """Gradient steps an update, each on a batch of its own."""
    batch_size: int = 32
    """Transitions a gradient step."""
    discount: float = 0.99
    """Weight of the next step's return, per environment step (γ)."""
    n_step: int = 1
    """Rewards summed before bootstrapping."""
    double: bool = False
    """Choose the next action by the network that learns, value it by the target network."""
    target_every: int | None = 10_000
    """Gradient steps between copies to the target network; None learns from the network's own values."""
    replay_size: int = 1_000_000
    """Transitions that the replay holds."""
    learning_starts: int = 50_000
    """Environment steps before the first gradient step."""
    sampler: Prioritized | None = None
    """How transitions are sampled; None for uniformly."""
    epsilon: float | LearningRateSchedule = EXPLORATION
    """Probability of a random action; a Keras schedule counts environment steps."""
    huber_delta: float | None = 1.0
    """Error beyond which the loss is linear, in units of return; None for the squared error."""
    max_gradient_norm: float | None = None
    """Bound of the gradient's global norm; None for none."""

    learns_action_values = True

    def __post_init__(self):
        for name in ("rollout_length", "gradient_steps", "batch_size", "n_step", "replay_size", "learning_starts"):
            validation.check_count(self, name)
        if self.target_every is not None:
            validation.check_count(self, "target_every")
        validation.check_range(self, "discount", 0, 1)
        validation.check_schedule(self, "epsilon", 0, 1)
        validation.check_switch(self, "double")
        for name in ("huber_delta", "max_gradient_norm"):
            validation.check_range(self, name, 0, float("inf"), above=True, optional=True)
        validation.check_kind(self, "sampler", Prioritized)
        validation.check_replay(self)

    def update(self, learner, transitions: Transitions) -> tuple[Metrics, tf.Tensor]:
        """One gradient step; returns metrics and the errors δ [B], before the step."""
        learner.update_target(every=self.target_every)
        return learner.descend_transitions(self.loss, transitions, max_gradient_norm=self.max_gradient_norm)

    def loss(self, q, target_q, batch: Transitions) -> tuple[tf.Tensor, Metrics, tf.Tensor]:
        """E[w · Huber(δ)] with δ = target - Q(s, a); w are the importance weights."""
        next_q = target_q(batch.next_observation)
        if self.double:
            target = ops.double_q_target(batch.reward, batch.discount, q(batch.next_observation), next_q)
        else:
            target = ops.q_target(batch.reward, batch.discount, next_q)
        action_values = q(batch.observation, training=True)
        error = ops.td_error(action_values, batch.action, target)
        size = 0.5 * tf.square(error) if self.huber_delta is None else ops.huber(error, self.huber_delta)
        return (
            ops.weighted_mean(size, batch.weight),
            {
                "td_error": tf.reduce_mean(tf.abs(error)),
                "action_value": tf.reduce_mean(tf.reduce_max(action_values, axis=-1)),
            },
            error,
        )
