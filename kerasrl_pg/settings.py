"""What a preset is made of: settings for one environment under a name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras
from keras.optimizers.schedules import CosineDecay, PolynomialDecay

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


def linear_to_zero(start: float, steps: int, num_envs: int, algorithm: Any) -> PolynomialDecay:
    """A schedule from `start` to 0 over all gradient steps of a training.

    Args:
        start: the first value.
        steps: environment steps of the training.
        num_envs: environments side by side.
        algorithm: whose rollout and what follows on it say how many gradient steps that makes.

    Raises:
        ValueError: it learns from whole episodes: how many there will be nobody knows.

    Example:
        >>> from kerasrl_pg.algorithms import PPO
        >>> float(linear_to_zero(0.2, 1000, 1, PPO(rollout_length=100, epochs=1, num_minibatches=1))(5))
        0.1...
    """
    return linear(start, 0.0, gradient_steps_of(steps, num_envs, algorithm))


def late_to_zero(
    start: float, steps: int, num_envs: int, algorithm: Any, *, held: float = 0.5, gone: float = 0.85
) -> CosineDecay:
    """A schedule that stays at `start` at first and is 0 before a training ends.

    Args:
        start: the first value.
        steps: environment steps of the training.
        num_envs: environments side by side.
        algorithm: as in `linear_to_zero`.
        held: the share of the gradient steps for which it stays.
        gone: the share after which it is 0.

    Raises:
        ValueError: as `linear_to_zero`.

    Example:
        >>> from kerasrl_pg.algorithms import PPO
        >>> late = late_to_zero(0.2, 2000, 1, PPO(rollout_length=100, epochs=1, num_minibatches=1))
        >>> [round(float(late(step)), 2) for step in (0, 10, 14, 17, 20)]
        [0.2, 0.2, 0.08, 0.0, 0.0]
    """
    gradient_steps = gradient_steps_of(steps, num_envs, algorithm)
    last_held, first_gone = round(held * gradient_steps), round(gone * gradient_steps)
    return CosineDecay(start, first_gone - last_held, warmup_target=start, warmup_steps=last_held)


def gradient_steps_of(steps: int, num_envs: int, algorithm: Any) -> int:
    """How many gradient steps a training takes; of one with a replay as if it did not have to be filled first.

    Raises:
        ValueError: it learns from whole episodes: how many there will be nobody knows.

    Example:
        >>> from kerasrl_pg.algorithms import DQN, PPO
        >>> gradient_steps_of(1000, 1, PPO(rollout_length=100, epochs=3, num_minibatches=2))
        60
        >>> gradient_steps_of(1000, 2, DQN(rollout_length=10, gradient_steps=3))
        150
    """
    if algorithm.rollout_length is None:
        raise ValueError("a schedule needs an algorithm whose rollout_length is a number, got None")
    updates = math.ceil(steps / (algorithm.rollout_length * num_envs))
    return updates * math.prod(getattr(algorithm, name, 1) for name in ("epochs", "num_minibatches", "gradient_steps"))


def adam(learning_rate: Any, epsilon: float = 1e-5) -> keras.optimizers.Optimizer:
    """Adam with the epsilon of OpenAI's baselines."""
    return keras.optimizers.Adam(learning_rate, epsilon=epsilon)


def fused_adam(learning_rate: Any, epsilon: float = 1e-5) -> keras.optimizers.Optimizer:
    """The same as one kernel: for the million weights behind pixels. What XLA compiles as a whole gains nothing."""
    return FusedAdam(learning_rate, epsilon=epsilon)
