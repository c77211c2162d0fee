"""ViZDoom's scenarios: N games stepped together, the protocol explicit."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from kerasrl_pg.checks import as_integer, as_switch, is_integer
from kerasrl_pg.envs.doom_game import DoomGame

SCREENS = ((120, 160), (240, 320), (480, 640))
"""(height, width) in which games are drawn, in pixels: the first one that is not smaller than the agent's frame."""
TICS_PER_SECOND = 35
"""Doom's own clock."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoomProtocol:
    """How a scenario is presented to the agent: results of different protocols do not compare.

    A frame of 60x80 is half a screen of 120x160 either way. It keeps Doom's proportions, is about as fine as 84x84
    from left to right, where Doom is aimed, and costs the Nature network 0.6 times the arithmetic.

    Example:
        >>> DoomProtocol(size=(84, 84)).frame_skip
        4
    """

    frame_skip: int = 4
    """Tics a step, 35 of which are a second: the buttons stay pressed, and only the last tic's screen is seen."""
    size: tuple[int, int] = (60, 80)
    """Height and width of a frame, in pixels, at most 480x640."""
    stack: int = 4
    """Frames in an observation, the newest last; before an episode's first frame they are black."""
    game_variables: bool = False
    """Observe {"screen", "game_variables"}: besides, the scenario's numbers (health, ammunition...), in hundreds."""

    def __post_init__(self):
        for name in ("frame_skip", "stack"):
            object.__setattr__(self, name, as_integer(name, getattr(self, name)))  # JSON knows no others
        object.__setattr__(self, "game_variables", as_switch("game_variables", self.game_variables))
        size = self.size
        is_pair = isinstance(size, tuple | list) and len(size) == 2 and all(map(is_integer, size))
        if not is_pair or np.any(np.greater(size, SCREENS[-1])):
            raise ValueError(f"size must be (height, width) in pixels, at most {SCREENS[-1]}, got {size!r}")
        object.__setattr__(self, "size", tuple(map(int, size)))  # JSON makes a list of it


def is_doom(env_id: str) -> bool:
    """Whether an id names a scenario of ViZDoom, which need not be installed.

    Example:
        >>> is_doom("VizdoomDefendCenter-v1"), is_doom("CartPole-v1")
        (True, False)
    """
    return _registered_name(env_id).startswith("Vizdoom")


def find_doom_spec(env_id: str) -> EnvSpec:
    """Gymnasium's specification of a scenario.

    Raises:
        ImportError: the extra `doom` is not installed.
        ValueError: no such scenario; the message names the closest ones.
    """
    try:
        import vizdoom.gymnasium_wrapper  # noqa: F401  importing it registers the scenarios
    except ImportError as error:
        raise ImportError(f'{env_id} needs the extra "doom" (from a clone: pip install ".[doom]")') from error
    name = _registered_name(env_id)
    if name not in gymnasium.registry:
        close = difflib.get_close_matches(name, filter(is_doom, gymnasium.registry), n=3, cutoff=0.0)
        raise ValueError(f"unknown environment {env_id!r}; did you mean {' or '.join(close)}?")
    return gymnasium.registry[name]


def make_doom(env_id: str, num_envs: int, protocol: DoomProtocol) -> DoomVectorEnv:
    """`num_envs` games stepped together; their processes start with the first `reset` and end with `close`.

    Args:
        env_id: "VizdoomDefendCenter-v1" and the like.
        num_envs: N.
        protocol: how the game is presented.

    Raises:
        ImportError: the extra `doom` is not installed.
        ValueError: no such scenario, or one without game variables where the protocol asks for them.
    """
    return DoomVectorEnv(find_doom_spec(env_id), num_envs, protocol)


def make_doom_screen(env_id: str) -> DoomGame:
    """One game to be looked at: 480x640 in colour, tic by tic; seeds and actions mean what they do in `make_doom`."""
    return DoomGame(find_doom_spec(env_id), frame_skip=1, screen=SCREENS[-1], screen_format="RGB24")


