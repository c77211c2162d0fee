"""Action values that are one table, so that losses, gradients and fixed points can be worked by hand.

The task is a road of `STATES` places. Action 1 goes one place to the right for a reward of -1, action 0 stays for -2;
from the last place action 1 ends the task with +10, and action 0 is cut by a limit, for -2 as everywhere.
"""

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg.learner import Learner
from kerasrl_pg.models import QPolicy
from kerasrl_pg.models.preprocessing import OneHot
from kerasrl_pg.q_learner import QLearner
from kerasrl_pg.types import Transitions

STATES, ACTIONS, DISCOUNT = 4, 2, 0.5


def table_policy(values) -> QPolicy:
    """Action values [S, A] as the weights of a linear model of the one-hot state."""
    values = np.asarray(values, np.float32)
    state = keras.Input((), dtype="int32")
    row = OneHot([len(values)], [0])(state)  # [B, S]
    layer = keras.layers.Dense(values.shape[1], use_bias=False)
    model = keras.Model(state, {"action_values": layer(row)})
    layer.kernel.assign(values)
    return QPolicy(model, spaces.Discrete(len(values)), spaces.Discrete(values.shape[1]), epsilon=0.0)


def table_of(policy: QPolicy) -> np.ndarray:
    """[S, A] as it is now."""
    return policy.model.get_weights()[0]


def table_learner(values, target_values=None, optimizer=None) -> QLearner:
    """A learner of a table; without `optimizer`, gradient descent at rate 1, which moves it by minus the gradient."""
    policy = table_policy(values)
    optimizer = optimizer or keras.optimizers.SGD(1.0)
    optimizer.build(policy.model.trainable_variables)
    return QLearner(Learner(policy, optimizer), None if target_values is None else table_policy(target_values))


def transitions(state, action, reward, discount, next_state, weight=None) -> Transitions:
    """[B] each."""
    size = len(state)
    return Transitions(
        observation=tf.constant(state, tf.int32),
        action=tf.constant(action, tf.int32),
        reward=tf.constant(reward, tf.float32),
        discount=tf.constant(discount, tf.float32),
        next_observation=tf.constant(next_state, tf.int32),
        weight=tf.ones([size]) if weight is None else tf.constant(weight, tf.float32),
        index=tf.range(size),
    )


def random_transitions(size: int = 32, seed: int = 0) -> Transitions:
    """Of any n: rewards, discounts of 0 to 1, and importance weights of which the largest is 1."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.2, 1.0, size)
    return transitions(
        rng.integers(STATES, size=size),
        rng.integers(ACTIONS, size=size),
        rng.normal(size=size),
        rng.choice([0.0, 0.5, 0.9, 0.729], size),
        rng.integers(STATES, size=size),
        weight / weight.max(),
    )


def road() -> Transitions:
    """Every transition of the task once: the whole task as one batch."""
    state, action = np.divmod(np.arange(STATES * ACTIONS), ACTIONS)
    ends = (state == STATES - 1) & (action == 1)
    return transitions(
        state,
        action,
        np.where(ends, 10.0, np.where(action == 1, -1.0, -2.0)),
        np.where(ends, 0.0, DISCOUNT),  # a limit's weight is that of every other step
        np.minimum(state + action, STATES - 1),
    )


def best_values() -> np.ndarray:
    """[S, A] the optimal action values of the road, by value iteration until nothing moves."""
    batch = road()
    reward, discount, following = (np.array(x, np.float64) for x in (batch.reward, batch.discount, batch[4]))
    values = np.zeros((STATES, ACTIONS))
    for _ in range(100):
        values = (reward + discount * values.max(axis=1)[following.astype(int)]).reshape(STATES, ACTIONS)
    return values
