"""The checks of values that anything may be given: whole numbers, and switches."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np


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


def as_switch(name: str, value: Any) -> bool:
    """`value` as Python's bool, if it is True or False, Python's or NumPy's: a text would count as true.

    Raises:
        ValueError: it is neither; the message calls it `name`.

    Example:
        >>> as_switch("in_graph", np.False_)
        False
        >>> as_switch("in_graph", "no")
        Traceback (most recent call last):
        ...
        ValueError: in_graph must be True or False, got 'no'
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)
