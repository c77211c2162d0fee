"""Arrays that NumPy writes and TensorFlow reads, without a copy in between."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

ALIGNMENT = 64
"""Bytes: what TensorFlow's kernels assume of every tensor; memory that is not aligned ends the process."""


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of memory that TensorFlow can read where it is; its values are arbitrary.

    Example:
        >>> aligned_empty((3, 5), np.dtype(np.float32)).ctypes.data % ALIGNMENT
        0
    """
    nbytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes].view(dtype).reshape(shape)


def shared_tensor(array: np.ndarray) -> tf.Tensor:
    """A tensor of the same memory: it changes with the array, and keeps it alive.

    Raises:
        ValueError: memory that is not aligned, or not contiguous.

    Example:
        >>> array = aligned_empty((2,), np.dtype(np.float32))
        >>> tensor = shared_tensor(array)
        >>> array[:] = 7.0
        >>> tensor.numpy().tolist()
        [7.0, 7.0]
    """
    if array.ctypes.data % ALIGNMENT or not array.flags.c_contiguous:
        raise ValueError(f"a shared tensor needs contiguous memory aligned to {ALIGNMENT} bytes; see aligned_empty")
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
