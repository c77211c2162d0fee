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
        ValueError: memory that is not aligned, not contiguous, or only to be read.

    Example:
        >>> array = aligned_empty((2,), np.dtype(np.float32))
        >>> tensor = shared_tensor(array)
        >>> array[:] = 7.0
        >>> tensor.numpy().tolist()
        [7.0, 7.0]
    """
    if not _is_readable(array):
        raise ValueError(
            f"a shared tensor needs contiguous, writable memory aligned to {ALIGNMENT} bytes; see aligned_empty"
        )
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """A tensor of the same memory where TensorFlow can read that, else of a copy, which takes many times as long.

    For arrays that nobody writes to before the tensor was read.

    Example:
        >>> rows = aligned_empty((2, 3), np.dtype(np.float32))
        >>> first, second = as_tensor(rows[0]), as_tensor(rows[1])   # the second row begins at byte 12
        >>> rows[:] = 7.0
        >>> first.numpy().tolist(), second.numpy().tolist() == [7.0] * 3
        ([7.0, 7.0, 7.0], False)
    """
    return shared_tensor(array) if _is_readable(array) else tf.constant(array)


def _is_readable(array: np.ndarray) -> bool:
    return array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous and array.flags.writeable
