"""One game of ViZDoom: a process of its own, which leaves no files behind."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import sys
import tempfile
import threading
import weakref
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

VARIABLE_SCALE = 0.01
"""Of game variables: health, armor and ammunition count to 100 or 200."""
ONE_STARTS = threading.Lock()
"""Games start one after the other: a process that is made for one of them inherits what is open just then for another
one's start, such as its launcher, which Linux then refuses to run; ViZDoom crashes or waits for ever."""
START = """
import ctypes, os, sys
directory, owner, program = sys.argv[1:4]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: a game whose owner is killed would wait for ever
    if os.getppid() != int(owner):
        sys.exit()
os.chdir(directory)
os.execv(program, sys.argv[3:])
"""
"""What runs first in a game's process: (directory, the owner's id, the game, its arguments)."""


class DoomGame:
    """A game that ends as ViZDoom ends it, except for the time limit, which is kept here.

    When ViZDoom cuts an episode it shows nothing any more. So its own limit is off, and a truncated episode has a
    last screen like any other. After a death or a goal there is none: the one before stays.

    The process starts with the first `reset`.

    Args:
        spec: of a scenario, from Gymnasium's registry.
        frame_skip: tics a step.
        screen: (height, width) in pixels, a resolution that ViZDoom knows.
        screen_format: "GRAY8" or "RGB24".

    Attributes:
        action_space: that of ViZDoom's Gymnasium environment; of a Dict, the part that presses buttons.
        max_tics: the time limit of an episode, or None.
        screen: the newest, [height, width] uint8, in colour [height, width, 3].
        variables: the newest game variables, [V] float32, in hundreds.
    """

    def __init__(
        self,
        spec: gymnasium.envs.registration.EnvSpec,
        *,
        frame_skip: int,
        screen: tuple[int, int],
        screen_format: str = "GRAY8",
    ):
        made: Any = gymnasium.make(
            spec,
            disable_env_checker=True,
            screen_format=screen_format,
            screen_resolution=f"RES_{screen[1]}X{screen[0]}",
            sound_enabled=False,
            audio_buffer_enabled=False,
            notifications_buffer_enabled=False,
        )
        self._environment = made.unwrapped
        self._game = self._environment.game
        self._end: weakref.finalize | None = None
        self._frame_skip = frame_skip
        self._elapsed = 0
        self.max_tics: int | None = self._game.get_episode_timeout() or None
        self._game.set_episode_timeout(0)
        space = self._environment.action_space
        self.action_space = space["binary"] if isinstance(space, spaces.Dict) else space
        self.screen = np.zeros(screen, np.uint8)
        self.variables = np.zeros(self._game.get_available_game_variables_size(), np.float32)

    def reset(self, seed: int | None = None) -> None:
        """Start an episode; without `seed`, the next of those that follow from the last one given."""
        if self._end is None:
            self._start(seed)
        else:
            self._environment.reset(seed=seed)
        self._elapsed = 0
        self._look()

    def step(self, action: Any) -> tuple[float, bool, bool]:
        """Keep the buttons of an action pressed for `frame_skip` tics. Returns `(reward, terminated, truncated)`."""
        tics = self._frame_skip
        if self.max_tics is not None:
            tics = min(tics, self.max_tics - self._elapsed)
        reward = self._game.make_action(self._buttons(action), tics)
        self._elapsed += tics
        if self._game.is_episode_finished():
            return reward, True, False
        self._look()
        return reward, False, self._elapsed == self.max_tics

    def close(self) -> None:
        """End the process and remove its files."""
        if self._end is not None:
            self._end()

    def _start(self, seed: int | None) -> None:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="kerasrl-pg-doom-"))
        self._end = weakref.finalize(self, _end, self._environment, directory)  # also of games that nobody closes
        with ONE_STARTS:
            self._game.set_vizdoom_path(_launcher(directory))
            self._game.set_doom_config_path(str(directory / "engine.ini"))
            self._environment.reset(seed=seed)

    def _look(self) -> None:
        state = self._game.get_state()
        self.screen = state.screen_buffer
        if self.variables.size:
            self.variables = (state.game_variables * VARIABLE_SCALE).astype(np.float32)

    def _buttons(self, action: Any) -> list[float]:
        pressed = self._environment.button_map[action] if isinstance(self.action_space, spaces.Discrete) else action
        return [0.0] * self._environment.num_delta_buttons + [float(button) for button in pressed]


def _end(environment: Any, directory: pathlib.Path) -> None:
    environment.close()
    shutil.rmtree(directory)


def _launcher(directory: pathlib.Path) -> str:
    """A program that starts the game in `directory`: wherever it stands, the game makes a directory `_vizdoom`."""
    import vizdoom

    program = os.path.join(os.path.dirname(vizdoom.__file__), "vizdoom")
    if os.name != "posix":
        return program
    launcher = directory / "launch"
    words = (sys.executable, "-ISc", START, str(directory), str(os.getpid()), program)
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    launcher.chmod(0o700)
    if not os.access(launcher, os.X_OK):  # ViZDoom would take the whole process down
        raise PermissionError(f"no program may be started from {directory}: set TMPDIR to a directory that allows it")
    return str(launcher)
