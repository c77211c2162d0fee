"""Atari through ale-py's own C++ vector environment, its protocol explicit."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

import ale_py
import gymnasium
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode, VectorEnv

from kerasrl_pg.checks import as_integer, as_switch
from kerasrl_pg.envs.atari_frames import CroppedFrames
from kerasrl_pg.frames import Crop, check_crop

gymnasium.register_envs(ale_py)

SCREEN = (210, 160)
"""Height and width of a screen, in pixels; those of the few taller games are brought to it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtariProtocol:
    """How a game is presented to the agent: results of different protocols do not compare.

    The defaults are those of Stable-Baselines3's and CleanRL's wrappers for `NoFrameskip-v4`: no sticky actions, up
    to 30 no-ops at the start, 4 frames a step of which the last two are merged by their maximum, 84x84 greyscale, a
    stack of 4, rewards clipped to their sign while learning. Machado et al. 2018 recommend
    `repeat_action_probability=0.25`, which is also what the id `ALE/Pong-v5` means in `gymnasium.make`.

    Episodes are whole games: a lost life ends nothing. Returns in logs and evaluations are never clipped.

    Example:
        >>> AtariProtocol(repeat_action_probability=0.25).frame_skip
        4
    """

    repeat_action_probability: float = 0.0
    """Probability that the emulator repeats the last action instead ("sticky actions")."""
    noop_max: int = 30
    """Most no-ops at the start of a game."""
    fire_reset: bool = True
    """Press FIRE at the start of games that wait for it."""
    frame_skip: int = 4
    """Frames a step."""
    max_frames: int = 108_000
    """Frames after which a game is truncated (30 minutes)."""
    reward_clipping: bool = True
    """Learn from the sign of the reward."""
    full_action_space: bool = False
    """All 18 actions instead of those that the game knows."""
    stack: int = 4
    """Frames in an observation."""
    size: int = 84
    """Height and width of a frame, in pixels."""
    crop: Crop | None = None
    """(top, bottom, left, right) of the region of the 210 x 160 screen that is made small; None for all of it."""

    def __post_init__(self):
        for name, least in (("noop_max", 0), ("frame_skip", 1), ("max_frames", 1), ("stack", 1), ("size", 1)):
            object.__setattr__(self, name, as_integer(name, getattr(self, name), least))  # JSON knows no others
        if self.crop is not None:
            crop = check_crop(self.crop, *SCREEN, self.size)  # JSON makes a list of it
            object.__setattr__(self, "crop", crop)
        for name in ("fire_reset", "reward_clipping", "full_action_space"):
            object.__setattr__(self, name, as_switch(name, getattr(self, name)))
        probability = self.repeat_action_probability
        if not isinstance(probability, numbers.Real) or not 0 <= probability <= 1:
            raise ValueError(f"repeat_action_probability must be in [0, 1], got {probability!r}")
        object.__setattr__(self, "repeat_action_probability", float(probability))


def is_atari(env_id: str) -> bool:
    """Whether an id names an Atari game.

    Example:
        >>> is_atari("ALE/Pong-v5"), is_atari("CartPole-v1")
        (True, False)
    """
    return _registered_name(env_id).startswith("ALE/")


def make_atari(env_id: str, num_envs: int, protocol: AtariProtocol, num_threads: int = 0) -> VectorEnv:
    """`num_envs` games stepped together; rewards are not clipped here, whatever the protocol says.

    Args:
        env_id: "ALE/Pong-v5" and the like.
        num_envs: N.
        protocol: how the game is presented.
        num_threads: of the emulators; 0 lets ale-py choose.

    Example:
        >>> make_atari("ALE/Pong-v5", 2, AtariProtocol()).single_observation_space.shape
        (4, 84, 84)
    """
    if protocol.crop is None:
        view = {"stack_num": protocol.stack, "img_height": protocol.size, "img_width": protocol.size}
        return _games(env_id, num_envs, protocol, num_threads=num_threads, **view)
    whole = make_atari_screens(env_id, num_envs, protocol, num_threads=num_threads)
    return CroppedFrames(whole, protocol.crop, protocol.size, protocol.stack)


def make_atari_screens(
    env_id: str, num_envs: int, protocol: AtariProtocol, *, stack: int = 1, color: bool = False, num_threads: int = 0
) -> AtariVectorEnv:
    """The same games showing the whole 210 x 160 screen, in grey or in colour.

    Args:
        env_id: "ALE/Pong-v5" and the like.
        num_envs: N.
        protocol: how the game is presented, but for its `stack`, `size` and `crop`.
        stack: screens in an observation.
        color: three channels, as a person would see it.
        num_threads: of the emulators; 0 lets ale-py choose.

    Example:
        >>> make_atari_screens("ALE/Pong-v5", 2, AtariProtocol(), stack=4).single_observation_space.shape
        (4, 210, 160)
    """
    view = {"stack_num": stack, "img_height": SCREEN[0], "img_width": SCREEN[1], "grayscale": not color}
    return _games(env_id, num_envs, protocol, num_threads=num_threads, **view)


def _games(env_id: str, num_envs: int, protocol: AtariProtocol, **view: Any) -> AtariVectorEnv:
    return AtariVectorEnv(
        game=gymnasium.spec(_registered_name(env_id)).kwargs["game"],
        num_envs=num_envs,
        autoreset_mode=AutoresetMode.SAME_STEP,
        reward_clipping=False,
        repeat_action_probability=protocol.repeat_action_probability,
        noop_max=protocol.noop_max,
        use_fire_reset=protocol.fire_reset,
        frameskip=protocol.frame_skip,
        max_num_frames_per_episode=protocol.max_frames,
        full_action_space=protocol.full_action_space,
        **view,
    )


def _registered_name(env_id: str) -> str:
    """Without the module that `gymnasium.make` may be told to import, as in "ale_py:ALE/Pong-v5"."""
    return env_id.rpartition(":")[2]
