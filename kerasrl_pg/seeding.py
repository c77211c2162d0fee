"""Stateless seeds: every random number of a run is a function of one integer and of where it is used.

Seeds stay non-negative: from a negative one, XLA and the rest of TensorFlow draw different numbers.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf


def make_seed(seed: int) -> tf.Tensor:
    """The [2] int32 seed that everything in a run descends from.

    Example:
        >>> make_seed(7).numpy().tolist()
        [7, 0]
    """
    return tf.constant([seed & 0x7FFFFFFF, (seed >> 31) & 0x7FFFFFFF], tf.int32)


def split(seed: tf.Tensor, num: int) -> list[tf.Tensor]:
    """`num` independent [2] seeds, a pure function of `seed`."""
    return tf.unstack(_derived(seed, tf.range(num), salt=1))


def fold_in(seed: tf.Tensor, index: tf.Tensor | int) -> tf.Tensor:
    """The [2] seed number `index` (an iteration, an epoch, a replica) under `seed`."""
    return _derived(seed, tf.convert_to_tensor(index), salt=2)


def seeds_of_steps(seed: tf.Tensor, shape: list[int]) -> tf.Tensor:
    """[*shape, 2] independent seeds under `seed`, all at once: cheaper than splitting in a loop."""
    return _derived(seed, tf.reshape(tf.range(math.prod(shape)), shape), salt=3)


def integers(seed: int, num: int) -> list[int]:
    """`num` independent 31-bit integers, for what takes an integer seed: initializers and Gymnasium."""
    return [int(word) >> 1 for word in np.random.SeedSequence(seed).generate_state(num)]


def _derived(seed: tf.Tensor, index: tf.Tensor, salt: int) -> tf.Tensor:
    """[*index, 2] seeds by hashing; for each index a one-to-one function of all 62 bits but two.

    A few integer operations, where each of TensorFlow's own splits is a whole generator that XLA compiles anew
    (some 70 ms each). The random numbers themselves are drawn by TensorFlow's generators from these seeds.
    """
    first, second = tf.unstack(tf.cast(seed, tf.uint32))
    index = tf.cast(index, tf.uint32) * np.uint32(4) + np.uint32(salt)
    first = _hash(first + _hash(index))
    second = _hash(second + _hash(index + np.uint32(0x9E3779B9)))
    first = _hash(first + second)
    second = _hash(second + first)
    derived = tf.stack([first, second], axis=-1)  # [*index, 2]
    return tf.cast(tf.bitwise.right_shift(derived, np.uint32(1)), tf.int32)


def _hash(x: tf.Tensor) -> tf.Tensor:
    """A permutation of 32-bit words in which every bit of the input moves every bit of the output.

    Source: Wellons, "Prospecting for Hash Functions" (2018), the function `lowbias32`.
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, np.uint32(shift))) * np.uint32(factor)
    return x
