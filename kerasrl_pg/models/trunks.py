"""Trunks: Keras models without heads, from a preprocessed observation to features.

Any `keras.Model` whose output is one `[B, features]` tensor can stand in for these.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from kerasrl_pg import seeding
from kerasrl_pg.models.patch_convolution import PatchConv2D


def mlp_trunk(
    hidden: Sequence[int] = (64, 64), *, activation: str = "tanh", dropout: float = 0.0, seed: int = 0
) -> keras.Model:
    """A multilayer perceptron, `[B, ...] -> [B, hidden[-1]]`; inputs of higher rank are flattened.

    Args:
        hidden: units of each layer.
        activation: any Keras activation.
        dropout: share of units dropped after each layer while learning (0 for none).
        seed: integer from which the initial weights follow.

    Example:
        >>> mlp_trunk((128,))(keras.ops.zeros((5, 4))).shape
        TensorShape([5, 128])
    """
    layers: list[keras.Layer] = [keras.layers.Flatten()]
    for units, layer_seed in zip(hidden, seeding.integers(seed, len(hidden)), strict=True):
        layers.append(keras.layers.Dense(units, activation, kernel_initializer=_orthogonal(layer_seed)))
        if dropout:
            layers.append(keras.layers.Dropout(dropout, seed=layer_seed))
    return keras.Sequential(layers)


def nature_conv_trunk(
    *, activation: str = "relu", features: int | None = 512, width: float = 1.0, seed: int = 0
) -> keras.Model:
    """The convolutional network of Mnih et al. 2015 (Nature 518, Methods): 32·8·4, 64·4·2, 64·3·1, dense 512.

    Args:
        activation: any Keras activation; the paper's is relu.
        features: units of the dense layer; None ends with what the convolutions give, flattened.
        width: share of the paper's channels to keep (0.5 halves them).
        seed: integer from which the initial weights follow.

    Returns:
        A model `[B, height, width, channels] -> [B, features]`, for images of at least 36x36.

    Example:
        >>> nature_conv_trunk()(keras.ops.zeros((2, 84, 84, 4))).shape
        TensorShape([2, 512])
    """
    channels = [max(1, round(width * count)) for count in (32, 64, 64)]
    return _conv_trunk(keras.layers.Conv2D, channels, (8, 4, 3), (4, 2, 1), activation, features, seed)


def small_conv_trunk(*, activation: str = "relu", features: int = 128, seed: int = 0) -> keras.Model:
    """Two 3x3 convolutions (16, 32) and a dense layer, for images too small for the Nature network (`PatchConv2D`).

    Example:
        >>> small_conv_trunk()(keras.ops.zeros((2, 9, 10, 3))).shape
        TensorShape([2, 128])
    """
    return _conv_trunk(PatchConv2D, (16, 32), (3, 3), (1, 1), activation, features, seed)


def _conv_trunk(convolution, channels, kernels, strides, activation, features, seed) -> keras.Model:
    seeds = seeding.integers(seed, len(channels) + 1)
    layers: list[keras.Layer] = [
        convolution(count, kernel, strides=stride, activation=activation, kernel_initializer=_orthogonal(layer_seed))
        for count, kernel, stride, layer_seed in zip(channels, kernels, strides, seeds[:-1], strict=True)
    ]
    layers.append(keras.layers.Flatten())
    if features is not None:
        layers.append(keras.layers.Dense(features, activation, kernel_initializer=_orthogonal(seeds[-1])))
    return keras.Sequential(layers)


def _orthogonal(seed: int) -> keras.initializers.Initializer:
    # Gain √2 for hidden layers: Engstrom et al. 2020, "Implementation Matters", which traces it to OpenAI baselines.
    return keras.initializers.Orthogonal(2**0.5, seed=seed)
