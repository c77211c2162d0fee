"""Preprocessing as Keras layers, so that it travels inside the SavedModel.

`encode_leaf` turns any supported observation into what a trunk reads: an image `[B, height, width, channels]` or a
vector `[B, features]`.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg.frames import Crop, area_weights, check_crop
from kerasrl_pg.spaces import check_observation_space, leaf_paths, tensor_dtype, unflatten

SMALLEST_IMAGE = 8
"""Pixels: a Box whose height or width is smaller is read as a vector."""

WIDEST_RANGE = 2.0**16
"""Bounds of integers that are farther apart tell what the type can hold, not how large the values are."""

HEADS = {"policy", "policy_mean", "value", "value_head"}
"""Names of the layers of a policy model's heads."""


@keras.saving.register_keras_serializable(package="kerasrl_pg")
class OneHot(keras.layers.Layer):
    """Integers `[B, K]` (or `[B]`) to concatenated one-hot vectors `[B, sum(sizes)]`.

    Args:
        sizes: number of values of each of the K integers.
        starts: smallest value of each.

    Example:
        >>> OneHot([3, 2], [0, 1])(keras.ops.array([[2, 1]])).numpy().tolist()
        [[0.0, 0.0, 1.0, 1.0, 0.0]]
    """

    def __init__(self, sizes, starts, **kwargs):
        super().__init__(**kwargs)
        self.sizes = [int(size) for size in sizes]
        self.starts = [int(start) for start in starts]

    def call(self, inputs):
        """Integers to concatenated one-hot vectors."""
        columns = keras.ops.reshape(inputs, (-1, len(self.sizes)))  # [B, K]
        hot = [
            keras.ops.one_hot(columns[:, column] - start, size, dtype=self.compute_dtype)
            for column, (size, start) in enumerate(zip(self.sizes, self.starts, strict=True))
        ]
        return keras.ops.concatenate(hot, axis=-1)  # [B, sum(sizes)]

    def get_config(self):
        """The layer's settings, for serialization."""
        return {**super().get_config(), "sizes": self.sizes, "starts": self.starts}


@keras.saving.register_keras_serializable(package="kerasrl_pg")
class CropAndResize(keras.layers.Layer):
    """Cuts a region out of screens and makes it small: `frames.crop_and_resize` as a layer, the same to the byte.

    Args:
        size: height and width of the result, in pixels.
        crop: (top, bottom, left, right) of what is kept; None for all.

    Example:
        >>> screens = keras.ops.array([[[[0, 0, 10, 20], [0, 0, 30, 40]]]], "uint8")  # [1, 1, 2, 4]
        >>> CropAndResize(1, crop=(0, 2, 2, 4))(screens).numpy().tolist()
        [[[[25]]]]
    """

    def __init__(self, size: int, crop: Crop | None = None, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})  # bfloat16 would not hold the sums
        self.size = size
        self.crop = None if crop is None else tuple(crop)

    def build(self, input_shape):
        """Find out which part of the screen each small pixel is the mean of."""
        height, width = input_shape[-2:]
        self._edges = check_crop(self.crop or (0, height, 0, width), height, width, self.size)
        top, bottom, left, right = self._edges
        self._rows = area_weights(bottom - top, self.size)  # [size, bottom - top]
        self._columns = area_weights(right - left, self.size).T  # [right - left, size]

    def call(self, inputs):
        """`[B, stack, height, width]` to `[B, stack, size, size]` uint8."""
        top, bottom, left, right = self._edges
        region = keras.ops.cast(inputs[..., top:bottom, left:right], "float32")
        total = keras.ops.matmul(keras.ops.matmul(self._rows, region), self._columns)  # [B, stack, size, size]
        return keras.ops.cast(keras.ops.round(total / ((bottom - top) * (right - left))), "uint8")

    def get_config(self):
        """The layer's settings, for serialization."""
        return {**super().get_config(), "size": self.size, "crop": self.crop}


@keras.saving.register_keras_serializable(package="kerasrl_pg")
class RunningNormalizer(keras.layers.Layer):
    """Standardises its input by running statistics: clip((x - mean) / std, ±clip).

    The statistics are of every element on its own (each pixel, each component). They are not learned by gradient: the
    learner updates them once per rollout, after the gradient steps, so that within one update the log-probabilities
    of acting and of learning see the same statistics.

    Args:
        clip: bound of the output's absolute value, in standard deviations.

    Example:
        >>> layer = RunningNormalizer(clip=5.0)
        >>> layer(keras.ops.array([[1.0, 100.0]])).numpy().tolist()   # no statistics yet: mean 0, variance 1
        [[1.0, 5.0]]
    """

    def __init__(self, clip: float = 5.0, **kwargs):
        super().__init__(autocast=False, **kwargs)  # standardising would magnify what rounding left of a pixel
        self.clip = clip

    def build(self, input_shape):
        """Create the statistics, one per element of the input."""
        shape = tuple(input_shape[1:])
        add = lambda name, shape, init: self.add_weight(  # noqa: E731
            name=name, shape=shape, initializer=init, trainable=False, dtype="float32", autocast=False
        )
        self.mean = add("mean", shape, "zeros")
        self.variance = add("variance", shape, "ones")
        self.count = add("count", (), "zeros")

    def call(self, inputs):
        """Standardise and clip."""
        inverse_std = keras.ops.rsqrt(keras.ops.maximum(self.variance, 1e-6))
        standardised = (keras.ops.cast(inputs, "float32") - self.mean) * inverse_std
        return keras.ops.cast(keras.ops.clip(standardised, -self.clip, self.clip), self.compute_dtype)

    def get_config(self):
        """The layer's settings, for serialization."""
        return {**super().get_config(), "clip": self.clip}


@keras.saving.register_keras_serializable(package="kerasrl_pg")
class ValueDenormalizer(keras.layers.Layer):
    """The last layer of a critic that learns standardised targets: value = mean + std · x.

    The network thus predicts a number of order one whatever the size of the returns, while everything outside the
    model, the export included, sees values in the environment's own units.

    Example:
        >>> ValueDenormalizer()(keras.ops.array([[3.0]])).numpy().tolist()   # no statistics yet
        [[3.0]]
    """

    def build(self, input_shape):
        """Create the statistics of the value targets: three scalars."""
        add = lambda name, init: self.add_weight(  # noqa: E731
            name=name, shape=(), initializer=init, trainable=False, dtype="float32", autocast=False
        )
        self.mean = add("mean", "zeros")
        self.variance = add("variance", "ones")
        self.count = add("count", "zeros")

    @property
    def scale(self) -> tf.Tensor:
        """Standard deviation of the value targets so far, scalar; 1 before there are any."""
        return tf.sqrt(tf.maximum(tf.convert_to_tensor(self.variance), 1e-6))

    def call(self, inputs):
        """From standardised values to units of return."""
        return keras.ops.cast(inputs, "float32") * self.scale + self.mean


def observation_inputs(space: spaces.Space):
    """A `keras.Input` per leaf of the observation space, in the observation's own structure."""
    check_observation_space(space)
    inputs: list[keras.KerasTensor] = []
    names: set[str | None] = set()
    for path, leaf in leaf_paths(space):
        name = _input_name(path)
        inputs.append(keras.Input(leaf.shape, dtype=tensor_dtype(leaf).name, name=None if name in names else name))
        names.add(name)
    return unflatten(space, inputs)


def _input_name(path: tuple[str | int, ...]) -> str | None:
    """Keras warns unless the inputs of a dict are named by its keys; within a model no two layers share a name."""
    name = ".".join(str(key) for key in path).replace("/", "_")
    return None if name in HEADS else name or None


def encode_leaf(space: spaces.Space, tensor: keras.KerasTensor) -> keras.KerasTensor:
    """One leaf observation to an image `[B, height, width, channels]` or a vector `[B, features]`, floating point."""
    if isinstance(space, spaces.Discrete):
        return OneHot([space.n], [space.start])(tensor)  # [B, n]
    if isinstance(space, spaces.MultiDiscrete):
        flat = keras.layers.Flatten()(tensor)  # [B, K]
        return OneHot(space.nvec.ravel(), np.ravel(space.start))(flat)  # [B, sum(nvec)]
    tensor = _unit_interval(space, tensor)
    if is_image(space):
        return _channels_last(space.shape or (), tensor)  # [B, height, width, channels]
    # In float32 whatever the trunk computes in: a normalizer that follows needs all the digits.
    return keras.layers.Flatten(dtype="float32")(tensor)  # [B, features]


def image_shape(space: spaces.Space) -> tuple[int, int] | None:
    """(height, width) in pixels if observations of `space` are images, else None.

    Images are Boxes of rank 3 (channels first or last) and, of type uint8, of rank 2 (one channel) and rank 4 (a
    stack of images), at least 8 pixels high and wide. Channels are first where there are fewer of them than there are
    columns, unless the first two numbers are equal: then those are height and width.

    Example:
        >>> image_shape(spaces.Box(0, 255, (4, 84, 84), np.uint8))
        (84, 84)
        >>> image_shape(spaces.Box(-1, 1, (3,))) is None
        True
    """
    parts = leaf_paths(space)
    if len(parts) == 1:
        space = parts[0][1]  # of a Dict or Tuple with nothing else in it
    if not isinstance(space, spaces.Box):
        return None
    ranks = (2, 3, 4) if space.dtype == np.uint8 else (3,)
    if len(space.shape) not in ranks:
        return None
    rank = len(space.shape)
    if rank == 2:
        size = space.shape
    elif rank == 3:
        size = space.shape[1:] if _is_channels_first(space.shape) else space.shape[:2]
    else:
        size = space.shape[1:3]
    return (size[0], size[1]) if min(size) >= SMALLEST_IMAGE else None


def is_image(space: spaces.Space) -> bool:
    """Whether `encode_leaf` reads observations of this space as images."""
    return image_shape(space) is not None


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    return shape[0] < shape[2] and shape[0] != shape[1]


def _channels_last(shape: tuple[int, ...], tensor: keras.KerasTensor) -> keras.KerasTensor:
    if len(shape) == 2:
        return keras.layers.Reshape((*shape, 1))(tensor)  # [B, height, width, 1]
    if len(shape) == 3 and _is_channels_first(shape):
        return keras.layers.Permute((2, 3, 1))(tensor)  # [B, channels, height, width] -> [B, height, width, channels]
    if len(shape) == 4:
        stack, height, width, channels = shape
        tensor = keras.layers.Permute((2, 3, 1, 4))(tensor)  # -> [B, height, width, stack, channels]
        return keras.layers.Reshape((height, width, stack * channels))(tensor)
    return tensor


def _unit_interval(space: spaces.Space, tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Integers with bounds become 0 to 1; floats are left as they are, and integers that are as good as unbounded.

    Each number by its own bounds, so that a flag beside a large count is not lost; the pixels of an image all alike.
    """
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.integer):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        if is_image(space):
            low, high = low.min(keepdims=True), high.max(keepdims=True)
        bounded = high - low <= WIDEST_RANGE
        scale = np.where(bounded, 1.0 / np.maximum(high - low, 1.0), 1.0)
        # Not -low * scale, which may be -0.0: TensorFlow's cache of scalars would then give that for every 0.0.
        offset = np.where(bounded, 0.0 - low * scale, 0.0)
        return _rescaled(tensor, scale, offset) if bounded.any() else tensor
    return keras.layers.Rescaling(1.0)(tensor) if tensor_dtype(space) == np.uint8 else tensor


def _rescaled(tensor: keras.KerasTensor, scale: np.ndarray, offset: np.ndarray) -> keras.KerasTensor:
    """By one number where all are equal, as those of most spaces are."""
    if np.ptp(scale) == 0 and np.ptp(offset) == 0:
        return keras.layers.Rescaling(float(scale.flat[0]), float(offset.flat[0]))(tensor)
    return keras.layers.Rescaling(scale.tolist(), offset.tolist())(tensor)
