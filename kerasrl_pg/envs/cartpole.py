"""CartPole as a TensorFlow graph: N carts, each balancing a pole, stepped together."""

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
POLE_MASS = 0.1  # kg
TOTAL_MASS = 1.1  # kg, cart and pole
HALF_LENGTH = 0.5  # m, from the hinge to the pole's centre of mass
FORCE = 10.0  # N, pushed left or right on every step
TIME_STEP = 0.02  # s
POSITION_LIMIT = 2.4  # m
ANGLE_LIMIT = math.radians(12)
INITIAL_RANGE = 0.05  # every component of the state starts uniform within ± this


class CartPoleState(NamedTuple):
    """The physical state of N carts."""

    position: tf.Tensor
    """[N] m, of the cart."""
    velocity: tf.Tensor
    """[N] m/s, of the cart."""
    angle: tf.Tensor
    """[N] rad, of the pole from upright."""
    angular_velocity: tf.Tensor
    """[N] rad/s, of the pole."""
    elapsed: tf.Tensor
    """[N] int32 steps since the episode began."""


def dynamics(state: CartPoleState, action: tf.Tensor) -> tuple[CartPoleState, tf.Tensor, tf.Tensor]:
    """One explicit Euler step, without time limit or reset.

    θ'' = (g sin θ - u cos θ) / (l (4/3 - m cos²θ / M)),  x'' = u - m l θ'' cos θ / M,
    u = (F + m l θ'² sin θ) / M

    Source: Barto, Sutton and Anderson 1983, as corrected by Florian 2007, "Correct equations for the dynamics
    of the cart-pole system", eqs. 23-24 without friction; constants from Gymnasium.

    Args:
        state: [N] each.
        action: [N] int; 1 pushes right, anything else left.

    Returns:
        `(next_state, reward, terminated)`: reward [N] float32 is 1 on every step, also the last one;
        terminated [N] bool is True when the cart leaves ±2.4 m or the pole ±12°.

    Example:
        >>> state, observation = CartPole(num_envs=2).reset(tf.constant([0, 0]))
        >>> next_state, reward, terminated = dynamics(state, tf.constant([0, 1]))
        >>> bool(next_state.velocity[0] < state.velocity[0]), bool(next_state.velocity[1] > state.velocity[1])
        (True, True)
    """
    sin, cos = tf.sin(state.angle), tf.cos(state.angle)
    force = tf.where(tf.equal(action, 1), FORCE, -FORCE)
    push = (force + POLE_MASS * HALF_LENGTH * tf.square(state.angular_velocity) * sin) / TOTAL_MASS
    angular_acceleration = (GRAVITY * sin - push * cos) / (
        HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * tf.square(cos) / TOTAL_MASS)
    )
    acceleration = push - POLE_MASS * HALF_LENGTH * angular_acceleration * cos / TOTAL_MASS
    next_state = CartPoleState(
        position=state.position + TIME_STEP * state.velocity,
        velocity=state.velocity + TIME_STEP * acceleration,
        angle=state.angle + TIME_STEP * state.angular_velocity,
        angular_velocity=state.angular_velocity + TIME_STEP * angular_acceleration,
        elapsed=state.elapsed + 1,
    )
    out_of_bounds = tf.abs(next_state.position) > POSITION_LIMIT
    fallen = tf.abs(next_state.angle) > ANGLE_LIMIT
    return next_state, tf.ones_like(next_state.position), tf.logical_or(out_of_bounds, fallen)


class CartPole:
    """N copies of Gymnasium's `CartPole-v1`: +1 per step until the pole falls, at most 500 steps.

    The observation is [cart position, cart velocity, pole angle, pole angular velocity]; actions are 0 (left)
    and 1 (right). Solved at a mean return of 475.

    Differences from the original: the state is float32, not float64 (one step agrees to float32 rounding;
    episodes drift apart since the system is unstable); reset states have the same distribution but come from
    TensorFlow's stateless generator; episodes that ended restart within the step; there is no Sutton-Barto
    reward, no semi-implicit integrator, no rendering, and an action outside {0, 1} is not refused but pushes
    left.

    Args:
        num_envs: N, at least 1.
        max_episode_steps: The time limit in steps, at least 1.

    Raises:
        ValueError: If `num_envs` or `max_episode_steps` is not a positive int.

    Example:
        >>> env = CartPole(num_envs=8)
        >>> state, observation = env.reset(tf.constant([0, 0]))
        >>> state, step = env.step(state, tf.ones([8], tf.int32), tf.constant([0, 1]))
        >>> step.observation.shape, float(step.reward[0])
        (TensorShape([8, 4]), 1.0)
    """

    def __init__(self, num_envs: int, max_episode_steps: int = 500):
        high = np.array([2 * POSITION_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf], np.float32)
        self.observation_space: gymnasium.Space = gymnasium.spaces.Box(-high, high, dtype=np.float32)
        self.action_space: gymnasium.Space = gymnasium.spaces.Discrete(2)
        self.num_envs = as_integer("num_envs", num_envs)
        self.max_episode_steps: int | None = as_integer("max_episode_steps", max_episode_steps)
        # With another time limit it is evaluated as it is: the original stops after 500 steps.
        self.gymnasium_id: str | None = "CartPole-v1" if max_episode_steps == 500 else None

    def reset(self, seed: tf.Tensor) -> tuple[CartPoleState, tf.Tensor]:
        """Start N episodes; `seed` is [2] int32. Returns `(state, observation [N, 4])`."""
        state = _initial_state(self.num_envs, seed)
        return state, _observe(state)

    def step(self, state: CartPoleState, action: tf.Tensor, seed: tf.Tensor) -> tuple[CartPoleState, Step]:
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


def _initial_state(num_envs: int, seed: tf.Tensor) -> CartPoleState:
    noise = reset_noise(seed, num_components=4, num_envs=num_envs)  # 4 times [N]
    position, velocity, angle, angular_velocity = (INITIAL_RANGE * component for component in noise)
    return CartPoleState(position, velocity, angle, angular_velocity, tf.zeros([num_envs], tf.int32))


def _observe(state: CartPoleState) -> tf.Tensor:
    return tf.stack(state[:4], axis=-1)  # [N, 4]
