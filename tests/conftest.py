"""Four logical CPUs, so that tests can distribute over replicas; made before TensorFlow initialises."""

import pytest
import tensorflow as tf

CPUS = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(CPUS[0], [tf.config.LogicalDeviceConfiguration()] * 4)


@pytest.fixture(scope="session")
def two_replicas():
    """A second strategy would number its collective operations from 1 again, and TensorFlow aborts where it
    knows a number by another shape: all tests share this one."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
