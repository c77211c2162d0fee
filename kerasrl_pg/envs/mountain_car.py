"""MountainCar and MountainCarContinuous as TensorFlow graphs: N cars too weak for their hill."""

from __future__ import annotations

from typing import NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf

from kerasrl_pg.checks import as_integer
from kerasrl_pg.envs.tensor_env import auto_reset, reset_noise, validate_action
from kerasrl_pg.types import Step

# Lengths and times have no physical unit here.
GRAVITY = 0.0025
FORCE = 0.001  # of the discrete car
POWER = 0.0015  # of the continuous car at full throttle
POSITION_LOW, POSITION_HIGH = -1.2, 0.6
SPEED_LIMIT = 0.07
GOAL_POSITION = 0.5  # of the discrete car
CONTINUOUS_GOAL_POSITION = 0.45
INITIAL_POSITION, INITIAL_RANGE = -0.5, 0.1  # episodes start at rest, uniform within -0.5 ± 0.1


class MountainCarState(NamedTuple):
    """The physical state of N cars."""

    position: tf.Tensor
    """[N] along the horizontal axis; the valley's floor is at -π/6."""
    velocity: tf.Tensor
    """[N] per step."""
    elapsed: tf.Tensor
    """[N] int32 steps since the episode began."""


def dynamics(state: MountainCarState, action: tf.Tensor) -> tuple[MountainCarState, tf.Tensor, tf.Tensor]:
    """One step of the discrete car, without time limit or reset.

    v ← clip(v + 0.001 (a - 1) - 0.0025 cos 3x),  x ← clip(x + v)

    Source: Sutton and Barto 2018, example 10.1; constants from Gymnasium.

    Args:
        state: [N] each.
        action: [N] int; 0 accelerates to the left, 1 not at all, 2 to the right.

    Returns:
        `(next_state, reward, terminated)`: reward [N] float32 is -1 on every step; terminated [N] bool is
        True from position 0.5 on, unless the car rolls backwards.

    Example:
        >>> state, observation = MountainCar(num_envs=2).reset(tf.constant([0, 0]))
        >>> next_state, reward, terminated = dynamics(state, tf.constant([0, 2]))
        >>> reward.numpy().tolist(), terminated.numpy().tolist()
        ([-1.0, -1.0], [False, False])
    """
    next_state = _move(state, FORCE * (tf.cast(action, tf.float32) - 1.0))
    return next_state, -tf.ones_like(next_state.position), _at_goal(next_state, GOAL_POSITION)


def continuous_dynamics(state: MountainCarState, action: tf.Tensor) -> tuple[MountainCarState, tf.Tensor, tf.Tensor]:
    """One step of the continuous car, without time limit or reset.

    v ← clip(v + 0.0015 clip(a, -1, 1) - 0.0025 cos 3x),  x ← clip(x + v),  r = 100 [goal] - 0.1 a²

    Source: Moore 1990, "Efficient memory-based learning for robot control"; constants from Gymnasium.

    Args:
        state: [N] each.
        action: [N, 1] float32 throttle. The force is clipped to ±1; the cost is not, as in Gymnasium.

    Returns:
        `(next_state, reward, terminated)`: reward and terminated [N]; terminated is True from position 0.45
        on, unless the car rolls backwards.

    Example:
        >>> state, observation = MountainCarContinuous(num_envs=2).reset(tf.constant([0, 0]))
        >>> next_state, reward, terminated = continuous_dynamics(state, tf.constant([[0.0], [1.0]]))
        >>> [round(float(r), 3) for r in reward], terminated.numpy().tolist()
        ([0.0, -0.1], [False, False])
    """
    throttle = tf.squeeze(action, axis=-1)  # [N, 1] -> [N]
    next_state = _move(state, POWER * tf.clip_by_value(throttle, -1.0, 1.0))
    terminated = _at_goal(next_state, CONTINUOUS_GOAL_POSITION)
    return next_state, tf.where(terminated, 100.0, 0.0) - 0.1 * tf.square(throttle), terminated


