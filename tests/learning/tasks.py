"""Tasks that are small enough for the best score to be known exactly, as TensorFlow graphs and in Gymnasium.

Every one keeps the contract of `kerasrl_pg.types.TensorEnv` without a word more than it needs.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg.envs.tensor_env import auto_reset, reset_noise
from kerasrl_pg.types import Step


class Identity:
    """Do what you see: the reward is 1 for an action that equals the observation, in part for one that does in part.

    Of a Box the reward is minus the mean squared difference, so that the best is 0. An episode is cut after 8 steps.
    """

    max_episode_steps: int | None = 8
    gymnasium_id: str | None = None

    def __init__(self, space: spaces.Space, num_envs: int = 16):
        self.observation_space = self.action_space = space
        self.num_envs = num_envs

    def reset(self, seed: tf.Tensor) -> tuple[Any, Any]:
        elapsed, observation = tf.zeros([self.num_envs], tf.int32), self._draw(seed)
        return (elapsed, observation), observation

    def step(self, state: Any, action: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Step]:
        elapsed, observation = state
        elapsed, following = elapsed + 1, self._draw(seed)
        truncated = elapsed == self.max_episode_steps
        terminated = tf.zeros_like(truncated)
        elapsed = tf.where(truncated, 0, elapsed)
        # The next observation is drawn anew whether an episode ends or not.
        step = Step(following, self._reward(observation, action), terminated, truncated, following)
        return (elapsed, following), step

    def _draw(self, seed: tf.Tensor) -> tf.Tensor:
        shape = [self.num_envs, *self.observation_space.shape]
        noise = reset_noise(seed, math.prod(self.observation_space.shape), self.num_envs)  # D times [N]
        noise = tf.reshape(tf.stack(noise, axis=-1), shape)  # [N, *shape] from -1 to 1
        match self.observation_space:
            case spaces.Box():
                return noise
            case spaces.MultiBinary():
                return tf.cast(noise < 0, tf.uint8)
            case spaces.MultiDiscrete():
                sizes = self.observation_space.nvec
            case _:
                sizes = np.array(self.observation_space.n)
        return tf.minimum(tf.cast((noise + 1) / 2 * sizes, tf.int32), sizes - 1)

    def _reward(self, observation: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        if isinstance(self.action_space, spaces.Box):
            score = -tf.square(action - observation)  # [N, *shape]
        else:
            score = tf.cast(tf.cast(action, tf.int32) == tf.cast(observation, tf.int32), tf.float32)  # [N, *shape]
        return tf.reduce_mean(tf.reshape(score, [self.num_envs, -1]), axis=1)  # [N]


class Corridor:
    """Walk right, 6 steps, to the only reward: credit has to travel back through states that earn nothing.

    Action 1 goes right, 0 goes left; the episode terminates at the end, or is cut after 40 steps.
    """

    length = 6
    observation_space = spaces.Discrete(length)
    action_space = spaces.Discrete(2)
    max_episode_steps: int | None = 40
    gymnasium_id: str | None = None

    def __init__(self, num_envs: int = 16):
        self.num_envs = num_envs

    def reset(self, seed: tf.Tensor) -> tuple[Any, Any]:
        zeros = tf.zeros([self.num_envs], tf.int32)
        return (zeros, zeros), zeros

    def step(self, state: Any, action: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Step]:
        elapsed, place = state
        elapsed, place = elapsed + 1, tf.maximum(place + 2 * tf.cast(action, tf.int32) - 1, 0)
        terminated = place == self.length
        truncated = ~terminated & (elapsed == self.max_episode_steps)
        final = tf.minimum(place, self.length - 1)  # an observation of the space; nothing depends on it
        state, observation = auto_reset(terminated | truncated, self.reset(seed), ((elapsed, place), final))
        return state, Step(observation, tf.cast(terminated, tf.float32), terminated, truncated, final)


class Salary:
    """A reward of 1 for every step, whatever is done, for 10 steps; the observation is the number of steps so far.

    If the tenth step *truncates*, the salary would have gone on: V = 1 / (1 - discount) at every step. If it
    *terminates*, V is the sum of what is left. The count starts over after 10, so that the final observation is one
    whose value can be learned.
    """

    length = 10
    observation_space = spaces.Discrete(length)
    action_space = spaces.Discrete(2)
    max_episode_steps: int | None = length
    gymnasium_id: str | None = None

    def __init__(self, terminates: bool, num_envs: int = 16):
        self.terminates = terminates
        self.num_envs = num_envs

    def reset(self, seed: tf.Tensor) -> tuple[Any, Any]:
        elapsed = tf.zeros([self.num_envs], tf.int32)
        return elapsed, elapsed

    def step(self, state: Any, action: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Step]:
        ended, never = state + 1 == self.length, tf.zeros([self.num_envs], tf.bool)
        final = (state + 1) % self.length
        state, observation = auto_reset(ended, self.reset(seed), (final, final))
        terminated, truncated = (ended, never) if self.terminates else (never, ended)
        return state, Step(observation, tf.ones([self.num_envs]), terminated, truncated, final)


class GymnasiumSalary(gymnasium.Env):
    """`Salary` as an ordinary Gymnasium environment."""

    observation_space = Salary.observation_space
    action_space = Salary.action_space

    def __init__(self, terminates: bool):
        self.terminates = terminates
        self.elapsed = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.elapsed = 0
        return self.elapsed, {}

    def step(self, action):
        self.elapsed += 1
        ended = self.elapsed == Salary.length
        return self.elapsed % Salary.length, 1.0, ended and self.terminates, ended and not self.terminates, {}


def true_values(terminates: bool, discount: float) -> np.ndarray:
    """[10] V after 0, 1, ..., 9 steps of `Salary`."""
    left = Salary.length - np.arange(Salary.length)
    return (1 - discount**left) / (1 - discount) if terminates else np.full(Salary.length, 1 / (1 - discount))
