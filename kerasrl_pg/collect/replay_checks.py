"""What both replays ask before anything else: sensible settings, and room for one transition."""

from __future__ import annotations

import math

from kerasrl_pg.checks import as_integer


def check_settings(*, num_envs: int, capacity: int, n_step: int, discount: float, slots_needed: int) -> None:
    """Raise for settings that no replay can have.

    Args:
        num_envs: N.
        capacity: observations of all environments together.
        n_step: environment steps that a transition spans.
        discount: γ, per environment step.
        slots_needed: observations of one environment without which no transition would ever be whole.

    Raises:
        ValueError: a number that is out of range, or a capacity that is too small; it says what would do.

    Example:
        >>> check_settings(num_envs=8, capacity=16, n_step=3, discount=0.99, slots_needed=5)
        Traceback (most recent call last):
        ...
        ValueError: a capacity of 16 is 2 observations for each of 8 environments; n_step=3 needs 5: at least 40 in all
    """
    for name, value in (("num_envs", num_envs), ("capacity", capacity), ("n_step", n_step)):
        as_integer(name, value)
    if not (math.isfinite(discount) and 0.0 <= discount <= 1.0):
        raise ValueError(f"discount must be between 0 and 1, got {discount!r}")
    if capacity // num_envs < slots_needed:
        raise ValueError(
            f"a capacity of {capacity} is {capacity // num_envs} observations for each of {num_envs} environments; "
            f"n_step={n_step} needs {slots_needed}: at least {slots_needed * num_envs} in all"
        )


def check_room(replay_size: int, most: int, batch_size: int) -> None:
    """Raise ValueError where a replay can never hold the transitions of a batch.

    Args:
        replay_size: observations of all environments together.
        most: transitions that can be drawn at once, when it is full.
        batch_size: transitions of a gradient step.

    Example:
        >>> check_room(replay_size=32, most=16, batch_size=32)
        Traceback (most recent call last):
        ...
        ValueError: replay_size=32 keeps at most 16 transitions of these environments, fewer than a batch of 32
    """
    if most < batch_size:
        raise ValueError(
            f"replay_size={replay_size} keeps at most {most} transitions of these environments, fewer than a batch of "
            f"{batch_size}"
        )


def check_priorities(exponent: float, offset: float) -> None:
    """Raise ValueError unless priorities (|δ| + offset)^exponent are positive and grow with |δ|, at most like it.

    Example:
        >>> check_priorities(exponent=0.6, offset=0.0)
        Traceback (most recent call last):
        ...
        ValueError: offset must be a positive number, got 0.0
    """
    if not 0.0 <= exponent <= 1.0:
        raise ValueError(f"exponent must be between 0 and 1, got {exponent!r}")
    if not 0.0 < offset < math.inf:
        raise ValueError(f"offset must be a positive number, got {offset!r}")
