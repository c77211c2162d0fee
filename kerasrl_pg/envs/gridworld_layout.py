"""Layouts of grid worlds: the named ones, how others are read and checked, who is next to whom.

What the Gymnasium environment, its graph twin and the pictures have in common. A cell is (y, x), counted from the top
left.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

Cell = tuple[int, int]
"""(y, x): row from the top, column from the left."""

WALL_REWARD = -5.0
GOAL_REWARD = 10.0
ACTIONS = ("up", "right", "down", "left")
MOVES: tuple[Cell, ...] = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""What each action adds to (y, x)."""

WALL, FREE, START, GOAL = "#", ".", "S", "G"

TASKS: dict[str, tuple[str, ...]] = {
    "simple": (
        "##########",
        "#........#",
        "#.S.##...#",
        "#...##...#",
        "#...##...#",
        "#........#",
        "#........#",
        "#.G......#",
        "##########",
    ),
    "obstacle": (
        "##########",
        "#.....#..#",
        "#.S.#...G#",
        "#...##...#",
        "#...##...#",
        "#........#",
        "#........#",
        "#........#",
        "##########",
    ),
    "random_goal": (
        "##########",
        "#........#",
        "#.S.##...#",
        "#...##...#",
        "#...##...#",
        "#........#",
        "#........#",
        "#........#",
        "##########",
    ),
}
"""The worlds of the Neuromatch Academy's tutorial on function approximation (deep learning course, W3D4)."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A checked layout: every start leads to every goal that an episode can have."""

    walls: np.ndarray
    """[H, W] bool."""
    starts: tuple[Cell, ...]
    """At least one; an episode begins in one of them, each equally likely."""
    goal: Cell | None
    """None: the goal is drawn anew for each episode."""
    goals: tuple[Cell, ...]
    """Where the goal may be, in reading order. A drawn goal is uniform over these, the agent's start excepted."""


def read_layout(task: str | Sequence | np.ndarray, randomize_goals: bool = False) -> Layout:
    """A named layout, or one of your own, checked.

    Args:
        task: "simple", "obstacle" or "random_goal"; or rows, a sequence of strings or [H, W] characters: `#` wall,
            `.` free, `S` start (one or more), `G` goal (one). No border is needed, the edge is a wall.
        randomize_goals: draw the goal for each episode from all cells that can be reached; a `G` is then a free cell
            like others. The task "random_goal" always does so.

    Returns:
        The layout.

    Raises:
        ValueError: an unknown name, rows of different lengths, an unknown character, no start, no goal or several, or
            a start from which the goal (or, if goals are drawn, another start) cannot be reached; the message names
            the cell.

    Example:
        >>> read_layout("simple").goal
        (7, 2)
        >>> read_layout(["S..", "##.", "G.."]).starts
        ((0, 0),)
    """
    if isinstance(task, str):
        if task not in TASKS:
            names = ", ".join(map(repr, TASKS))
            raise ValueError(f"task must be {names} or the rows of a layout, got {task!r}")
        randomize_goals = randomize_goals or task == "random_goal"
        task = TASKS[task]
    characters = _characters(task)
    walls = characters == WALL
    starts, goals = _cells(characters == START), _cells(characters == GOAL)
    if not starts:
        raise ValueError(f"a layout needs a start, {START!r}, got none in {_shown(characters)}")
    if len(goals) > 1:
        raise ValueError(f"a layout has one goal, {GOAL!r}, got {len(goals)}: {_listed(goals)}")
    if randomize_goals:
        return _with_drawn_goals(walls, starts)
    if not goals:
        raise ValueError(f"a layout needs a goal, {GOAL!r}, or randomize_goals=True; got none in {_shown(characters)}")
    lengths = path_lengths(walls, goals[0])
    for start in starts:
        if lengths[start] < 0:
            raise ValueError(f"the goal at {goals[0]} cannot be reached from the start at {start} (row, column)")
    return Layout(walls, starts, goals[0], goals)


def path_lengths(walls: np.ndarray, goal: Cell) -> np.ndarray:
    """Steps of a shortest path from every cell to the goal, by breadth-first search.

    Args:
        walls: [H, W] bool.
        goal: a cell that is no wall.

    Returns:
        [H, W] int; 0 at the goal, -1 in walls and where no path leads to the goal.

    Example:
        >>> path_lengths(np.array([[False, False], [True, False]]), (0, 0)).tolist()
        [[0, 1], [-1, 2]]
    """
    lengths = np.full(walls.shape, -1)
    lengths[goal] = 0
    frontier = collections.deque([goal])
    while frontier:
        y, x = frontier.popleft()
        for dy, dx in MOVES:
            cell = (y + dy, x + dx)
            if not blocked(walls, cell) and lengths[cell] < 0:
                lengths[cell] = lengths[y, x] + 1
                frontier.append(cell)
    return lengths


def blocked(walls: np.ndarray, cell: Cell) -> bool:
    """Whether a cell is a wall or outside the layout.

    Example:
        >>> blocked(np.array([[False, True]]), (0, 1)), blocked(np.array([[False, True]]), (0, -1))
        (True, True)
    """
    (y, x), (height, width) = cell, walls.shape
    return not (0 <= y < height and 0 <= x < width) or bool(walls[y, x])


def next_cells(walls: np.ndarray) -> np.ndarray:
    """Where each action leads from each cell, cells numbered row by row: y · W + x.

    Args:
        walls: [H, W] bool.

    Returns:
        [H · W, 4] int32: the same cell where a wall or the edge is in the way.

    Example:
        >>> next_cells(np.array([[False, False]])).tolist()
        [[0, 1, 0, 0], [1, 1, 1, 0]]
    """
    height, width = walls.shape
    rows = [
        [y * width + x if blocked(walls, (y + dy, x + dx)) else (y + dy) * width + x + dx for dy, dx in MOVES]
        for y in range(height)
        for x in range(width)
    ]
    return np.array(rows, np.int32)  # [H · W, 4]


def _characters(rows: Sequence | np.ndarray) -> np.ndarray:
    """[H, W] of single characters."""
    table = [list(row) for row in rows]
    if not table or not table[0]:
        raise ValueError(f"a layout needs at least one row with one cell, got {rows!r}")
    for y, row in enumerate(table):
        if len(row) != len(table[0]):
            raise ValueError(f"rows of a layout are equally long: row 0 has {len(table[0])} cells, row {y} {len(row)}")
        for x, character in enumerate(row):
            if character not in (WALL, FREE, START, GOAL):
                allowed = ", ".join(map(repr, (WALL, FREE, START, GOAL)))
                raise ValueError(f"a layout consists of {allowed}; got {character!r} at row {y}, column {x}")
    return np.array(table)


def _cells(mask: np.ndarray) -> tuple[Cell, ...]:
    return tuple((int(y), int(x)) for y, x in np.argwhere(mask))


def _with_drawn_goals(walls: np.ndarray, starts: tuple[Cell, ...]) -> Layout:
    lengths = path_lengths(walls, starts[0])
    for start in starts:
        if lengths[start] < 0:
            raise ValueError(f"goals are drawn where every start leads: {start} cannot be reached from {starts[0]}")
    goals = _cells(lengths >= 0)
    if len(goals) < 2:
        raise ValueError(f"there is no cell for a goal: the start at {starts[0]} (row, column) is walled in")
    return Layout(walls, starts, None, goals)


def _shown(characters: np.ndarray) -> str:
    return repr(["".join(row) for row in characters])


def _listed(cells: tuple[Cell, ...]) -> str:
    return ", ".join(map(str, cells))
