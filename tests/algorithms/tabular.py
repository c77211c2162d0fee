"""A policy that is two tables, logits and values by state, so that losses and gradients can be worked by hand."""

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg.learner import Learner
from kerasrl_pg.models import PolicyModel
from kerasrl_pg.models.preprocessing import OneHot
from kerasrl_pg.types import Rollout


def tabular_learner(logits, values, optimizer: keras.optimizers.Optimizer | None = None) -> Learner:
    """A learner of tables that start at these numbers.

    Args:
        logits: [S, A] one row per state.
        values: [S].
        optimizer: None for plain gradient descent at rate 1, by which tables change by minus the gradient.
    """
    logits, values = np.asarray(logits, np.float32), np.asarray(values, np.float32)
    state = keras.Input((), dtype="int32")
    row = OneHot([len(values)], [0])(state)  # [B, S]
    policy = keras.layers.Dense(logits.shape[1], use_bias=False, name="logits")(row)  # [B, A]
    value = keras.layers.Dense(1, use_bias=False, name="values")(row)  # [B, 1]
    model = keras.Model(state, {"policy": policy, "value": value})
    model.get_layer("logits").kernel.assign(logits)
    model.get_layer("values").kernel.assign(values[:, None])
    action_space = spaces.Discrete(logits.shape[1])
    policy_model = PolicyModel(model, spaces.Discrete(len(values)), action_space)
    return Learner(policy_model, optimizer or keras.optimizers.SGD(1.0))


def tables(learner: Learner) -> tuple[np.ndarray, np.ndarray]:
    """`(logits [S, A], values [S])` as they are now."""
    model = learner.policy.model
    return model.get_layer("logits").kernel.numpy(), model.get_layer("values").kernel.numpy()[:, 0]


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def rollout_on(learner: Learner, state, action, reward, *, terminated=None, truncated=None, valid=None) -> Rollout:
    """A [T, N] rollout by the learner's present tables; the state after the last row is state 0."""
    state, action = np.asarray(state, np.int32), np.asarray(action, np.int32)
    no, yes = np.zeros(state.shape, bool), np.ones(state.shape, bool)
    logits, values = tables(learner)
    value = values[state]  # [T, N]
    following = np.concatenate([value[1:], np.full((1, state.shape[1]), values[0])])  # [T, N]
    terminated = no if terminated is None else np.asarray(terminated)
    log_prob = np.log(np.take_along_axis(softmax(logits)[state], action[..., None], -1)[..., 0])  # [T, N]
    rollout = Rollout(
        observation=state,
        action=action,
        log_prob=log_prob,
        value=value,
        reward=np.asarray(reward, np.float32),
        terminated=terminated,
        truncated=no if truncated is None else np.asarray(truncated),
        next_value=np.where(terminated, np.float32(0), following),
        valid=yes if valid is None else np.asarray(valid),
    )
    return Rollout(*(tf.constant(field) for field in rollout))


def random_rollout(learner: Learner, *, length: int = 8, num_envs: int = 3, seed: int = 0) -> Rollout:
    """Random states, actions, rewards and endings."""
    rng = np.random.default_rng(seed)
    logits, _ = tables(learner)
    shape = (length, num_envs)
    ending = rng.choice(3, shape, p=[0.7, 0.15, 0.15])
    return rollout_on(
        learner,
        rng.integers(0, len(logits), shape),
        rng.integers(0, logits.shape[1], shape),
        rng.normal(size=shape),
        terminated=ending == 1,
        truncated=ending == 2,
    )


def updated(algorithm, logits, values, rollout_of, optimizer=None) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """`(logits, values, metrics)` after one update on `rollout_of(learner)`."""
    learner = tabular_learner(logits, values, optimizer)
    metrics = algorithm.update(learner, rollout_of(learner), tf.constant([0, 1]))
    return *tables(learner), {name: float(value) for name, value in metrics.items()}
