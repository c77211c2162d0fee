"""Pendulum as a TensorFlow graph: N pendulums, each to be swung up and held, stepped together."""

from __future__ import annotations

import math
from typing import NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf

from kerasrl_pg.checks import as_integer
from kerasrl_pg.envs.tensor_env import auto_reset, reset_noise, validate_action
from kerasrl_pg.types import Step

GRAVITY = 10.0  # m/s²
MASS = 1.0  # kg
LENGTH = 1.0  # m
TIME_STEP = 0.05  # s
TORQUE_LIMIT = 2.0  # N m
ANGULAR_VELOCITY_LIMIT = 8.0  # rad/s
INITIAL_ANGULAR_VELOCITY = 1.0  # rad/s; episodes start uniform within ± this, at any angle


class PendulumState(NamedTuple):
    """The physical state of N pendulums."""

    angle: tf.Tensor
    """[N] rad from upright, not wrapped: an episode of 200 steps stays within 84 rad."""
    angular_velocity: tf.Tensor
    """[N] rad/s."""
    elapsed: tf.Tensor
    """[N] int32 steps since the episode began."""


def dynamics(state: PendulumState, action: tf.Tensor) -> tuple[PendulumState, tf.Tensor, tf.Tensor]:
    """One semi-implicit Euler step, without time limit or reset.

    r = -(θ² + 0.1 θ'² + 0.001 u²),  θ' ← clip(θ' + (3g/2l sin θ + 3u/(m l²)) Δt),  θ ← θ + θ' Δt

    Source: Gymnasium's `Pendulum-v1`.

    Args:
        state: [N] each.
        action: [N, 1] float32 torque in N m; u is its value clipped to ±2.

    Returns:
        `(next_state, reward, terminated)`: reward [N] float32 is that of the state before the step, with θ in
        [-π, π]; terminated [N] bool is never True.

    Example:
        >>> upright = PendulumState(tf.zeros([1]), tf.zeros([1]), tf.zeros([1], tf.int32))
        >>> next_state, reward, terminated = dynamics(upright, tf.constant([[0.0]]))
        >>> float(next_state.angle[0]), abs(float(reward[0])), bool(terminated[0])
        (0.0, 0.0, False)
    """
    torque = tf.clip_by_value(tf.squeeze(action, axis=-1), -TORQUE_LIMIT, TORQUE_LIMIT)  # [N, 1] -> [N]
    angle = state.angle - 2 * math.pi * tf.round(state.angle / (2 * math.pi))  # into [-π, π]
    cost = tf.square(angle) + 0.1 * tf.square(state.angular_velocity) + 0.001 * tf.square(torque)
    acceleration = 3.0 * GRAVITY / (2.0 * LENGTH) * tf.sin(state.angle) + 3.0 / (MASS * LENGTH**2) * torque
    angular_velocity = tf.clip_by_value(
        state.angular_velocity + TIME_STEP * acceleration, -ANGULAR_VELOCITY_LIMIT, ANGULAR_VELOCITY_LIMIT
    )
    next_state = PendulumState(
        angle=state.angle + TIME_STEP * angular_velocity,
        angular_velocity=angular_velocity,
        elapsed=state.elapsed + 1,
    )
    return next_state, -cost, tf.zeros_like(cost, tf.bool)


class Pendulum:
    """N copies of Gymnasium's `Pendulum-v1`: stay upright at little effort, for exactly 200 steps.

    The observation is [cos θ, sin θ, θ']; the action is a torque in [-2, 2] N m. Rewards lie in [-16.3, 0];
    episodes never terminate, the time limit truncates them.

    Differences from the original: the state is float32, not float64 (one step agrees to float32 rounding);
    reset states have the same distribution but come from TensorFlow's stateless generator; episodes that
    ended restart within the step; gravity is fixed, no rendering.

    Args:
        num_envs: N, at least 1.

    Raises:
        ValueError: If `num_envs` is not a positive int.

    Example:
        >>> env = Pendulum(num_envs=8)
        >>> state, observation = env.reset(tf.constant([0, 0]))
        >>> state, step = env.step(state, tf.zeros([8, 1]), tf.constant([0, 1]))
        >>> step.observation.shape, bool(step.reward[0] < 0)
        (TensorShape([8, 3]), True)
    """

    def __init__(self, num_envs: int):
        high = np.array([1, 1, ANGULAR_VELOCITY_LIMIT], np.float32)
        self.observation_space: gymnasium.Space = gymnasium.spaces.Box(-high, high, dtype=np.float32)
        self.action_space: gymnasium.Space = gymnasium.spaces.Box(-TORQUE_LIMIT, TORQUE_LIMIT, (1,), np.float32)
        self.num_envs = as_integer("num_envs", num_envs)
        self.max_episode_steps: int | None = 200
        self.gymnasium_id: str | None = "Pendulum-v1"

    def reset(self, seed: tf.Tensor) -> tuple[PendulumState, tf.Tensor]:
        """Start N episodes; `seed` is [2] int32. Returns `(state, observation [N, 3])`."""
        state = _initial_state(self.num_envs, seed)
        return state, _observe(state)

    def step(self, state: PendulumState, action: tf.Tensor, seed: tf.Tensor) -> tuple[PendulumState, Step]:
        """Step N environments by `action` [N, 1] float; those that ended restart. Returns `(state, Step)`."""
        action = validate_action(action, self.action_space, self.num_envs)
        state, reward, terminated = dynamics(state, action)
        truncated = state.elapsed >= self.max_episode_steps
        final_observation = _observe(state)
        fresh = _initial_state(self.num_envs, seed)
        state, observation = auto_reset(
            tf.logical_or(terminated, truncated), (fresh, _observe(fresh)), (state, final_observation)
        )
        return state, Step(observation, reward, terminated, truncated, final_observation)


def _initial_state(num_envs: int, seed: tf.Tensor) -> PendulumState:
    angle, angular_velocity = reset_noise(seed, num_components=2, num_envs=num_envs)  # [N] each
    return PendulumState(
        angle=math.pi * angle,
        angular_velocity=INITIAL_ANGULAR_VELOCITY * angular_velocity,
        elapsed=tf.zeros([num_envs], tf.int32),
    )


def _observe(state: PendulumState) -> tf.Tensor:
    return tf.stack([tf.cos(state.angle), tf.sin(state.angle), state.angular_velocity], axis=-1)  # [N, 3]
