"""Grid worlds for Gymnasium. `import kerasrl_pg` imports this module, which registers `kerasrl_pg/GridWorld-v0`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from kerasrl_pg.envs.gridworld_layout import (
    ACTIONS,
    GOAL_REWARD,
    MOVES,
    WALL_REWARD,
    Cell,
    blocked,
    read_layout,
)
from kerasrl_pg.envs.gridworld_observations import observation_space_of, observe
from kerasrl_pg.envs.gridworld_rendering import render_rgb, render_text

GRIDWORLD_ID = "kerasrl_pg/GridWorld-v0"
MAX_EPISODE_STEPS = 200


class GridWorldEnv(gymnasium.Env):
    """Walk to the goal without touching the walls.

    Actions are 0 up, 1 right, 2 down, 3 left. A wall (or the edge) costs -5 and the agent stays; the goal pays +10 and
    terminates; every other step pays 0. An episode begins in the layout's start, one of them if there are several, and
    made through `gymnasium.make` is truncated after 200 steps.

    Source: the grid world of the Neuromatch Academy's deep learning course, W3D4. There, the agent is put back to the
    start in the step that reaches the goal; here, the last observation shows it at the goal.

    Args:
        task: "simple", "obstacle", "random_goal", or the rows of a layout of your own: see `read_layout`.
        observation: "index", "one_hot", "grid" or "coordinates": see `observe`. A goal that is drawn is seen only in
            the last two.
        randomize_goals: draw the goal for each episode, uniformly from the cells that the start leads to. The task
            "random_goal" always does so.
        render_mode: "rgb_array", "ansi" or None.

    Attributes:
        agent: (y, x) of the agent.
        goal: (y, x) of the goal.

    Raises:
        ValueError: an unknown task, observation or render mode, or a layout that `read_layout` refuses.

    Example:
        >>> env = gymnasium.make("kerasrl_pg/GridWorld-v0", task="obstacle", observation="coordinates")
        >>> env.reset(seed=0)[0].tolist()
        [2.0, 2.0, 2.0, 8.0]
        >>> env.step(1)[0].tolist()
        [2.0, 3.0, 2.0, 8.0]
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 6}  # noqa: RUF012

    def __init__(
        self,
        task: str | Sequence | np.ndarray = "simple",
        observation: str = "index",
        randomize_goals: bool = False,
        render_mode: str | None = None,
    ):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        self.layout = read_layout(task, randomize_goals)
        self.observation_space = observation_space_of(self.layout, observation)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.render_mode = render_mode
        self.agent: Cell = self.layout.starts[0]
        self.goal: Cell = self.layout.goals[-1]
        self._observation = observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start an episode; `options` are not used. Returns `(observation, {})`."""
        super().reset(seed=seed)
        self.agent = _drawn(self.np_random, self.layout.starts)
        if self.layout.goal is None:
            self.goal = _drawn(self.np_random, [cell for cell in self.layout.goals if cell != self.agent])
        return self._observe(), {}

    def step(self, action: int):
        """Move. Returns `(observation, reward, terminated, False, {})`.

        Raises:
            ValueError: the action is none of 0, 1, 2, 3.
        """
        if not self.action_space.contains(action):
            names = ", ".join(f"{index} ({name})" for index, name in enumerate(ACTIONS))
            raise ValueError(f"action must be one of {names}, got {action!r}")
        target = (self.agent[0] + MOVES[action][0], self.agent[1] + MOVES[action][1])
        if blocked(self.layout.walls, target):
            return self._observe(), WALL_REWARD, False, False, {}
        self.agent = target
        if target == self.goal:
            return self._observe(), GOAL_REWARD, True, False, {}
        return self._observe(), 0.0, False, False, {}

    def render(self):
        """The picture, [H · 40, W · 40, 3] uint8, or the text that `render_mode` asks for."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() draws nothing: pass render_mode="rgb_array" or "ansi" to gymnasium.make')
            return None
        draw = render_rgb if self.render_mode == "rgb_array" else render_text
        return draw(self.layout.walls, self.agent, self.goal)

    def _observe(self) -> np.ndarray | np.int64:
        return observe(self.layout, self._observation, self.agent, self.goal)


def _drawn(random: np.random.Generator, cells: Sequence[Cell]) -> Cell:
    return cells[int(random.integers(len(cells)))]


# A module may be imported twice (`importlib.reload`); Gymnasium would warn that the id is taken.
if GRIDWORLD_ID not in gymnasium.registry:
    gymnasium.register(
        GRIDWORLD_ID,
        entry_point=f"{__name__}:GridWorldEnv",
        max_episode_steps=MAX_EPISODE_STEPS,
        reward_threshold=GOAL_REWARD,  # every episode reaches the goal and touches no wall
    )
