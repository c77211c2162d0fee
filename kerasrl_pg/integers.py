"""The one check of numbers that must be whole."""

from __future__ import annotations

import numbers
from typing import Any


def as_integer(name: str, value: Any, least: int = 1) -> int:
    """`value` as Python's integer, if it is one or NumPy's; a bool is none.

    Raises:
        ValueError: it is no integer, or smaller than `least`; the message calls it `name`.

    Example:
        >>> import numpy as np
        >>> as_integer("num_envs", np.int64(8))
        8
        >>> as_integer("num_envs", 0)
        Traceback (most recent call last):
        ...
        ValueError: num_envs must be an integer of at least 1, got 0
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)
