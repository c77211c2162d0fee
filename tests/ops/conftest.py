"""Every operation is tested in the three ways in which TensorFlow can run it."""

import pytest
import tensorflow as tf

VARIANTS = {
    "eager": lambda operation: operation,
    "tf.function": tf.function,
    "jit_compile": lambda operation: tf.function(operation, jit_compile=True),
}


@pytest.fixture(params=VARIANTS)
def variant(request):
    return VARIANTS[request.param]
