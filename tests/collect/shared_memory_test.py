"""Alignment, without which TensorFlow ends the process; sharing is tested by `rollout_buffer_test.py`."""

import numpy as np
import pytest

from kerasrl_pg.collect.shared_memory import ALIGNMENT, aligned_empty, shared_tensor


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 7, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_memory_is_aligned_whatever_is_stored_in_it(shape, dtype):
    array = aligned_empty(shape, np.dtype(dtype))
    assert array.ctypes.data % ALIGNMENT == 0
    assert (array.shape, array.dtype) == (shape, dtype)


@pytest.mark.parametrize(
    "array", [aligned_empty((64,), np.dtype(np.float32))[1:], aligned_empty((8, 8), np.dtype(np.float32)).T]
)
def test_memory_that_would_end_the_process_is_refused(array):
    with pytest.raises(ValueError, match="contiguous memory aligned to 64 bytes"):
        shared_tensor(array)
