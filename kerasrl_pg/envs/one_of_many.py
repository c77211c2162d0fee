"""Single environments as parts of a vector environment."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np

from kerasrl_pg.spaces import flatten, leaf_paths


class OneOfMany(gymnasium.Wrapper):
    """An environment whose answers go into arrays with those of others: they are checked, and its infos stay here.

    Gymnasium merges infos, whatever is in them, and adds `final_obs`, which an info may have as well.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._stepped = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The environment's reset.

        Raises:
            TypeError: it does not return an observation and an info.
            ValueError: the observation's structure, shape or type is not the space's.
        """
        answer = self.env.reset(seed=seed, options=options)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise TypeError(f"reset of {self.env} must return (observation, info), it returned {answer!r}")
        self._check("reset", answer[0])
        return answer[0], {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The environment's step, with a copy of an episode's last observation.

        The environment may reuse its observation's memory: the reset, in the same step, would write over it.

        Raises:
            TypeError: it does not return five values, or the reward is no number.
            ValueError: the observation of the first step is not of the space's structure, shape or type.
        """
        answer = self.env.step(action)
        if not isinstance(answer, tuple) or len(answer) != 5:
            raise TypeError(
                f"step of {self.env} must return (observation, reward, terminated, truncated, info), it returned "
                f"{answer!r}"
            )
        observation, reward, terminated, truncated, _ = answer
        as_array = np.asarray(reward)
        if as_array.ndim or as_array.dtype.kind not in "buif":
            raise TypeError(f"its reward must be a number, got {reward!r}")
        if not self._stepped:
            self._check("step", observation)
            self._stepped = True
        if terminated or truncated:
            observation = copy.deepcopy(observation)
        return observation, reward, terminated, truncated, {}

    def _check(self, method: str, observation: Any) -> None:
        leaves, parts = leaf_paths(self.observation_space), flatten(self.observation_space, observation)
        for (_, leaf), part in zip(leaves, map(np.asarray, parts), strict=True):
            if part.shape != leaf.shape:
                raise ValueError(f"{method} of {self.env} must return {leaf}, it returned one of shape {part.shape}")
            if not np.can_cast(part.dtype, leaf.dtype or part.dtype, "same_kind"):
                raise ValueError(f"{method} of {self.env} must return {leaf}, it returned one of {part.dtype}")


class LeftOpen(gymnasium.Wrapper):
    """An environment that is the user's to close."""

    def close(self) -> None:
        """Nothing."""
