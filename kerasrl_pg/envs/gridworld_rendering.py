"""What a grid world looks like: a picture in NumPy, and text."""

from __future__ import annotations

import numpy as np

from kerasrl_pg.envs.gridworld_layout import FREE, GOAL, WALL, Cell

CELL_SIZE = 40
"""Pixels."""

AGENT = "A"
WALL_COLOR = (59, 66, 82)
FREE_COLOR = (247, 247, 244)
LINE_COLOR = (222, 222, 218)
GOAL_COLOR = (94, 165, 116)
AGENT_COLOR = (242, 182, 61)
FACE_COLOR = (70, 52, 20)


def render_text(walls: np.ndarray, agent: Cell, goal: Cell | None) -> str:
    """Rows of characters as in a layout, with `A` for the agent.

    Example:
        >>> print(render_text(np.array([[False, False, True]]), (0, 0), (0, 1)))
        AG#
    """
    characters = np.where(walls, WALL, FREE)
    if goal is not None:
        characters[goal] = GOAL
    characters[agent] = AGENT
    return "\n".join("".join(row) for row in characters)


def render_rgb(walls: np.ndarray, agent: Cell, goal: Cell | None) -> np.ndarray:
    """A picture: dark walls, a green goal, the agent a face.

    Args:
        walls: [H, W] bool.
        agent: its cell.
        goal: its cell, or None for none.

    Returns:
        [H · 40, W · 40, 3] uint8.

    Example:
        >>> render_rgb(np.array([[False, False, True]]), (0, 0), (0, 1)).shape
        (40, 120, 3)
    """
    colors = np.where(walls[..., None], WALL_COLOR, FREE_COLOR).astype(np.float64)  # [H, W, 3]
    picture = colors.repeat(CELL_SIZE, axis=0).repeat(CELL_SIZE, axis=1)  # [H · 40, W · 40, 3]
    line = np.where(walls[..., None], WALL_COLOR, LINE_COLOR).repeat(CELL_SIZE, axis=1)  # [H, W · 40, 3]
    picture[::CELL_SIZE] = line
    picture[:, ::CELL_SIZE] = np.where(walls[..., None], WALL_COLOR, LINE_COLOR).repeat(CELL_SIZE, axis=0)
    if goal is not None:
        _paint(picture, goal, _square(0.36), GOAL_COLOR)
    for shape, color in _face():
        _paint(picture, agent, shape, color)
    return np.rint(picture).astype(np.uint8)


def _paint(picture: np.ndarray, cell: Cell, cover: np.ndarray, color: tuple[int, int, int]) -> None:
    """Lay `color` over one cell; `cover` [size, size], from 0 to 1, is how much of each pixel it hides."""
    top, left = (CELL_SIZE * index for index in cell)
    patch = picture[top : top + CELL_SIZE, left : left + CELL_SIZE]
    patch += cover[..., None] * (np.array(color) - patch)


def _square(half_width: float) -> np.ndarray:
    y, x = _coordinates()
    return _inside(half_width - np.maximum(np.abs(y), np.abs(x)))


def _face() -> list[tuple[np.ndarray, tuple[int, int, int]]]:
    y, x = _coordinates()
    head = _inside(0.36 - np.hypot(y, x))
    eyes = _inside(0.045 - np.hypot(y + 0.1, np.abs(x) - 0.12))
    smile = _inside(0.022 - np.abs(np.hypot(y, x) - 0.2)) * _inside(y - 0.06)
    return [(head, AGENT_COLOR), (eyes, FACE_COLOR), (smile, FACE_COLOR)]


def _coordinates() -> tuple[np.ndarray, np.ndarray]:
    """(y, x) of the pixels of a cell in cells, from its middle; the line that its top and left begin with left out."""
    along = (np.arange(CELL_SIZE) - CELL_SIZE / 2) / CELL_SIZE
    return along[:, None], along[None, :]


def _inside(depth: np.ndarray) -> np.ndarray:
    """How much of a pixel lies within a shape, `depth` cells deep in it: a smooth edge one pixel wide."""
    return np.clip(depth * CELL_SIZE + 0.5, 0.0, 1.0)
