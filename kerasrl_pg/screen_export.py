"""Atari policies that take the game's own screens: cutting and making small travel inside the export."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import keras
import numpy as np
from gymnasium import spaces

from kerasrl_pg.agent import Agent
from kerasrl_pg.envs.atari import SCREEN, AtariProtocol, is_atari, make_atari_screens
from kerasrl_pg.export import export_policy
from kerasrl_pg.models.preprocessing import CropAndResize
from kerasrl_pg.policies import policy_of


def export_for_screens(agent: Agent, path: str | os.PathLike, *, format: str = "saved_model") -> pathlib.Path:
    """Write an Atari agent's policy as `agent.export` does, but with its frame pipeline inside.

    What it takes as `observation` is `[B, stack, 210, 160]` uint8: the last grey screens, the newest last, black ones
    before a game's first. Each is the emulator's grey screen (`getScreenGrayscale`), by the protocol the maximum of
    a step's last two.

    Args:
        agent: trained on an Atari game, with any `AtariProtocol`.
        path: a directory that does not exist yet.
        format: "saved_model", "litert" or "onnx"; see `kerasrl_pg.export`.

    Returns:
        The path.

    Raises:
        FileExistsError: there is something at `path` already.
        ValueError: the agent plays no Atari game, or an unknown format.
        RuntimeError: what was written does not act as the agent does.
    """
    environment = agent.environment
    if environment is None or environment.id is None or not is_atari(environment.id):
        raise ValueError(f"screens are exported for Atari games, this agent plays {environment and environment.id}")
    protocol = AtariProtocol(**environment.protocol)
    policy = policy_of(
        agent.algorithm, _model_of_screens(agent.model, protocol), screen_space(protocol), agent.action_space
    )
    return export_policy(
        policy, path, observations=_some_screens(environment.id, protocol), metadata=agent.describe(), format=format
    )


def screen_space(protocol: AtariProtocol) -> spaces.Box:
    """Of a stack of whole grey screens.

    Example:
        >>> screen_space(AtariProtocol(stack=2)).shape
        (2, 210, 160)
    """
    return spaces.Box(0, 255, (protocol.stack, *SCREEN), np.uint8)


def _model_of_screens(model: keras.Model, protocol: AtariProtocol) -> keras.Model:
    screens = keras.Input((protocol.stack, *SCREEN), dtype="uint8")
    return keras.Model(screens, model(CropAndResize(protocol.size, protocol.crop)(screens)))


def _some_screens(env_id: str, protocol: AtariProtocol) -> Any:
    """Real ones, of 8 games after some steps by chance."""
    games = make_atari_screens(env_id, 8, protocol, stack=protocol.stack)
    games.action_space.seed(0)
    screens, _ = games.reset(seed=0)
    for _ in range(8):
        screens, *_ = games.step(games.action_space.sample())
    games.close()
    return np.array(screens)
