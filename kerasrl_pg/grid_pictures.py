"""Pictures of grid worlds: the layout, state values, action values, a policy; drawn without global state.

Every function takes a world by its `task` (a name, or rows of characters: see `read_layout`) and arrays of [H, W]
cells, actions being up, right, down, left. Numbers in walls and at the goal are not shown, nor are NaNs.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle, FancyArrow, Polygon, Rectangle

from kerasrl_pg.envs.gridworld_layout import ACTIONS, MOVES, Cell, Layout, read_layout
from kerasrl_pg.envs.gridworld_rendering import (
    AGENT_COLOR,
    FACE_COLOR,
    FREE_COLOR,
    GOAL_COLOR,
    LINE_COLOR,
    WALL_COLOR,
)
from kerasrl_pg.envs.gridworld_values import Task, layout_and_goal

CELL_INCHES = 0.7
INK = "#22303c"
PAPER = "#ffffff"
ARROW = "#1f4e79"
SCALE = LinearSegmentedColormap.from_list("values", ["#b5482a", "#e9a184", "#f7f7f4", "#8fb4d6", "#1f4e79"])
"""Negative red, zero pale, positive blue: the colours of the learning curves."""


def plot_grid(
    task: Task, path: str | os.PathLike | None = None, *, agent: Cell | None = None, goal: Cell | None = None
) -> Figure:
    """The layout with its starts, its goal and, if you say where, the agent.

    Args:
        task: a task's name or the rows of a layout.
        path: where to write the figure as well, replacing what is there; .png, .svg or .pdf.
        agent: (y, x).
        goal: (y, x); None for the layout's own, if it has one.

    Returns:
        The figure.

    Raises:
        ValueError: `task` is no layout, or `agent` or `goal` no free cell of it.

    Example:
        >>> [text.get_text() for text in plot_grid("simple").axes[0].texts]
        ['S', 'G']
    """
    layout = read_layout(task, randomize_goals=goal is not None)
    figure, axes = _board(layout)
    for y, x in layout.starts:
        axes.text(x, y, "S", ha="center", va="center", color=INK, fontsize=14)
    if goal is not None or layout.goal is not None:
        _draw_goal(axes, layout_and_goal(task, goal)[1])
    if agent is not None:
        _draw_agent(axes, layout_and_goal(task, agent, "agent")[1])
    return _written(figure, path)


def plot_values(task: Task, values: Any, path: str | os.PathLike | None = None, *, goal: Cell | None = None) -> Figure:
    """State values as a heat map with numbers: red below zero, blue above.

    Args:
        task: a task's name or the rows of a layout.
        values: [H, W].
        path: where to write the figure as well, replacing what is there; .png, .svg or .pdf.
        goal: (y, x); None for the layout's own.

    Returns:
        The figure.

    Raises:
        ValueError: `values` has another shape, `goal` is no free cell, or the layout draws its goals and none is given.

    Example:
        >>> figure = plot_values(["S.G"], [[9.0, 10.0, 0.0]])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['G', '9.0', '10.0']
    """
    layout, goal = layout_and_goal(task, goal)
    values = _checked(values, layout.walls.shape, "values")
    figure, axes = _board(layout)
    _draw_goal(axes, goal)
    shown = _shown(layout, goal)
    norm = _norm(values[shown])
    for y, x in np.argwhere(shown & np.isfinite(values)):
        color = SCALE(norm(values[y, x]))
        _draw_cell(axes, (y, x), color)
        axes.text(x, y, f"{values[y, x]:.1f}", ha="center", va="center", color=_ink_on(color), fontsize=10)
    return _written(figure, path)


def plot_action_values(
    task: Task, action_values: Any, path: str | os.PathLike | None = None, *, goal: Cell | None = None
) -> Figure:
    """Each cell in four triangles, one per action, pointing where it leads; the highest value in bold.

    Args:
        task: a task's name or the rows of a layout.
        action_values: [H, W, 4].
        path: where to write the figure as well, replacing what is there; .png, .svg or .pdf.
        goal: (y, x); None for the layout's own.

    Returns:
        The figure.

    Raises:
        ValueError: `action_values` has another shape, or as for `plot_values`.

    Example:
        >>> from kerasrl_pg.envs.gridworld_values import optimal_action_values
        >>> len(plot_action_values("simple", optimal_action_values("simple")).axes[0].texts)  # 49 cells, and "G"
        197
    """
    layout, goal = layout_and_goal(task, goal)
    action_values = _checked(action_values, (*layout.walls.shape, len(ACTIONS)), "action_values")
    figure, axes = _board(layout)
    _draw_goal(axes, goal)
    shown = _shown(layout, goal)
    norm = _norm(action_values[shown])
    for y, x in np.argwhere(shown & np.isfinite(action_values).all(axis=-1)):
        best = action_values[y, x].max()
        for (dy, dx), value in zip(MOVES, action_values[y, x], strict=True):
            color = SCALE(norm(value))
            # From the middle to the two corners on the action's side.
            corners = [(x, y), *((x + (dx or side) / 2, y + (dy or side) / 2) for side in (-1, 1))]
            axes.add_patch(Polygon(corners, facecolor=color, edgecolor=_rgb(LINE_COLOR), linewidth=0.6))
            axes.text(
                x + 0.31 * dx,
                y + 0.33 * dy,
                f"{value:.1f}",
                ha="center",
                va="center",
                color=_ink_on(color),
                fontsize=6.5,
                fontweight="bold" if value == best else "normal",
            )
    return _written(figure, path)


def plot_policy(task: Task, policy: Any, path: str | os.PathLike | None = None, *, goal: Cell | None = None) -> Figure:
    """Arrows where the policy goes from each cell, the darker the more probable.

    Args:
        task: a task's name or the rows of a layout.
        policy: [H, W] actions 0 to 3, or [H, W, 4] probabilities.
        path: where to write the figure as well, replacing what is there; .png, .svg or .pdf.
        goal: (y, x); None for the layout's own.

    Returns:
        The figure.

    Raises:
        ValueError: `policy` has another shape, or values that are neither actions nor probabilities; or as for
            `plot_values`.

    Example:
        >>> figure = plot_policy(["S.G"], [[1, 1, 0]])
        >>> len(figure.axes[0].patches)  # 3 cells, the goal's mark, 2 arrows
        6
    """
    layout, goal = layout_and_goal(task, goal)
    policy = np.asarray(policy)
    if policy.shape == layout.walls.shape:
        policy = _one_hot(policy)  # [H, W] -> [H, W, 4]
    policy = _checked(policy, (*layout.walls.shape, len(ACTIONS)), "policy")
    wrong = (policy < 0) | (policy > 1)
    if wrong.any():
        raise ValueError(f"policy must be actions 0 to 3 or probabilities from 0 to 1, got {policy[wrong][0]}")
    figure, axes = _board(layout)
    _draw_goal(axes, goal)
    for y, x in np.argwhere(_shown(layout, goal)):
        for move, probability in zip(MOVES, policy[y, x], strict=True):
            if probability > 0:
                _draw_arrow(axes, (y, x), move, probability)
    return _written(figure, path)


def _board(layout: Layout) -> tuple[Figure, Axes]:
    height, width = layout.walls.shape
    figure = Figure(figsize=(CELL_INCHES * width + 0.4, CELL_INCHES * height + 0.4), dpi=110, layout="constrained")
    axes = figure.add_subplot(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal")
    axes.set_facecolor(_rgb(WALL_COLOR))
    for y, x in np.argwhere(~layout.walls):
        _draw_cell(axes, (y, x), _rgb(FREE_COLOR))
    axes.set_xticks(range(width))
    axes.set_yticks(range(height))
    axes.tick_params(length=0, labelsize=8, labelcolor="#808080")
    axes.spines[:].set_visible(False)
    return figure, axes


def _draw_cell(axes: Axes, cell: Cell, color: tuple[float, ...]) -> None:
    y, x = cell
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, edgecolor=_rgb(LINE_COLOR), linewidth=0.8))


def _draw_goal(axes: Axes, goal: Cell) -> None:
    y, x = goal
    axes.add_patch(Rectangle((x - 0.36, y - 0.36), 0.72, 0.72, facecolor=_rgb(GOAL_COLOR)))
    axes.text(x, y, "G", ha="center", va="center", color=PAPER, fontsize=14, fontweight="bold")


def _draw_agent(axes: Axes, agent: Cell) -> None:
    y, x = agent
    axes.add_patch(Circle((x, y), 0.36, facecolor=_rgb(AGENT_COLOR), zorder=4))
    for side in (-1, 1):
        axes.add_patch(Circle((x + 0.12 * side, y - 0.1), 0.045, facecolor=_rgb(FACE_COLOR), zorder=5))
    axes.add_patch(Arc((x, y), 0.4, 0.4, theta1=20, theta2=160, color=_rgb(FACE_COLOR), linewidth=2, zorder=5))


def _draw_arrow(axes: Axes, cell: Cell, move: Cell, probability: float) -> None:
    (y, x), (dy, dx) = cell, move
    # What is certain goes through the middle; alternatives begin beside it, so that none covers another.
    tail, tip = (-0.3, 0.3) if probability > 0.99 else (0.1, 0.42)
    axes.add_patch(
        FancyArrow(
            x + tail * dx,
            y + tail * dy,
            (tip - tail) * dx,
            (tip - tail) * dy,
            width=0.05,
            head_width=0.2,
            head_length=0.16,
            length_includes_head=True,
            facecolor=ARROW,
            linewidth=0,
            alpha=probability,
        )
    )


def _one_hot(actions: np.ndarray) -> np.ndarray:
    known = np.isin(actions, range(len(ACTIONS)))
    if not known.all():
        y, x = np.argwhere(~known)[0]
        raise ValueError(f"policy must consist of actions 0 to 3, got {actions[y, x]} at row {y}, column {x}")
    return np.eye(len(ACTIONS))[actions.astype(int)]


def _checked(array: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = np.asarray(array, np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return array


def _shown(layout: Layout, goal: Cell) -> np.ndarray:
    """[H, W] bool: every free cell but the goal."""
    shown = ~layout.walls
    shown[goal] = False
    return shown


def _norm(values: np.ndarray) -> Normalize:
    """As far to the red as to the blue, so that zero stays pale."""
    limit = np.nanmax(np.abs(values), initial=1e-9)
    return Normalize(-limit, limit)


def _ink_on(color: tuple[float, ...]) -> str:
    red, green, blue = color[:3]
    return PAPER if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK


def _rgb(color: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255, green / 255, blue / 255


def _written(figure: Figure, path: str | os.PathLike | None) -> Figure:
    if path is not None:
        figure.savefig(path)
    return figure
