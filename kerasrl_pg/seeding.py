"""Stateless seeds: every random number of a run is a function of one integer and of where it is used.

Seeds stay non-negative: from a negative one, XLA and the rest of TensorFlow draw different numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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
    if tf.executing_eagerly():  # one by one, the same operations take TensorFlow 1.5 ms and NumPy 50 µs
        with np.errstate(over="ignore"):
            seed, index = seed.numpy().astype(np.uint32), index.numpy().astype(np.uint32)[..., None]
            pair = _hashed_pair(seed, index, salt, np, lambda words: np.moveaxis(words, -1, 0))
        return tf.constant(np.stack(pair, axis=-1).astype(np.int32))
    seed, index = tf.cast(seed, tf.uint32), tf.expand_dims(tf.cast(index, tf.uint32), -1)
    pair = _hashed_pair(seed, index, salt, tf.bitwise, lambda words: tf.unstack(words, axis=-1))
    return tf.cast(tf.stack(pair, axis=-1), tf.int32)


def _hashed_pair(seed: Any, index: Any, salt: int, bits: Any, unstack: Callable) -> tuple[Any, Any]:
    """Two 31-bit words of a seed [2] for each index [..., 1].

    `bits` has `bitwise_xor` and `right_shift` for the kind of array that is handed in; `unstack` takes its last axis
    apart. What can be done for both words at once is: every operation of a graph takes time to trace.
    """
    indices = index * np.uint32(4) + np.array([salt, salt + 0x9E3779B9], np.uint32)
    first, second = unstack(_hash(seed + _hash(indices, bits), bits))
    first = _hash(first + second, bits)
    second = _hash(second + first, bits)
    return bits.right_shift(first, np.uint32(1)), bits.right_shift(second, np.uint32(1))


def _hash(x: Any, bits: Any) -> Any:
    """A permutation of 32-bit words in which every bit of the input moves every bit of the output.

    Source: Wellons, "Prospecting for Hash Functions" (2018), the function `lowbias32`.
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = bits.bitwise_xor(x, bits.right_shift(x, np.uint32(shift))) * np.uint32(factor)
    return bits.bitwise_xor(x, bits.right_shift(x, np.uint32(16)))
