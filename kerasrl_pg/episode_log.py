"""Every episode that ended during training: when, its return and its length."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence

import numpy as np

from kerasrl_pg.checks import as_integer

WINDOW = 100
"""Episodes over which `episode_return` and `episode_length` are averaged in logs, and `stop_return` is judged."""


class EpisodeLog:
    """Finished episodes in the order in which they ended.

    Example:
        >>> log = EpisodeLog()
        >>> log.extend([10, 25], [1.0, 3.0], [10, 15])
        >>> log.mean_return(), len(log)
        (2.0, 2)
    """

    def __init__(self):
        self.step: list[int] = []
        """Environment steps taken by all environments together when the episode ended."""
        self.episode_return: list[float] = []
        """Undiscounted sum of rewards, in the environment's units."""
        self.episode_length: list[int] = []
        """In environment steps."""
        self._best = -math.inf

    def __len__(self) -> int:
        return len(self.step)

    def extend(self, step: Sequence[int], episode_return: Sequence[float], episode_length: Sequence[int]) -> None:
        """Append episodes."""
        self.step.extend(int(value) for value in step)
        self.episode_return.extend(float(value) for value in episode_return)
        self.episode_length.extend(int(value) for value in episode_length)
        if len(self) >= WINDOW and len(episode_return):
            latest = self.episode_return[-(len(episode_return) + WINDOW - 1) :]  # windows that end with a new one
            self._best = max(self._best, float(_moving_mean(latest, WINDOW).max()))

    @property
    def best_return(self) -> float:
        """Best mean return of 100 successive episodes so far; NaN before there are so many."""
        return self._best if len(self) >= WINDOW else float("nan")

    def mean_return(self, window: int = WINDOW) -> float:
        """Mean return of the last `window` episodes; NaN before the first."""
        return float(np.mean(self.episode_return[-window:])) if len(self) else float("nan")

    def mean_length(self, window: int = WINDOW) -> float:
        """Mean length of the last `window` episodes; NaN before the first."""
        return float(np.mean(self.episode_length[-window:])) if len(self) else float("nan")

    def solved_at(self, episode_return: float, window: int = WINDOW) -> int | None:
        """The step at which the mean of `window` episodes first reached `episode_return`; None if it never did.

        Raises:
            ValueError: `window` is no positive integer.

        Example:
            >>> log = EpisodeLog()
            >>> log.extend([1, 2, 3], [0.0, 9.0, 9.0], [1, 1, 1])
            >>> log.solved_at(8.0, window=2)
            3
        """
        if len(self) < as_integer("window", window):
            return None
        reached = np.flatnonzero(_moving_mean(self.episode_return, window) >= episode_return)
        return self.step[window - 1 + reached[0]] if reached.size else None

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write the columns step, episode_return, episode_length."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("step", "episode_return", "episode_length"))
            writer.writerows(zip(self.step, self.episode_return, self.episode_length, strict=True))

    @classmethod
    def from_csv(cls, path: str | os.PathLike) -> EpisodeLog:
        """Read what `to_csv` wrote.

        Raises:
            ValueError: a file with other columns.

        Example:
            >>> import tempfile
            >>> log = EpisodeLog()
            >>> log.extend([10], [1.0], [10])
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     log.to_csv(f"{directory}/episodes.csv")
            ...     EpisodeLog.from_csv(f"{directory}/episodes.csv").episode_return
            [1.0]
        """
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames, list(reader)
        if columns != ["step", "episode_return", "episode_length"]:
            raise ValueError(f"{path} has not the columns step, episode_return, episode_length: {columns}")
        log = cls()
        step, episode_return, episode_length = (
            [row[name] for row in rows] for name in ("step", "episode_return", "episode_length")
        )
        log.extend([int(x) for x in step], [float(x) for x in episode_return], [int(x) for x in episode_length])
        return log


def _moving_mean(values: Sequence[float], window: int) -> np.ndarray:
    """[len(values) - window + 1]; divided at the end, so that the mean of equal numbers is that number."""
    return np.convolve(values, np.ones(window), mode="valid") / window
