"""Alignment, without which TensorFlow ends the process; sharing is tested by `rollout_buffer_test.py`."""

import numpy as np
import pytest

from kerasrl_pg.shared_memory import ALIGNMENT, aligned_empty, as_tensor, shared_tensor


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 7, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_memory_is_aligned_whatever_is_stored_in_it(shape, dtype):
    array = aligned_empty(shape, np.dtype(dtype))
    assert array.ctypes.data % ALIGNMENT == 0
    assert (array.shape, array.dtype) == (shape, dtype)


def read_only():
    array = aligned_empty((8,), np.dtype(np.float32))
    array[:] = 2.0
    array.flags.writeable = False
    return array


NOT_TO_BE_SHARED = {
    "not aligned": np.ones_like(aligned_empty((64,), np.dtype(np.float32)))[1:],
    "not contiguous": np.ones((8, 8), np.float32).T,
    "read only": read_only(),
}


@pytest.mark.parametrize("array", NOT_TO_BE_SHARED.values(), ids=NOT_TO_BE_SHARED.keys())
def test_memory_that_would_end_the_process_is_refused_or_copied(array):
    with pytest.raises(ValueError, match="contiguous, writable memory aligned to 64 bytes"):
        shared_tensor(array)
    np.testing.assert_array_equal(as_tensor(array), array)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.float32])
def test_aligned_memory_is_read_where_it_is(dtype):
    array = aligned_empty((2, 3), np.dtype(dtype))
    array[:] = 0
    tensor = as_tensor(array)
    array[1, 2] = 1
    assert tensor.dtype.as_numpy_dtype == dtype
    assert tensor.numpy().tolist() == [[0, 0, 0], [0, 0, 1]]