class DoomVectorEnv(VectorEnv):
    """N games as a Gymnasium vector environment; environment n is seeded by `seed + n`.

    To step a game is to wait for its process, and ViZDoom waits without Python's lock: so threads wait side by side.

    Args:
        spec: of a scenario.
        num_envs: N.
        protocol: how the game is presented.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, protocol: DoomProtocol):
        screen = next(screen for screen in SCREENS if np.all(np.less_equal(protocol.size, screen)))
        self._games = [DoomGame(spec, frame_skip=protocol.frame_skip, screen=screen) for _ in range(num_envs)]
        self._threads = ThreadPoolExecutor(min(num_envs, 2 * (os.cpu_count() or 1)), "doom")
        self._shrink = area_average(screen, protocol.size)
        self._shows_variables = protocol.game_variables
        first = self._games[0]
        if protocol.game_variables and not first.variables.size:
            raise ValueError(f"game_variables must be False for {spec.id}: this scenario shows none")
        self._frames = np.zeros((num_envs, protocol.stack, *protocol.size), np.uint8)
        self._variables = np.zeros((num_envs, *first.variables.shape), np.float32)
        self._final_frames, self._final_variables = self._frames.copy(), self._variables.copy()

        self.spec = spec
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        self.max_episode_steps = None if first.max_tics is None else -(-first.max_tics // protocol.frame_skip)
        frames = spaces.Box(0, 255, self._frames.shape[1:], np.uint8)
        variables = spaces.Box(-np.inf, np.inf, self._variables.shape[1:], np.float32)
        self.single_observation_space = self._observation(frames, variables)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = first.action_space
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start N episodes. Returns `(observation, info)`."""
        seeds = [None if seed is None else seed + index for index in range(self.num_envs)]
        list(self._threads.map(self._start, range(self.num_envs), seeds))
        return self._observation(self._frames.copy(), self._variables.copy()), {}

    def step(self, actions: np.ndarray):
        """Step N games by `actions` [N, *action] and start those anew that ended.

        Returns:
            `(observation, reward, terminated, truncated, info)`. Where an episode ended, `info["final_obs"]`
            [N, *observation] is its last observation: after a termination, that of the step before.
        """
        results = list(self._threads.map(self._step, range(self.num_envs), actions))
        reward, terminated, truncated = (np.array(column) for column in zip(*results, strict=True))  # [N] each
        ended = terminated | truncated  # [N]
        info = {}
        if ended.any():
            final = self._observation(self._final_frames.copy(), self._final_variables.copy())
            info = {"final_obs": final, "_final_obs": ended}
        observation = self._observation(self._frames.copy(), self._variables.copy())
        return observation, reward, terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """End the processes."""
        for game in self._games:
            game.close()
        self._threads.shutdown()

    def _start(self, index: int, seed: int | None = None) -> None:
        self._games[index].reset(seed)
        self._frames[index] = 0
        self._see(index)

    def _step(self, index: int, action: Any) -> tuple[float, bool, bool]:
        reward, terminated, truncated = self._games[index].step(action)
        if not terminated:
            self._see(index)
        self._final_frames[index], self._final_variables[index] = self._frames[index], self._variables[index]
        if terminated or truncated:
            self._start(index)
        return reward, terminated, truncated

    def _see(self, index: int) -> None:
        frames = self._frames[index]  # [stack, height, width]
        frames[:-1] = frames[1:]
        frames[-1] = self._shrink(self._games[index].screen)
        self._variables[index] = self._games[index].variables

    def _observation(self, frames: Any, variables: Any) -> Any:
        """Arrays or spaces in the structure that the protocol wants."""
        if not self._shows_variables:
            return frames
        both = {"screen": frames, "game_variables": variables}
        return spaces.Dict(both) if isinstance(frames, spaces.Space) else both


def area_average(large: tuple[int, int], small: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """A function that shrinks images of one size to another; every pixel is the mean of the area that it covers.

    Args:
        large: (height, width) of the images that it takes.
        small: (height, width) of those that it returns, neither larger.

    Example:
        >>> area_average((2, 3), (1, 2))(np.array([[0, 30, 60], [0, 30, 60]], np.uint8)).tolist()
        [[10, 50]]
    """
    row_taps, column_taps = (list(_taps(*lengths)) for lengths in zip(large, small, strict=True))

    def shrink(image: np.ndarray) -> np.ndarray:
        rows = sum(image[index] * share[:, None] for index, share in row_taps)  # [small height, large width]
        mean = sum(rows[:, index] * share for index, share in column_taps)  # [small height, small width]
        return (mean + np.float32(0.5)).astype(np.uint8)

    return shrink


def _taps(large: int, small: int):
    """Along one axis: the first, the second... pixel that each new one covers, with its share of it."""
    edges = np.linspace(0, large, small + 1)
    pixels = np.arange(large)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)  # [small, large]
    shares = np.clip(covered, 0, None) * small / large
    most = int((shares > 0).sum(axis=1).max())
    first = np.minimum((shares > 0).argmax(axis=1), large - most)  # [small]
    for index in first + np.arange(most)[:, None]:
        yield index, shares[np.arange(small), index].astype(np.float32)


def _registered_name(env_id: str) -> str:
    """Without the module that `gymnasium.make` may be told to import, as in "vizdoom:VizdoomBasic-v1"."""
    return env_id.rpartition(":")[2]
