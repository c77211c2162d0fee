"""Checks of hyperparameters: each raises one ValueError that names the field, the value and what is allowed."""

from __future__ import annotations

import math
import numbers
from typing import Any

import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from kerasrl_pg.checks import as_integer, as_switch

LAST_STEP = 2**31 - 1


def check_range(
    algorithm: Any, name: str, low: float, high: float, *, above: bool = False, optional: bool = False
) -> None:
    """Require a finite `low <= algorithm.name <= high` (`low <` if `above`); None passes if `optional`.

    Raises:
        ValueError: the value is outside, or is no number.
    """
    value = getattr(algorithm, name)
    if value is None and optional:
        return
    if not _is_number(value) or not low <= value <= high or (above and value == low):
        interval = f"{'(' if above else '['}{low}, {high}{']' if math.isfinite(high) else ')'}"
        none = " or None" if optional else ""
        raise ValueError(f"{type(algorithm).__name__}: {name} must be in {interval}{none}, got {value!r}")


def check_interval(algorithm: Any, name: str) -> None:
    """Require two finite numbers, the smaller first, and keep them as a tuple: JSON makes a list of it.

    Raises:
        ValueError: they are not.
    """
    value = getattr(algorithm, name)
    is_pair = isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value))
    if not is_pair or not value[0] < value[1]:
        raise ValueError(
            f"{type(algorithm).__name__}: {name} must be two numbers, the smaller first, or None, got {value!r}"
        )
    object.__setattr__(algorithm, name, tuple(map(float, value)))


def check_count(algorithm: Any, name: str) -> None:
    """Require a positive integer, and keep NumPy's as Python's, which tensors of any type can be added to.

    Raises:
        ValueError: it is not one.
    """
    object.__setattr__(algorithm, name, as_integer(f"{type(algorithm).__name__}: {name}", getattr(algorithm, name)))


def check_switch(algorithm: Any, name: str) -> None:
    """Require True or False, and keep NumPy's as Python's, which JSON knows.

    Raises:
        ValueError: it is something else, such as a text that Python counts as true.
    """
    object.__setattr__(algorithm, name, as_switch(f"{type(algorithm).__name__}: {name}", getattr(algorithm, name)))


def check_choice(algorithm: Any, name: str, choices: tuple[str, ...]) -> None:
    """Require one of a few names.

    Raises:
        ValueError: it is another.
    """
    value = getattr(algorithm, name)
    if value not in choices:
        raise ValueError(f"{type(algorithm).__name__}: {name} must be one of {', '.join(choices)}, got {value!r}")


def check_schedule(algorithm: Any, name: str, low: float, high: float, *, above: bool = False) -> None:
    """Require a number as `check_range` does, or a Keras schedule that stays in [low, high] as far as it can be seen.

    Looked at are powers of four, and the steps that the schedule's settings name, such as boundaries.

    Raises:
        ValueError: the number, or the schedule's value at a step that was looked at, is outside.
    """
    value = getattr(algorithm, name)
    if not isinstance(value, LearningRateSchedule):
        check_range(algorithm, name, low, high, above=above)
        return
    config = {} if type(value).get_config is LearningRateSchedule.get_config else value.get_config()
    named = tf.nest.flatten([*config.values()])
    steps = {int(step) for step in named if isinstance(step, int | float) and 1 <= step < LAST_STEP}
    around = {step + offset for step in steps for offset in (-1, 0, 1)}
    for step in sorted({0, *(4**power for power in range(16)), *around, sum(steps), LAST_STEP}):
        at_step = float(value(step))
        if not low <= at_step <= high:
            raise ValueError(
                f"{type(algorithm).__name__}: {name} must stay in [{low}, {high}], got {at_step:g} at step {step} "
                f"from {config or value}"
            )


def check_kind(algorithm: Any, name: str, kind: type) -> None:
    """Require an object of a class, or None.

    Raises:
        ValueError: it is something else.
    """
    value = getattr(algorithm, name)
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{type(algorithm).__name__}: {name} must be {kind.__name__}(...) or None, got {value!r}")


def check_replay(algorithm: Any) -> None:
    """Require a replay that is filled with at least a batch before learning starts.

    Raises:
        ValueError: `replay_size` or `learning_starts` is smaller than `batch_size`.
    """
    for name in ("replay_size", "learning_starts"):
        if getattr(algorithm, name) < algorithm.batch_size:
            raise ValueError(
                f"{type(algorithm).__name__}: {name} must be at least batch_size ({algorithm.batch_size}), "
                f"got {getattr(algorithm, name)}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
