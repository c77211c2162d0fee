"""Grid worlds as a TensorFlow graph: N agents, each walking to its goal, stepped together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf

from kerasrl_pg.checks import as_integer
from kerasrl_pg.envs.gridworld_gymnasium import GRIDWORLD_ID, MAX_EPISODE_STEPS
from kerasrl_pg.envs.gridworld_layout import (
    ACTIONS,
    GOAL_REWARD,
    WALL_REWARD,
    Cell,
    next_cells,
    read_layout,
)
from kerasrl_pg.envs.gridworld_observations import observation_space_of
from kerasrl_pg.envs.tensor_env import auto_reset, validate_action
from kerasrl_pg.types import Step

DEFAULTS = ("simple", "index", False, MAX_EPISODE_STEPS)


class GridWorldState(NamedTuple):
    """Where everything is in N grids; cells are numbered row by row, y · W + x."""

    agent: tf.Tensor
    """[N] int32 cell."""
    goal: tf.Tensor
    """[N] int32 cell."""
    elapsed: tf.Tensor
    """[N] int32 steps since the episode began."""


class GridWorld:
    """N copies of `kerasrl_pg/GridWorld-v0`: walk to the goal without touching the walls.

    The rules, the tasks and the kinds of observation are those of `GridWorldEnv`: actions are 0 up, 1 right, 2 down,
    3 left; a wall costs -5 and the agent stays, the goal pays +10 and terminates. Goals that are drawn have the same
    distribution but come from TensorFlow's stateless generator; episodes that ended restart within the step; an
    "index" is int32; there is no rendering, and an action outside {0, 1, 2, 3} is not always refused.

    Args:
        num_envs: N, at least 1.
        task: "simple", "obstacle", "random_goal", or the rows of a layout of your own: see `read_layout`.
        observation: "index", "one_hot", "grid" or "coordinates": see `observe`.
        randomize_goals: draw the goal for each episode.
        max_episode_steps: the time limit in steps, at least 1.

    Raises:
        ValueError: an unknown task or observation, a layout that `read_layout` refuses, or a `num_envs` or
            `max_episode_steps` that is not a positive int.

    Example:
        >>> env = GridWorld(num_envs=8, task="obstacle", observation="coordinates")
        >>> state, observation = env.reset(tf.constant([0, 0]))
        >>> state, step = env.step(state, tf.ones([8], tf.int32), tf.constant([0, 1]))
        >>> step.observation[0].numpy().tolist()
        [2.0, 3.0, 2.0, 8.0]
    """

    def __init__(
        self,
        num_envs: int,
        task: str | Sequence | np.ndarray = "simple",
        observation: str = "index",
        randomize_goals: bool = False,
        max_episode_steps: int = MAX_EPISODE_STEPS,
    ):
        self.layout = read_layout(task, randomize_goals)
        self.observation_space: gymnasium.Space = observation_space_of(self.layout, observation)
        self.action_space: gymnasium.Space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.num_envs = as_integer("num_envs", num_envs)
        self.max_episode_steps: int | None = as_integer("max_episode_steps", max_episode_steps)
        # The id stands for the default options: with others, agents are evaluated on this environment itself.
        is_default = isinstance(task, str) and (task, observation, randomize_goals, max_episode_steps) == DEFAULTS
        self.gymnasium_id: str | None = GRIDWORLD_ID if is_default else None
        self._observation = observation
        self._next_cell = next_cells(self.layout.walls)  # [H · W, 4]

    def reset(self, seed: tf.Tensor) -> tuple[GridWorldState, tf.Tensor]:
        """Start N episodes; `seed` is [2] int32. Returns `(state, observation [N, *observation])`."""
        state = self._initial_state(seed)
        return state, self._observe(state)

    def step(self, state: GridWorldState, action: tf.Tensor, seed: tf.Tensor) -> tuple[GridWorldState, Step]:
        """Step N environments by `action` [N] int; those that ended restart. Returns `(state, Step)`."""
        action = tf.cast(validate_action(action, self.action_space, self.num_envs), tf.int32)
        agent = tf.gather_nd(self._next_cell, tf.stack([state.agent, action], axis=-1))  # [N, 2] -> [N]
        terminated = tf.equal(agent, state.goal)
        # No action leaves the agent where it is, but for a wall.
        reward = tf.where(terminated, GOAL_REWARD, tf.where(tf.equal(agent, state.agent), WALL_REWARD, 0.0))
        state = GridWorldState(agent, state.goal, state.elapsed + 1)
        truncated = state.elapsed >= self.max_episode_steps
        final_observation = self._observe(state)
        fresh = self._initial_state(seed)
        state, observation = auto_reset(
            tf.logical_or(terminated, truncated), (fresh, self._observe(fresh)), (state, final_observation)
        )
        return state, Step(observation, reward, terminated, truncated, final_observation)

    def _initial_state(self, seed: tf.Tensor) -> GridWorldState:
        starts, goals = self._numbers(self.layout.starts), self._numbers(self.layout.goals)
        noise = tf.random.stateless_uniform([2, self.num_envs], seed, None, None, tf.int32, alg="philox")  # all 2³²
        start = tf.math.floormod(noise[0], len(starts))  # [N]
        if self.layout.goal is not None:
            goal = tf.fill([self.num_envs], goals[0])  # [N]
        else:
            # Uniform over all but the start: drawn from one less, and from the start on one further.
            rank = tf.math.floormod(noise[1], len(goals) - 1)  # [N]
            start_rank = tf.gather(np.searchsorted(goals, starts).astype(np.int32), start)  # [N]
            goal = tf.gather(goals, rank + tf.cast(rank >= start_rank, tf.int32))  # [N]
        return GridWorldState(tf.gather(starts, start), goal, tf.zeros([self.num_envs], tf.int32))

    def _observe(self, state: GridWorldState) -> tf.Tensor:
        height, width = self.layout.walls.shape
        if self._observation == "index":
            return state.agent
        if self._observation == "coordinates":
            cells = [state.agent // width, state.agent % width, state.goal // width, state.goal % width]
            return tf.cast(tf.stack(cells, axis=-1), tf.float32)  # [N, 4]
        shape = [self.num_envs, height, width]
        agent = tf.reshape(tf.one_hot(state.agent, height * width), shape)  # [N] -> [N, H, W]
        if self._observation == "one_hot":
            return agent
        goal = tf.reshape(tf.one_hot(state.goal, height * width), shape)  # [N] -> [N, H, W]
        walls = tf.broadcast_to(self.layout.walls.astype(np.float32), shape)  # [H, W] -> [N, H, W]
        return tf.stack([walls, agent, goal], axis=-1)  # [N, H, W, 3]

    def _numbers(self, cells: tuple[Cell, ...]) -> np.ndarray:
        """[len(cells)] int32, ascending as cells stand in reading order."""
        return np.array([y * self.layout.walls.shape[1] + x for y, x in cells], np.int32)
