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


def has_fast_bfloat16() -> bool:
    """Whether the processor (or a GPU) multiplies bfloat16 natively; elsewhere it is emulated, many times slower."""
    if tf.config.list_physical_devices("GPU"):
        return True
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
