"""Atari screens cut to a region before they are made small, which ale-py itself cannot do."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper

from kerasrl_pg.frames import Crop, crop_and_resize


class CroppedFrames(VectorWrapper):
    """Whole grey screens in, stacks of small cut ones out, as ale-py's own stacks are.

    A stack is black before an episode's first frame, and each frame is made small once.

    Args:
        env: SAME_STEP autoreset; observations [N, 1, height, width] uint8.
        crop: the region.
        size: height and width of the frames in the stack.
        stack: how many.
    """

    def __init__(self, env: VectorEnv, crop: Crop, size: int, stack: int):
        super().__init__(env)
        self._crop, self._size = crop, size
        self.single_observation_space = spaces.Box(0, 255, (stack, size, size), np.uint8)
        self.observation_space = spaces.Box(0, 255, (self.num_envs, stack, size, size), np.uint8)
        self._stack = np.zeros(self.observation_space.shape, np.uint8)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start N episodes. Returns `([N, stack, size, size], info)`."""
        screen, info = self.env.reset(seed=seed, options=options)
        self._stack = np.zeros_like(self._stack)
        self._stack[:, -1] = self._small(screen)
        return self._stack, info

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step N games; where one ended, its last stack is in `info["final_obs"]`."""
        screen, reward, terminated, truncated, info = self.env.step(actions)
        ended = terminated | truncated  # [N]
        last = np.where(ended[:, None, None, None], info["final_obs"], screen) if ended.any() else screen
        self._stack = np.concatenate([self._stack[:, 1:], self._small(last)[:, None]], axis=1)
        if ended.any():
            info = {**info, "final_obs": self._stack}
            self._stack = np.where(ended[:, None, None, None], np.uint8(0), self._stack)
            self._stack[ended, -1] = self._small(screen[ended])
        return self._stack, reward, terminated, truncated, info

    def _small(self, screen: np.ndarray) -> np.ndarray:
        return crop_and_resize(screen[:, 0], self._crop, self._size)  # [N, size, size]
