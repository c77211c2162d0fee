"""What tests of whole trainings share."""

import keras
import tensorflow as tf


class FirstWeights(keras.callbacks.Callback):
    """What is learned, before it is."""

    def on_train_begin(self, logs=None):
        self.weights = [variable.numpy() for variable in self.model.trainable_variables]


def replicas(count):
    """A strategy over `count` logical CPUs; none at all for 0."""
    if count == 0:
        return None
    devices = [f"CPU:{index}" for index in range(count)]
    # Strategies of different sizes would confuse TensorFlow's collectives, which number themselves per process.
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())
