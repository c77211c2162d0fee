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

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The environment's reset.

        Raises:
            TypeError: it does not return an observation and an info.
            ValueError: the observation's structure or shape is not the space's.
        """
        answer = self.env.reset(seed=seed, options=options)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise TypeError(f"reset of {self.env} must return (observation, info), it returned {answer!r}")
        leaves, parts = leaf_paths(self.observation_space), flatten(self.observation_space, answer[0])
        for (_, leaf), part in zip(leaves, parts, strict=True):
            if np.shape(part) != leaf.shape:
                raise ValueError(f"reset of {self.env} must return {leaf}, it returned one of shape {np.shape(part)}")
        return answer[0], {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The environment's step, with a copy of an episode's last observation.

        The environment may reuse its observation's memory: the reset, in the same step, would write over it.

        Raises:
            TypeError: the reward is no number.
        """
        observation, reward, terminated, truncated, _ = self.env.step(action)
        if reward is None or np.ndim(reward):  # type: ignore[arg-type]
            raise TypeError(f"its reward must be a number, got {reward!r}")
        if terminated or truncated:
            observation = copy.deepcopy(observation)
        return observation, reward, terminated, truncated, {}


class LeftOpen(gymnasium.Wrapper):
    """An environment that is the user's to close."""

    def close(self) -> None:
        """Nothing."""
