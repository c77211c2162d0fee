"""Stateless seeds: every random number of a run is a function of one integer and of where it is used.

Seeds stay non-negative: from a negative one, XLA and the rest of TensorFlow draw different numbers.
"""

from __future__ import annotations

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
    return tf.unstack(_non_negative(tf.random.split(seed, num)))


def fold_in(seed: tf.Tensor, index: tf.Tensor | int) -> tf.Tensor:
    """The [2] seed number `index` (an iteration, an epoch, a replica) under `seed`."""
    return _non_negative(tf.random.fold_in(seed, index))


def seeds_of_steps(seed: tf.Tensor, shape: list[int]) -> tf.Tensor:
    """[*shape, 2] independent seeds under `seed`, all at once: cheaper than splitting in a loop."""
    return _non_negative(tf.random.stateless_uniform([*shape, 2], seed, None, None, tf.int32))


def integers(seed: int, num: int) -> list[int]:
    """`num` independent 31-bit integers, for what takes an integer seed: initializers and Gymnasium."""
    return [int(word) >> 1 for word in np.random.SeedSequence(seed).generate_state(num)]


def _non_negative(seed: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.bitwise_and(seed, tf.constant(0x7FFFFFFF, seed.dtype))
