"""Videos of an agent at work, and a way to look at them in a notebook."""

from __future__ import annotations

import base64
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import gymnasium
import numpy as np

from kerasrl_pg.checks import as_integer
from kerasrl_pg.envs.atari import AtariProtocol, is_atari, make_atari, make_atari_screens
from kerasrl_pg.envs.doom import TICS_PER_SECOND, DoomProtocol, is_doom, make_doom, make_doom_screen
from kerasrl_pg.envs.make import make_render_env
from kerasrl_pg.video_recorder import DEFAULT_FPS, VideoRecorder, check_video_path, rendered_frame

LONGEST_VIDEO = 30_000
"""Frames of an episode. Atari has 27,000 by default; a task without a time limit might go on for ever."""


def record_video(
    agent: Any,
    path: str | os.PathLike,
    *,
    episodes: int = 1,
    seed: int = 0,
    env: gymnasium.Env | None = None,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
) -> pathlib.Path:
    """Film whole episodes on the Gymnasium environment, the agent taking its most probable actions.

    Args:
        agent: an `Agent`.
        path: a file that does not exist yet, ending in .mp4 or .gif.
        episodes: how many to play, one after the other.
        seed: of the first episode; the later ones follow from it.
        env: what to play on instead of the agent's own environment, made with
            `render_mode="rgb_array"`. It is left open.
        fps: frames (that is, environment steps; in Doom, tics) per second; None for the environment's own speed.
        size: (width, height) in pixels; None for what the environment renders, enlarged if that is tiny.

    Returns:
        The path.

    Raises:
        FileExistsError: `path` exists.
        ImportError: the extra `video` is not installed.
        RuntimeError: episodes took more than 30,000 frames each: they seem to have no end.
        ValueError: the suffix is neither .mp4 nor .gif; `episodes`, `fps` or `size` is not positive; `env`
            renders no frames; or the agent knows no environment and none was passed.
        TypeError: `env` is no Gymnasium environment.
    """
    episodes, seed = as_integer("episodes", episodes), as_integer("seed", seed, least=0)
    if env is not None and not isinstance(env, gymnasium.Env):
        raise TypeError(f'env must be a Gymnasium environment made with render_mode="rgb_array", got {env!r}')
    check_video_path(path)
    with ExitStack() as stack:
        if env is not None:
            frames, own_fps = _frames(agent, env, episodes, seed), env.metadata.get("render_fps")
        else:
            frames, own_fps = _frames_of_own_environment(agent, episodes, seed, stack)
        natural = own_fps or DEFAULT_FPS
        with VideoRecorder(path, fps=natural if fps is None else fps, size=size) as video:
            for frame in frames:
                if video.frames == episodes * LONGEST_VIDEO:
                    raise RuntimeError(
                        f"the video did not end within {episodes * LONGEST_VIDEO:,} frames: give the environment a "
                        "time limit, such as gymnasium.wrappers.TimeLimit, and pass record_video(env=...)"
                    )
                video.add(frame)
    return video.path


@dataclasses.dataclass(frozen=True)
class EmbeddedVideo:
    """A video inside a notebook's cell, kept in the notebook's file."""

    path: pathlib.Path

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.path.read_bytes()).decode()
        if self.path.suffix == ".gif":
            return f'<img src="data:image/gif;base64,{data}">'
        return f'<video controls autoplay loop muted src="data:video/mp4;base64,{data}"></video>'


def show_video(path: str | os.PathLike) -> EmbeddedVideo:
    """A video as the last line of a notebook's cell.

    Args:
        path: what `record_video` or a `VideoRecorder` wrote.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no video at {path}")
    return EmbeddedVideo(path)


def _frames(agent: Any, env: gymnasium.Env, episodes: int, seed: int) -> Iterator[np.ndarray]:
    """[height, width, 3] uint8, one at the start of an episode and one after every step."""
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        yield rendered_frame(env)
        ended = False
        while not ended:
            observation, _, terminated, truncated, _ = env.step(agent.act(observation))
            yield rendered_frame(env)
            ended = terminated or truncated


def _frames_of_own_environment(
    agent: Any, episodes: int, seed: int, stack: ExitStack
) -> tuple[Iterator[np.ndarray], float | None]:
    """Frames and their natural rate; `stack` closes what is opened."""
    if agent.environment is None or agent.environment.id is None:
        raise ValueError("this agent knows no environment's id: pass record_video(env=...)")
    if is_atari(agent.environment.id):
        protocol = AtariProtocol(**agent.environment.protocol)
        frames = _atari_frames(agent, agent.environment.id, protocol, episodes, seed)
        return frames, 60 / protocol.frame_skip
    if is_doom(agent.environment.id):
        doom_protocol = DoomProtocol(**agent.environment.protocol)
        return _doom_frames(agent, agent.environment.id, doom_protocol, episodes, seed), TICS_PER_SECOND
    env = stack.enter_context(closing(make_render_env(agent.environment.id, agent.environment.options)))
    return _frames(agent, env, episodes, seed), env.metadata.get("render_fps")


def _atari_frames(agent: Any, env_id: str, protocol: AtariProtocol, episodes: int, seed: int) -> Iterator[np.ndarray]:
    """The screen in colour, while the agent sees what it saw in training.

    ale-py's vector environment shows one or the other. So the same game runs twice, with the same actions and
    from the same seed, which decides its no-ops and its sticky actions too.
    """
    with (
        closing(make_atari(env_id, 1, protocol)) as seen,
        closing(make_atari_screens(env_id, 1, protocol, color=True)) as shown,
    ):
        observation, _ = seen.reset(seed=seed)
        screen, _ = shown.reset(seed=seed)
        for _ in range(episodes):
            ended = False
            while not ended:
                yield screen[0, -1]  # [210, 160, 3]
                action = agent.act(observation)
                observation, _, terminated, truncated, _ = seen.step(action)
                screen, *_ = shown.step(action)
                ended = bool(terminated[0] or truncated[0])


def _doom_frames(agent: Any, env_id: str, protocol: DoomProtocol, episodes: int, seed: int) -> Iterator[np.ndarray]:
    """Every tic in colour, while the agent sees what it saw in training: as for Atari, the same game runs twice."""
    with closing(make_doom(env_id, 1, protocol)) as seen, closing(make_doom_screen(env_id)) as shown:
        observation, _ = seen.reset(seed=seed)
        for episode in range(episodes):
            shown.reset(seed if episode == 0 else None)
            yield shown.screen  # [480, 640, 3]
            ended = False
            while not ended:
                action = agent.act(observation)
                observation, *_ = seen.step(action)
                for _ in range(protocol.frame_skip):
                    _, terminated, truncated = shown.step(action[0])
                    yield shown.screen
                    ended = terminated or truncated
                    if ended:
                        break
