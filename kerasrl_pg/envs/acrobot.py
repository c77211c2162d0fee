"""Acrobot as a TensorFlow graph: N two-link pendulums, driven at the elbow only, stepped together."""

from __future__ import annotations

import math
from typing import NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf

from kerasrl_pg.checks import as_integer
from kerasrl_pg.envs.tensor_env import auto_reset, reset_noise, validate_action
from kerasrl_pg.types import Step

GRAVITY = 9.8  # m/s²
LINK_MASS = 1.0  # kg, of each link
LINK_LENGTH = 1.0  # m, of the first link
LINK_CENTRE = 0.5  # m, from a link's joint to its centre of mass
LINK_INERTIA = 1.0  # kg m², moment of inertia of each link
TIME_STEP = 0.2  # s
ANGULAR_VELOCITY_LIMIT_1 = 4 * math.pi  # rad/s
ANGULAR_VELOCITY_LIMIT_2 = 9 * math.pi  # rad/s
GOAL_HEIGHT = 1.0  # m above the first joint
INITIAL_RANGE = 0.1  # every component of the state starts uniform within ± this


class AcrobotState(NamedTuple):
    """The physical state of N acrobots."""

    angle_1: tf.Tensor
    """[N] rad in [-π, π], of the first link from hanging down."""
    angle_2: tf.Tensor
    """[N] rad in [-π, π], of the second link from the direction of the first."""
    angular_velocity_1: tf.Tensor
    """[N] rad/s."""
    angular_velocity_2: tf.Tensor
    """[N] rad/s."""
    elapsed: tf.Tensor
    """[N] int32 steps since the episode began."""


def dynamics(state: AcrobotState, action: tf.Tensor) -> tuple[AcrobotState, tf.Tensor, tf.Tensor]:
    """One step of fourth-order Runge-Kutta, without time limit or reset.

    y' = f(y, τ),  y ← y + Δt (k₁ + 2 k₂ + 2 k₃ + k₄) / 6

    Source: Sutton and Barto 1998, section 11.3, the equations of motion; integrator and constants from
    Gymnasium.

    Args:
        state: [N] each.
        action: [N] int; the torque on the elbow is action - 1 newton metres.

    Returns:
        `(next_state, reward, terminated)`: reward [N] float32 is -1, and 0 on the step that reaches the goal;
        terminated [N] bool is True when the free end is more than 1 m above the first joint.

    Example:
        >>> state, observation = Acrobot(num_envs=2).reset(tf.constant([0, 0]))
        >>> next_state, reward, terminated = dynamics(state, tf.constant([0, 2]))
        >>> reward.numpy().tolist(), terminated.numpy().tolist()
        ([-1.0, -1.0], [False, False])
    """
    torque = tf.cast(action, tf.float32) - 1.0
    start: _Vector = (state.angle_1, state.angle_2, state.angular_velocity_1, state.angular_velocity_2)
    slope_1 = _derivative(start, torque)
    slope_2 = _derivative(_advance(start, slope_1, TIME_STEP / 2), torque)
    slope_3 = _derivative(_advance(start, slope_2, TIME_STEP / 2), torque)
    slope_4 = _derivative(_advance(start, slope_3, TIME_STEP), torque)
    angle_1, angle_2, angular_velocity_1, angular_velocity_2 = (
        y + TIME_STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        for y, k1, k2, k3, k4 in zip(start, slope_1, slope_2, slope_3, slope_4, strict=True)
    )
    next_state = AcrobotState(
        angle_1=_wrap(angle_1),
        angle_2=_wrap(angle_2),
        angular_velocity_1=tf.clip_by_value(angular_velocity_1, -ANGULAR_VELOCITY_LIMIT_1, ANGULAR_VELOCITY_LIMIT_1),
        angular_velocity_2=tf.clip_by_value(angular_velocity_2, -ANGULAR_VELOCITY_LIMIT_2, ANGULAR_VELOCITY_LIMIT_2),
        elapsed=state.elapsed + 1,
    )
    height = -tf.cos(next_state.angle_1) - tf.cos(next_state.angle_1 + next_state.angle_2)
    terminated = height > GOAL_HEIGHT
    return next_state, tf.where(terminated, 0.0, -1.0), terminated


