"""The four ways in which a grid world is observed."""

from __future__ import annotations

import gymnasium
import numpy as np

from kerasrl_pg.envs.gridworld_layout import Cell, Layout

OBSERVATIONS = ("index", "one_hot", "grid", "coordinates")


def observation_space_of(layout: Layout, observation: str) -> gymnasium.Space:
    """The space of one kind of observation; `observe` says what each holds.

    Raises:
        ValueError: there is no such kind.

    Example:
        >>> from kerasrl_pg.envs.gridworld_layout import read_layout
        >>> observation_space_of(read_layout("simple"), "index")
        Discrete(90)
    """
    height, width = layout.walls.shape
    match observation:
        case "index":
            return gymnasium.spaces.Discrete(height * width)
        case "one_hot":
            return gymnasium.spaces.Box(0.0, 1.0, (height, width), np.float32)
        case "grid":
            return gymnasium.spaces.Box(0.0, 1.0, (height, width, 3), np.float32)
        case "coordinates":
            # A corridor's only row or column is 0; Gymnasium warns of bounds that are equal.
            last = np.maximum([height - 1, width - 1] * 2, 1).astype(np.float32)
            return gymnasium.spaces.Box(np.zeros(4, np.float32), last, dtype=np.float32)
    raise _unknown(observation)


def observe(layout: Layout, observation: str, agent: Cell, goal: Cell) -> np.ndarray | np.int64:
    """What an agent at `agent` sees: one observation of a kind from `OBSERVATIONS`.

    Args:
        layout: H rows, W columns.
        observation: "index": y · W + x of the agent; "one_hot": [H, W], 1 at the agent; "grid": [H, W, 3], walls,
            agent and goal; "coordinates": [4], agent's y and x, goal's y and x. Only the last two show the goal.
        agent: its cell.
        goal: its cell.

    Returns:
        An element of `observation_space_of(layout, observation)`.

    Raises:
        ValueError: there is no such kind.

    Example:
        >>> from kerasrl_pg.envs.gridworld_layout import read_layout
        >>> observe(read_layout("simple"), "coordinates", (2, 2), (7, 2)).tolist()
        [2.0, 2.0, 7.0, 2.0]
    """
    if observation == "index":
        return np.int64(agent[0] * layout.walls.shape[1] + agent[1])
    if observation == "coordinates":
        return np.array([*agent, *goal], np.float32)
    if observation not in OBSERVATIONS:
        raise _unknown(observation)
    channels = np.zeros((*layout.walls.shape, 3), np.float32)
    channels[..., 0] = layout.walls
    channels[(*agent, 1)] = 1.0
    channels[(*goal, 2)] = 1.0
    return channels[..., 1] if observation == "one_hot" else channels


def _unknown(observation: str) -> ValueError:
    return ValueError(f"observation must be one of {', '.join(map(repr, OBSERVATIONS))}, got {observation!r}")
