"""What a preset is made of: settings for one environment under a name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras
from keras.optimizers.schedules import PolynomialDecay

from kerasrl_pg.models import default_model
from kerasrl_pg.optimizers import FusedAdam

ModelBuilder = Callable[..., keras.Model]
"""`build(observation_space, action_space, seed=...) -> keras.Model`."""
ModelLike: TypeAlias = keras.Model | ModelBuilder
"""What `fit_agent` takes for a model."""

TORCH_EPSILON = 1e-8
"""Of PyTorch's Adam, which the lessons use that presets come from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """All that `fit_agent` needs besides the environment."""

    algorithm: Any
    """An algorithm."""
    optimizer: keras.optimizers.Optimizer
    """Its optimizer."""
    model: ModelBuilder = default_model
    """Builds the model from the spaces."""
    mixed_precision: str | None = None
    """See `fit_agent`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings for one environment under a name."""

    env: str
    """Gymnasium id."""
    algorithm: str
    """Name of the algorithm."""
    num_envs: int
    """Environments side by side."""
    steps: int
    """Environment steps that it was tuned for."""
    build: Callable[[int, int], Settings]
    """From `(steps, num_envs)` to settings: schedules end where the training does, or up to a few updates before it
    where steps only reset (NEXT_STEP)."""
    source: str
    """Where the settings come from."""
    only_by_name: bool = False
    """True if the name of the algorithm alone does not mean this preset."""
    env_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments with which the environment is made."""
    protocol: Any = None
    """How the game is presented, an `AtariProtocol` or a `DoomProtocol`; None for its default."""


def linear(start: float, end: float, steps: int) -> PolynomialDecay:
    """A schedule from `start` to `end` in a straight line; a training too short for a step of it has one."""
    return PolynomialDecay(start, max(1, steps), end_learning_rate=end)


def adam(learning_rate: Any, epsilon: float = 1e-5) -> keras.optimizers.Optimizer:
    """Adam with the epsilon of OpenAI's baselines."""
    return keras.optimizers.Adam(learning_rate, epsilon=epsilon)


def fused_adam(learning_rate: Any, epsilon: float = 1e-5) -> keras.optimizers.Optimizer:
    """The same as one kernel: for the million weights behind pixels. What XLA compiles as a whole gains nothing."""
    return FusedAdam(learning_rate, epsilon=epsilon)
