"""Screens made small, exactly: the same bytes from NumPy, from TensorFlow and from ale-py.

A small pixel is the mean of the area of the screen that it covers, as OpenCV's INTER_AREA has it. The weights are kept
as integers and their sum is divided by once: with frames of up to 256 x 256 pixels every sum is an integer below 2²⁴,
which float32 holds exactly in whatever order it is added up.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from kerasrl_pg.checks import is_integer

Crop = tuple[int, int, int, int]
"""(top, bottom, left, right): rows top to bottom - 1 and columns left to right - 1 are kept."""


def area_weights(length: int, small: int) -> np.ndarray:
    """[small, length] float32 integers: how much of each pixel each small pixel covers, in units of 1 / small.

    Args:
        length: pixels before.
        small: pixels after.

    Returns:
        The weights; each row sums to `length`.

    Raises:
        ValueError: there would be more pixels than before.

    Example:
        >>> area_weights(3, 2).tolist()
        [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]
    """
    if not 0 < small <= length:
        raise ValueError(f"a length of {length} pixels can be made one of 1 to {length}, got {small!r}")
    begins = np.arange(small)[:, None] * length  # [small, 1], in units of 1 / (small · length)
    pixels = np.arange(length)[None] * small  # [1, length]
    covered = np.minimum(begins + length, pixels + small) - np.maximum(begins, pixels)  # [small, length]
    return np.maximum(covered, 0).astype(np.float32)


def crop_and_resize(frames: np.ndarray, crop: Crop | None, size: int) -> np.ndarray:
    """Cut a region out of frames and make it `size` pixels high and wide.

    Args:
        frames: [..., height, width] uint8.
        crop: what is kept; None for all.
        size: height and width of the result.

    Returns:
        [..., size, size] uint8.

    Raises:
        ValueError: `crop` does not lie within the frames, or is smaller than `size`.

    Example:
        >>> crop_and_resize(np.array([[0, 0, 10, 20], [0, 0, 30, 40]], np.uint8), (0, 2, 2, 4), size=1).tolist()
        [[25]]
    """
    height, width = frames.shape[-2:]
    top, bottom, left, right = check_crop(crop or (0, height, 0, width), height, width, size)
    region = frames[..., top:bottom, left:right].astype(np.float32)
    nothing = np.zeros((), np.float32)
    lower = sum((weight[:, None] * region[..., row, :] for row, weight in _parts(bottom - top, size)), nothing)
    total = sum((weight * lower[..., column] for column, weight in _parts(right - left, size)), nothing)
    return np.rint(total / np.float32((bottom - top) * (right - left))).astype(np.uint8)


@functools.cache
def _parts(length: int, small: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The product with `area_weights`, most of which are 0, as a few sums: `(pixel, its weight)`, each [small].

    A product of matrices would do as well, but NumPy spreads that over the cores that learn.
    """
    weights = area_weights(length, small)
    first = (weights > 0).argmax(axis=1)  # [small]
    most = int((weights > 0).sum(axis=1).max())
    pixels = [np.minimum(first + part, length - 1) for part in range(most)]
    rows = np.arange(small)
    return [
        (pixel, np.where(first + part < length, weights[rows, pixel], np.float32(0)))
        for part, pixel in enumerate(pixels)
    ]


def check_crop(crop: Sequence[int], height: int, width: int, size: int) -> Crop:
    """The crop itself; ValueError unless it lies within height and width and holds `size` pixels each way.

    Example:
        >>> check_crop((14, 196, 8, 159), 210, 160, 84)
        (14, 196, 8, 159)
    """
    if len(crop) == 4 and all(is_integer(edge, least=0) for edge in crop):
        top, bottom, left, right = map(int, crop)
        if top <= bottom - size and bottom <= height and left <= right - size and right <= width:
            return top, bottom, left, right
    raise ValueError(
        f"crop must be (top, bottom, left, right) within {height} x {width} pixels and at least {size} apart, "
        f"got {tuple(crop)!r}"
    )
