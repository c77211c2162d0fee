"""The one check of numbers that must be whole."""

from __future__ import annotations

import numbers
from typing import Any


def is_integer(value: Any, least: int = 1) -> bool:
    """Whether `value` is an integer of at least `least`, Python's or NumPy's; a bool is none.

    Example:
        >>> is_integer(8), is_integer(8.0), is_integer(True)
        (True, False, False)
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least


def as_integer(name: str, value: Any, least: int = 1) -> int:
    """`value` as Python's integer, if it `is_integer`.

    Raises:
        ValueError: it is none; the message calls it `name`.

    Example:
        >>> import numpy as np
        >>> as_integer("num_envs", np.int64(8))
        8
        >>> as_integer("num_envs", 0)
        Traceback (most recent call last):
        ...
        ValueError: num_envs must be an integer of at least 1, got 0
    """
    if not is_integer(value, least):
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)
