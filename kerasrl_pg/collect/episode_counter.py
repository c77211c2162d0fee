"""Returns and lengths of episodes, counted as environments outside the graph are stepped."""

from __future__ import annotations

import numpy as np

from kerasrl_pg.types import Episodes, Step


class EpisodeCounter:
    """What each of N environments has earned, and how long it has played, since its episode began.

    Example:
        >>> counter = EpisodeCounter(num_envs=1)
        >>> no, yes = np.array([False]), np.array([True])
        >>> one = np.ones(1, np.float32)
        >>> counter.count(Step((), one, no, no, ()), valid=yes).episode_length.tolist()
        [1]
        >>> ended, episode_return, episode_length = counter.count(Step((), one, yes, no, ()), valid=yes)
        >>> ended.tolist(), episode_return.tolist(), episode_length.tolist(), counter.episode_length.tolist()
        ([True], [2.0], [2], [0])
    """

    def __init__(self, num_envs: int):
        self.episode_return = np.zeros(num_envs, np.float64)
        """[N]"""
        self.episode_length = np.zeros(num_envs, np.int32)
        """[N] in environment steps."""

    def begin_anew(self) -> None:
        """Forget the episodes that go on."""
        self.episode_return[:] = 0
        self.episode_length[:] = 0

    def count(self, step: Step, valid: np.ndarray) -> Episodes:
        """One more step of each, those that are not `valid` [N] excepted; where an episode ends, the next begins.

        Returns:
            `Episodes` of [N] arrays: what ended with this step, and returns and lengths up to it.
        """
        ended = (step.terminated | step.truncated) & valid
        self.episode_return += np.where(valid, step.reward, 0.0)
        self.episode_length += valid
        counted = Episodes(ended, self.episode_return.astype(np.float32), self.episode_length.copy())
        self.episode_return[ended] = 0
        self.episode_length[ended] = 0
        return counted
