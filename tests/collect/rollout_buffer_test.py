"""Memory that NumPy writes and TensorFlow reads; that rollouts are right in it is in `contract/rollout_test.py`."""

import numpy as np
import pytest
import tensorflow as tf

from kerasrl_pg.collect.rollout_buffer import FIRST_LENGTH, RolloutBuffer
from kerasrl_pg.shared_memory import shared_tensor
from kerasrl_pg.spaces import map_observation

N = 3


def observation(time):
    """A batch whose values tell the step, of every type that observations are stored in; 7 pixels do not align."""
    return {
        "screen": np.full((N, 7, 1), time % 256, np.uint8),
        "parts": (np.full((N, 2), time, np.float32), np.full((N,), time, np.int32)),
    }


@pytest.mark.parametrize("length", [5, None])
def test_what_was_written_is_read(length):
    steps = length or 3 * FIRST_LENGTH  # more than there is room for at first
    buffer = RolloutBuffer(observation(0), length)
    for time in range(steps):
        buffer.write(time, observation(time))
    expected = tf.nest.map_structure(lambda *rows: np.stack(rows), *(observation(time) for time in range(steps)))
    tf.nest.map_structure(np.testing.assert_array_equal, buffer.read(steps), expected)


def test_a_rollout_is_read_by_a_compiled_function_where_it_is_written():
    buffer = RolloutBuffer(observation(0), 4)
    for time in range(4):
        buffer.write(time, observation(time))
    tensors = map_observation(shared_tensor, buffer.read(4))
    total = tf.function(lambda parts: tf.add_n([tf.reduce_sum(tf.cast(x, tf.float32)) for x in tf.nest.flatten(parts)]))
    per_step = N * (7 + 2 + 1)
    assert float(total(tensors)) == per_step * (0 + 1 + 2 + 3)
    buffer.write(0, observation(10))
    assert float(total(tensors)) == per_step * (10 + 1 + 2 + 3)


def test_a_buffer_that_grows_leaves_what_was_read_as_it_is():
    buffer = RolloutBuffer(np.zeros(N, np.float32), 2)
    for time in range(2):
        buffer.write(time, np.full(N, time, np.float32))
    tensor = shared_tensor(buffer.read(2))
    buffer.write(2, np.full(N, 2, np.float32))
    buffer.write(0, np.full(N, 9, np.float32))
    assert tensor[:, 0].numpy().tolist() == [0, 1]
    assert buffer.read(3)[:, 0].tolist() == [9, 1, 2]