class MountainCar:
    """N copies of Gymnasium's `MountainCar-v0`: -1 per step until the car is up the hill, at most 200 steps.

    The observation is [position, velocity]; actions are 0 (left), 1 (coast) and 2 (right). Solved at a mean
    return of -110.

    Differences from the original: the state is float32, not float64; reset states have the same distribution
    but come from TensorFlow's stateless generator; episodes that ended restart within the step; no goal
    velocity, no rendering, and an action outside {0, 1, 2} is not refused.

    Args:
        num_envs: N, at least 1.

    Raises:
        ValueError: If `num_envs` is not a positive int.

    Example:
        >>> env = MountainCar(num_envs=8)
        >>> state, observation = env.reset(tf.constant([0, 0]))
        >>> state, step = env.step(state, tf.ones([8], tf.int32), tf.constant([0, 1]))
        >>> step.observation.shape, float(step.reward[0])
        (TensorShape([8, 2]), -1.0)
    """

    def __init__(self, num_envs: int):
        self.observation_space: gymnasium.Space = _observation_space()
        self.action_space: gymnasium.Space = gymnasium.spaces.Discrete(3)
        self.num_envs = as_integer("num_envs", num_envs)
        self.max_episode_steps: int | None = 200
        self.gymnasium_id: str | None = "MountainCar-v0"

    def reset(self, seed: tf.Tensor) -> tuple[MountainCarState, tf.Tensor]:
        """Start N episodes; `seed` is [2] int32. Returns `(state, observation [N, 2])`."""
        state = _initial_state(self.num_envs, seed)
        return state, _observe(state)

    def step(self, state: MountainCarState, action: tf.Tensor, seed: tf.Tensor) -> tuple[MountainCarState, Step]:
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


class MountainCarContinuous:
    """N copies of Gymnasium's `MountainCarContinuous-v0`: +100 at the top, less the fuel, at most 999 steps.

    The observation is [position, velocity]; the action is a throttle in [-1, 1]. Solved at a mean return of
    90.

    Differences from the original: the state is float32 throughout (the original stores float32 but starts
    from float64); reset states have the same distribution but come from TensorFlow's stateless generator;
    episodes that ended restart within the step; no goal velocity, no rendering.

    Args:
        num_envs: N, at least 1.

    Raises:
        ValueError: If `num_envs` is not a positive int.

    Example:
        >>> env = MountainCarContinuous(num_envs=8)
        >>> state, observation = env.reset(tf.constant([0, 0]))
        >>> state, step = env.step(state, tf.zeros([8, 1]), tf.constant([0, 1]))
        >>> step.observation.shape, float(step.reward[0])
        (TensorShape([8, 2]), 0.0)
    """

    def __init__(self, num_envs: int):
        self.observation_space: gymnasium.Space = _observation_space()
        self.action_space: gymnasium.Space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.num_envs = as_integer("num_envs", num_envs)
        self.max_episode_steps: int | None = 999
        self.gymnasium_id: str | None = "MountainCarContinuous-v0"

    def reset(self, seed: tf.Tensor) -> tuple[MountainCarState, tf.Tensor]:
        """Start N episodes; `seed` is [2] int32. Returns `(state, observation [N, 2])`."""
        state = _initial_state(self.num_envs, seed)
        return state, _observe(state)

    def step(self, state: MountainCarState, action: tf.Tensor, seed: tf.Tensor) -> tuple[MountainCarState, Step]:
        """Step N environments by `action` [N, 1] float; those that ended restart. Returns `(state, Step)`."""
        action = validate_action(action, self.action_space, self.num_envs)
        state, reward, terminated = continuous_dynamics(state, action)
        truncated = state.elapsed >= self.max_episode_steps
        final_observation = _observe(state)
        fresh = _initial_state(self.num_envs, seed)
        state, observation = auto_reset(
            tf.logical_or(terminated, truncated), (fresh, _observe(fresh)), (state, final_observation)
        )
        return state, Step(observation, reward, terminated, truncated, final_observation)


def _move(state: MountainCarState, push: tf.Tensor) -> MountainCarState:
    velocity = state.velocity + push - GRAVITY * tf.cos(3 * state.position)
    velocity = tf.clip_by_value(velocity, -SPEED_LIMIT, SPEED_LIMIT)
    position = tf.clip_by_value(state.position + velocity, POSITION_LOW, POSITION_HIGH)
    # The left wall stops the car; the right one does not, as in Gymnasium.
    against_wall = tf.logical_and(position <= POSITION_LOW, velocity < 0)
    return MountainCarState(position, tf.where(against_wall, 0.0, velocity), state.elapsed + 1)


def _at_goal(state: MountainCarState, goal_position: float) -> tf.Tensor:
    return tf.logical_and(state.position >= goal_position, state.velocity >= 0)


def _observation_space() -> gymnasium.Space:
    low = np.array([POSITION_LOW, -SPEED_LIMIT], np.float32)
    high = np.array([POSITION_HIGH, SPEED_LIMIT], np.float32)
    return gymnasium.spaces.Box(low, high, dtype=np.float32)


def _initial_state(num_envs: int, seed: tf.Tensor) -> MountainCarState:
    (noise,) = reset_noise(seed, num_components=1, num_envs=num_envs)  # [N]
    return MountainCarState(
        position=INITIAL_POSITION + INITIAL_RANGE * noise,
        velocity=tf.zeros([num_envs]),
        elapsed=tf.zeros([num_envs], tf.int32),
    )


def _observe(state: MountainCarState) -> tf.Tensor:
    return tf.stack([state.position, state.velocity], axis=-1)  # [N, 2]
