"""What there is to know of an environment before training on it, as a card that prints."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from kerasrl_pg.envs.make import EnvLike, GameProtocol, make_env, own_number
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.presets import PRESETS

MOST_BOUNDS = 8
"""Elements of a Box whose bounds are told one by one; of more, the smallest and the largest."""


@dataclasses.dataclass(frozen=True, repr=False)
class EnvironmentCard:
    """What `describe` found; it prints as a card, in a notebook too."""

    id: str | None
    """The id that it is registered by; None where there is none."""
    observation_space: gymnasium.Space
    """Of one environment, as the agent sees it."""
    action_space: gymnasium.Space
    """Of one environment."""
    max_episode_steps: int | None
    """The time limit, in steps; None for none, or none that is known."""
    reward_threshold: float | None
    """Mean return at which Gymnasium calls it solved."""
    in_graph: bool
    """Whether it trains as a TensorFlow graph."""
    presets: tuple[str, ...]
    """Names of its presets, which `fit_agent` takes for an algorithm; each says where its settings come from."""
    protocol: dict[str, Any]
    """How a game is presented: settings that results depend on."""
    options: dict[str, Any]
    """Keyword arguments with which its id is made."""

    def __repr__(self) -> str:
        rows = {
            **_rows_of_space("observations", self.observation_space),
            **_rows_of_space("actions", self.action_space),
            "time limit": f"{self.max_episode_steps} steps" if self.max_episode_steps else "none",
            "solved at": "not defined" if self.reward_threshold is None else f"{self.reward_threshold:g}",
            "trains in graph": "yes" if self.in_graph else "no",
            "presets": ", ".join(self.presets) or "none",
            **{name.replace("_", " "): value for name, value in {**self.protocol, **self.options}.items()},
        }
        lines = [_row(name, str(value)) for name, value in rows.items()]
        return "\n".join([self.id or "an environment without an id", *lines])


def describe(
    env: EnvLike, *, protocol: GameProtocol | None = None, env_options: Mapping[str, Any] | None = None
) -> EnvironmentCard:
    """An environment's spaces, time limit, solved threshold, protocol and presets.

    Args:
        env: as in `fit_agent`.
        protocol: as in `fit_agent`.
        env_options: as in `fit_agent`.

    Returns:
        A card that prints.

    Raises:
        ValueError: an unknown id (with the closest known ones), or options that are not for it.
        ImportError: the id needs an extra that is not installed.
        TypeError: `env` is no environment, or its observations are not supported.

    Example:
        >>> print(describe("Pendulum-v1"))
        Pendulum-v1
          observations              Box(3,) float32, [-1, -1, -8] to [1, 1, 8]
          actions                   Box(1,) float32, -2 to 2
          time limit                200 steps
          solved at                 not defined
          trains in graph           yes
          presets                   pendulum-ppo
    """
    environment = make_env(env, num_envs=own_number(env) or 1, protocol=protocol, env_options=env_options)
    training = environment.make_training()
    in_graph = not isinstance(training, VectorAdapter)
    if isinstance(training, VectorAdapter):
        training.close()
    return EnvironmentCard(
        id=environment.spec_id,
        observation_space=training.observation_space,
        action_space=training.action_space,
        max_episode_steps=environment.max_episode_steps,
        reward_threshold=environment.reward_threshold,
        in_graph=in_graph,
        presets=tuple(preset for preset, settings in PRESETS.items() if settings.env == environment.spec_id),
        protocol=environment.protocol,
        options=environment.options,
    )


def _row(name: str, value: str) -> str:
    """One line, or several under each other; words are not broken."""
    wrapped = textwrap.wrap(value, 92, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent("\n".join(wrapped), " " * 28)[28:].join([f"  {name:<26}", ""])


def _rows_of_space(name: str, space: gymnasium.Space) -> dict[str, str]:
    """A row for a space, or one for each part of it."""
    match space:
        case spaces.Dict():
            parts: list[tuple[Any, gymnasium.Space]] = list(space.spaces.items())
        case spaces.Tuple():
            parts = list(enumerate(space.spaces))
        case _:
            return {name: _sentence(space)}
    return {row: sentence for key, part in parts for row, sentence in _rows_of_space(f"{name} {key}", part).items()}


def _sentence(space: gymnasium.Space) -> str:
    """Kind, shape, type and bounds."""
    if not isinstance(space, spaces.Box):
        return str(space)
    return f"Box{space.shape} {space.dtype}, {_bounds(space.low)} to {_bounds(space.high)}".replace("Box()", "Box")


def _bounds(bounds: np.ndarray) -> str:
    flat = bounds.ravel()
    if (flat == flat[0]).all():
        return f"{flat[0]:.4g}"
    if flat.size <= MOST_BOUNDS:
        return f"[{', '.join(f'{bound:.4g}' for bound in flat)}]"
    return f"({flat.min():.4g} .. {flat.max():.4g})"