class Acrobot:
    """N copies of Gymnasium's `Acrobot-v1`: -1 per step until the free end swings up, at most 500 steps.

    The observation is [cos θ₁, sin θ₁, cos θ₂, sin θ₂, θ₁', θ₂']; actions 0, 1, 2 are a torque of -1, 0, +1
    on the elbow. Solved at a mean return of -100.

    Differences from the original: the state is float32, not float64 (one step agrees to float32 rounding;
    episodes drift apart since the system is chaotic); reset states have the same distribution but come from
    TensorFlow's stateless generator; episodes that ended restart within the step; only the book's dynamics,
    no torque noise, no rendering, and an action outside {0, 1, 2} is not refused.

    Args:
        num_envs: N, at least 1.

    Raises:
        ValueError: If `num_envs` is not a positive int.

    Example:
        >>> env = Acrobot(num_envs=8)
        >>> state, observation = env.reset(tf.constant([0, 0]))
        >>> state, step = env.step(state, tf.ones([8], tf.int32), tf.constant([0, 1]))
        >>> step.observation.shape, float(step.reward[0])
        (TensorShape([8, 6]), -1.0)
    """

    def __init__(self, num_envs: int):
        high = np.array([1, 1, 1, 1, ANGULAR_VELOCITY_LIMIT_1, ANGULAR_VELOCITY_LIMIT_2], np.float32)
        self.observation_space: gymnasium.Space = gymnasium.spaces.Box(-high, high, dtype=np.float32)
        self.action_space: gymnasium.Space = gymnasium.spaces.Discrete(3)
        self.num_envs = as_integer("num_envs", num_envs)
        self.max_episode_steps: int | None = 500
        self.gymnasium_id: str | None = "Acrobot-v1"

    def reset(self, seed: tf.Tensor) -> tuple[AcrobotState, tf.Tensor]:
        """Start N episodes; `seed` is [2] int32. Returns `(state, observation [N, 6])`."""
        state = _initial_state(self.num_envs, seed)
        return state, _observe(state)

    def step(self, state: AcrobotState, action: tf.Tensor, seed: tf.Tensor) -> tuple[AcrobotState, Step]:
        """Step N environments by `action` [N] int; those that ended restart. Returns `(state, Step)`."""
        action = validate_action(action, self.action_space, self.num_envs)
        state, reward, terminated = dynamics(state, action)
        truncated = state.elapsed >= self.max_episode_steps
        final_observation = _observe(state)
        fresh = _initial_state(self.num_envs, seed)
        state, observation = auto_reset(
            tf.logical_or(terminated, truncated), (fresh, _observe(fresh)), (state, final_observation)
        )
        return state, Step(observation, reward, terminated, truncated, final_observation)


_Vector = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]  # θ₁, θ₂, θ₁', θ₂' or their derivatives, [N] each


def _derivative(y: _Vector, torque: tf.Tensor) -> _Vector:
    """The equations of motion; `d1`, `d2`, `phi1`, `phi2` are named as in the book.

    cos(x - π/2) is written sin(x), and the moments of inertia that both links share are added up once.
    """
    angle_1, angle_2, velocity_1, velocity_2 = y
    coupling = LINK_MASS * LINK_LENGTH * LINK_CENTRE
    moment = LINK_MASS * LINK_CENTRE**2 + LINK_INERTIA
    sin_2, cos_2 = tf.sin(angle_2), tf.cos(angle_2)

    d1 = 2 * moment + LINK_MASS * LINK_LENGTH**2 + 2 * coupling * cos_2
    d2 = moment + coupling * cos_2
    phi2 = LINK_MASS * LINK_CENTRE * GRAVITY * tf.sin(angle_1 + angle_2)
    phi1 = (
        -coupling * velocity_2 * (velocity_2 + 2 * velocity_1) * sin_2
        + LINK_MASS * (LINK_CENTRE + LINK_LENGTH) * GRAVITY * tf.sin(angle_1)
        + phi2
    )
    ratio = d2 / d1
    acceleration_2 = (torque + ratio * phi1 - coupling * tf.square(velocity_1) * sin_2 - phi2) / (moment - d2 * ratio)
    acceleration_1 = -ratio * acceleration_2 - phi1 / d1
    return velocity_1, velocity_2, acceleration_1, acceleration_2


def _advance(y: _Vector, slope: _Vector, time: float) -> _Vector:
    return (y[0] + time * slope[0], y[1] + time * slope[1], y[2] + time * slope[2], y[3] + time * slope[3])


def _wrap(angle: tf.Tensor) -> tf.Tensor:
    return angle - 2 * math.pi * tf.round(angle / (2 * math.pi))  # into [-π, π]


def _initial_state(num_envs: int, seed: tf.Tensor) -> AcrobotState:
    noise = reset_noise(seed, num_components=4, num_envs=num_envs)  # 4 times [N]
    angle_1, angle_2, velocity_1, velocity_2 = (INITIAL_RANGE * component for component in noise)
    return AcrobotState(angle_1, angle_2, velocity_1, velocity_2, tf.zeros([num_envs], tf.int32))


def _observe(state: AcrobotState) -> tf.Tensor:
    angles = (tf.cos(state.angle_1), tf.sin(state.angle_1), tf.cos(state.angle_2), tf.sin(state.angle_2))
    return tf.stack([*angles, state.angular_velocity_1, state.angular_velocity_2], axis=-1)  # [N, 6]
