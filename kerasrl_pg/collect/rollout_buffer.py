"""Where the observations of a rollout are written; TensorFlow reads them there."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasrl_pg.shared_memory import aligned_empty
from kerasrl_pg.spaces import map_observation

FIRST_LENGTH = 64
"""Steps there is room for at first where the length of a rollout is not known."""


class RolloutBuffer:
    """Arrays [T, N, *observation] that are filled again for every rollout.

    A rollout of pixels is large (256 steps of 24 Atari environments: 173 MB), and memory that is taken anew for each
    costs more than writing it: the operating system has to find and clear every page.

    Args:
        observation: a batch [N, *observation], or a dict or tuple of such, for shapes and types.
        length: T, as far as it is known; the buffer grows where more is written.

    Example:
        >>> buffer = RolloutBuffer(np.zeros([2, 3], np.float32), length=4)
        >>> for time in range(4):
        ...     buffer.write(time, np.full([2, 3], time, np.float32))
        >>> buffer.read(3)[:, 0, 0].tolist()
        [0.0, 1.0, 2.0]
    """

    def __init__(self, observation: Any, length: int | None):
        self._length = length or FIRST_LENGTH
        self._arrays = map_observation(lambda leaf: aligned_empty((self._length, *leaf.shape), leaf.dtype), observation)

    def write(self, time: int, observation: Any) -> None:
        """The observations [N, *observation] of step `time`, 0 <= time, at most one more than was ever written."""
        if time == self._length:
            self._double()
        map_observation(lambda array, leaf: np.copyto(array[time], leaf), self._arrays, observation)

    def read(self, length: int) -> Any:
        """The first `length` steps [length, N, *observation]: the arrays themselves, until they are written again."""
        return map_observation(lambda array: array[:length], self._arrays)

    def _double(self) -> None:
        self._length *= 2
        self._arrays = map_observation(lambda old: _longer(old, self._length), self._arrays)


def _longer(array: np.ndarray, length: int) -> np.ndarray:
    longer = aligned_empty((length, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer
