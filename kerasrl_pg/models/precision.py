"""In which precision models compute."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import keras
import tensorflow as tf


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Build layers under a Keras dtype policy, then put the global one back.

    Example:
        >>> with dtype_policy("mixed_bfloat16"):
        ...     keras.layers.Dense(1).compute_dtype
        'bfloat16'
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def mixed_precision_policy(name: str | None) -> contextlib.AbstractContextManager[None]:
    """A context in which models are built as `fit_agent(mixed_precision=name)` has them.

    Raises:
        ValueError: a name that is none of those.

    Example:
        >>> with mixed_precision_policy("bfloat16"):
        ...     keras.layers.Dense(1).compute_dtype
        'bfloat16'
    """
    if name == "auto":
        name = "bfloat16" if has_fast_bfloat16() else None
    if name not in (None, "float32", "bfloat16"):
        raise ValueError(f'mixed_precision must be None, "auto", "bfloat16" or "float32", got {name!r}')
    return dtype_policy("mixed_bfloat16" if name == "bfloat16" else "float32")


def has_fast_bfloat16() -> bool:
    """Whether the processor (or a GPU) multiplies bfloat16 natively; elsewhere it is emulated, many times slower."""
    if tf.config.list_physical_devices("GPU"):
        return True
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
