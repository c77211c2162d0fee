"""Values of a grid world: the exact ones, those that an agent believes in, and how far its greedy policy walks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasrl_pg.checks import is_integer
from kerasrl_pg.envs.gridworld_layout import (
    ACTIONS,
    GOAL_REWARD,
    WALL_REWARD,
    Cell,
    Layout,
    next_cells,
    path_lengths,
    read_layout,
)
from kerasrl_pg.envs.gridworld_observations import observation_space_of, observe
from kerasrl_pg.spaces import tensor_dtype

Task = str | Sequence | np.ndarray
"""What `read_layout` takes: a name, or rows of characters."""


def optimal_action_values(task: Task, discount: float = 0.9, goal: Cell | None = None) -> np.ndarray:
    """Exact action values of the best policy, without time limit, by value iteration.

    Q(s, a) = r + γ · max Q(s', ·), nothing to come after the goal

    Source: Bellman 1957; Sutton and Barto 2018, eq. 4.10, in the form for action values (eq. 4.2).

    Args:
        task: a task's name or the rows of a layout, [H, W] cells.
        discount: γ, from 0 to 1.
        goal: (y, x); None for the layout's own.

    Returns:
        [H, W, 4] float64; 0 at the goal, NaN in walls and where no path leads to the goal.

    Raises:
        ValueError: the discount is out of range, `goal` is no free cell, or the layout draws its goals and none is
            given.

    Example:
        >>> optimal_action_values(["S.G"], discount=0.5)[0, :2].tolist()  # up, right, down, left
        [[-2.5, 5.0, -2.5, -2.5], [0.0, 10.0, 0.0, 2.5]]
    """
    if not 0 <= discount <= 1:
        raise ValueError(f"discount must be from 0 to 1, got {discount!r}")
    layout, goal = layout_and_goal(task, goal)
    following = next_cells(layout.walls)  # [H · W, 4]
    goal_number = np.ravel_multi_index(goal, layout.walls.shape)
    stays = following == np.arange(len(following))[:, None]
    reward = np.where(following == goal_number, GOAL_REWARD, np.where(stays, WALL_REWARD, 0.0))  # [H · W, 4]
    action_values = np.zeros(following.shape)
    for _ in following:  # k sweeps are exact up to k steps from the goal, and no shortest path has more than H · W
        action_values = reward + discount * action_values.max(axis=-1)[following]  # [H · W, 4]
        action_values[goal_number] = 0.0
    action_values = action_values.reshape(*layout.walls.shape, len(ACTIONS))  # [H, W, 4]
    action_values[path_lengths(layout.walls, goal) < 0] = np.nan
    return action_values


def action_values_of_cells(
    source: Any, task: Task, observation: str = "coordinates", goal: Cell | None = None
) -> np.ndarray:
    """What an agent or a function says that each action is worth, in every free cell.

    Args:
        source: has a method `action_values`, or is itself a function: `[B, *observation]` to `[B, 4]`.
        task: a task's name or the rows of a layout, [H, W] cells.
        observation: the kind that `source` reads: "index", "one_hot", "grid" or "coordinates".
        goal: (y, x); None for the layout's own.

    Returns:
        [H, W, 4] float64; NaN in walls.

    Raises:
        ValueError: `source` returns another shape, or as for `optimal_action_values`.

    Example:
        >>> values = action_values_of_cells(lambda index: np.stack([index] * 4, axis=-1), ["S.G"], "index")
        >>> values[0, :, 0].tolist()
        [0.0, 1.0, 2.0]
    """
    layout, goal = layout_and_goal(task, goal)
    free = np.argwhere(~layout.walls)  # [B, 2]
    observations = np.stack([observe(layout, observation, (int(y), int(x)), goal) for y, x in free])  # [B, ...]
    stored = observations.astype(tensor_dtype(observation_space_of(layout, observation)))  # as models read them
    answer = np.asarray(getattr(source, "action_values", source)(stored))
    if answer.shape != (len(free), len(ACTIONS)):
        raise ValueError(f"action values must have shape {(len(free), len(ACTIONS))}, got {answer.shape}")
    action_values = np.full((*layout.walls.shape, len(ACTIONS)), np.nan)  # [H, W, 4]
    action_values[~layout.walls] = answer
    return action_values


def greedy_path_lengths(task: Task, action_values: np.ndarray, goal: Cell | None = None) -> np.ndarray:
    """Steps from every cell to the goal if one takes the action of the highest value.

    A policy is a shortest path from everywhere if these equal `shortest_path_lengths`.

    Args:
        task: a task's name or the rows of a layout, [H, W] cells.
        action_values: [H, W, 4]; of equal values the first counts.
        goal: (y, x); None for the layout's own.

    Returns:
        [H, W] int; 0 at the goal, -1 in walls and where the policy never gets to the goal.

    Raises:
        ValueError: the shape is another, or as for `optimal_action_values`.

    Example:
        >>> greedy_path_lengths(["S.G"], [[[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]]).tolist()
        [[2, 1, 0]]
    """
    layout, goal = layout_and_goal(task, goal)
    action_values = np.asarray(action_values)
    if action_values.shape != (*layout.walls.shape, len(ACTIONS)):
        raise ValueError(
            f"action_values must have shape {(*layout.walls.shape, len(ACTIONS))}, got {action_values.shape}"
        )
    greedy = action_values.argmax(axis=-1).ravel()  # [H, W, 4] -> [H · W]
    following = next_cells(layout.walls)[np.arange(len(greedy)), greedy]  # [H · W]
    lengths = np.full(len(greedy), -1)
    lengths[np.ravel_multi_index(goal, layout.walls.shape)] = 0
    for _ in lengths:  # after k rounds, all paths of k steps are known
        known = lengths[following] >= 0
        lengths = np.where((lengths < 0) & known, lengths[following] + 1, lengths)
    return np.where(layout.walls, -1, lengths.reshape(layout.walls.shape))  # [H, W]


def shortest_path_lengths(task: Task, goal: Cell | None = None) -> np.ndarray:
    """Steps from every cell to the goal by a shortest path.

    Args:
        task: a task's name or the rows of a layout, [H, W] cells.
        goal: (y, x); None for the layout's own.

    Returns:
        [H, W] int; 0 at the goal, -1 in walls and where no path leads to the goal.

    Raises:
        ValueError: as for `optimal_action_values`.

    Example:
        >>> shortest_path_lengths(["S.G"]).tolist()
        [[2, 1, 0]]
    """
    layout, goal = layout_and_goal(task, goal)
    return path_lengths(layout.walls, goal)


def layout_and_goal(task: Task, goal: Cell | None = None, name: str = "goal") -> tuple[Layout, Cell]:
    """A layout, and the goal to look at: the given one, or else the layout's. Errors call it `name`.

    Raises:
        ValueError: `goal` is no free cell, or the layout draws its goals and none is given.

    Example:
        >>> layout_and_goal("simple")[1]
        (7, 2)
    """
    layout = read_layout(task, randomize_goals=goal is not None)  # then the rows need no goal of their own
    if goal is None:
        goal = layout.goal
    if goal is None:
        raise ValueError(f"this layout's goal is drawn for each episode: give one, goal=(y, x); got None for {task!r}")
    cell = tuple(goal) if isinstance(goal, tuple | list | np.ndarray) else ()
    whole = all(is_integer(part, least=0) for part in cell)
    if not whole or cell not in [(int(y), int(x)) for y, x in np.argwhere(~layout.walls)]:
        raise ValueError(f"{name} must be a free cell (y, x), got {goal!r}")
    return layout, (int(cell[0]), int(cell[1]))
