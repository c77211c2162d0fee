"""Four logical CPUs, so that tests can distribute over replicas; made before TensorFlow initialises."""

import hypothesis
import pytest
import tensorflow as tf

CPUS = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(CPUS[0], [tf.config.LogicalDeviceConfiguration()] * 4)

# Two processes share the machine: no deadline, the same examples in every run, and no file that both write.
hypothesis.settings.register_profile("side by side", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("side by side")

VARIANTS = {
    "eager": lambda function: function,
    "tf.function": tf.function,
    "XLA": lambda function: tf.function(function, autograph=False, jit_compile=True),
}
"""AutoGraph is what a user's own `tf.function` has; the package itself goes without it."""


@pytest.fixture(params=VARIANTS)
def variant(request):
    """Each of the ways in which TensorFlow can run a function, as a decorator."""
    return VARIANTS[request.param]


@pytest.fixture(scope="session")
def two_replicas():
    """A second strategy would number its collective operations from 1 again, and TensorFlow aborts where it
    knows a number by another shape: all tests share this one."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
