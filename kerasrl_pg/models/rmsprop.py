"""RMSprop as TensorFlow 1 had it, with which A2C was first published as code."""

from __future__ import annotations

import keras


@keras.saving.register_keras_serializable(package="kerasrl_pg")
class RMSpropFromOne(keras.optimizers.RMSprop):
    """Keras' RMSprop whose mean squares start at 1 instead of 0: the first steps are small instead of large.

    v = rho · v + (1 - rho) · g²;  w = w - learning_rate · g / √(v + epsilon), from v = 1. Epsilon stands inside the
    square root in Keras' own as well.

    Source: `tf.compat.v1.train.RMSPropOptimizer`; Stable-Baselines3 rebuilds it as `RMSpropTFLike`.

    Example:
        >>> weight = keras.Variable([1.0])
        >>> RMSpropFromOne(learning_rate=0.1, rho=0.75, epsilon=0.25).apply([keras.ops.array([1.0])], [weight])
        >>> round(float(weight[0]), 4)   # 1 - 0.1 / √(0.75 + 0.25 + 0.25)
        0.9106
    """

    def build(self, variables):
        """Create the mean squares, all 1."""
        if not self.built:
            super().build(variables)
            for mean_square in self._velocities:
                mean_square.assign(keras.ops.ones_like(mean_square))
