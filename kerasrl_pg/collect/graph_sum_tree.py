"""A sum tree of tensors: draws places in proportion to their priorities inside a compiled loop.

P(i) = pᵢ / Σ p

A tree is a tuple of levels `[num_nodes]` float32, the leaves first; every node but the leaves is the sum of its
`FAN_OUT` children. All functions are pure, take the whole batch a level at a time, and give the same numbers
compiled and not: sums are written out, so that their order is fixed.
"""

from __future__ import annotations

import tensorflow as tf

FAN_OUT = 4
"""Children of a node. Measured: 2 has twice the levels, and a level costs more than the few numbers in it; from 8 on
the numbers do."""

Tree = tuple[tf.Tensor, ...]


def empty_tree(num_places: int) -> Tree:
    """Levels of zeros; all but the last are padded to whole families.

    Example:
        >>> [level.shape[0] for level in empty_tree(6)]
        [8, 4, 1]
    """
    sizes = [num_places + -num_places % FAN_OUT]
    while sizes[-1] > FAN_OUT:
        parents = sizes[-1] // FAN_OUT
        sizes.append(parents + -parents % FAN_OUT)
    return tuple(tf.zeros([size]) for size in [*sizes, 1])


def set_priorities(tree: Tree, places: tf.Tensor, priority: tf.Tensor) -> Tree:
    """The tree in which `places` [B] have `priority` [B]; a place that occurs twice must have the same one twice.

    Example:
        >>> tree = set_priorities(empty_tree(6), tf.constant([1, 5]), tf.constant([2.0, 3.0]))
        >>> [level.numpy().tolist() for level in tree]
        [[0.0, 2.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0], [2.0, 3.0, 0.0, 0.0], [5.0]]
    """
    levels = []
    node = places
    for level in tree[:-1]:
        level = tf.tensor_scatter_nd_update(level, node[:, None], priority)
        levels.append(level)
        node = node // FAN_OUT
        priority = _running_sums(_children(level, node))[-1]
    return *levels, priority[:1]  # all at the root now


def draw_places(tree: Tree, batch_size: int, seed: tf.Tensor) -> tf.Tensor:
    """[B] int32 places, independent and with replacement.

    Every level has a random number of its own: one for the whole path would have too few bits in float32 to choose
    exactly among many places.

    Args:
        tree: with at least one positive priority; without, place 0 is all that comes out.
        batch_size: B.
        seed: [2] int32.

    Example:
        >>> tree = set_priorities(empty_tree(6), tf.constant([1, 5]), tf.constant([2.0, 0.0]))
        >>> draw_places(tree, 3, tf.constant([0, 0])).numpy().tolist()
        [1, 1, 1]
    """
    bits = tf.random.stateless_uniform([len(tree) - 1, batch_size], seed, None, None, tf.int32, alg="philox")
    # Integers, since TensorFlow's uniform floats are others compiled than not; 24 bits, what float32 holds exactly.
    shares = tf.cast(tf.bitwise.bitwise_and(bits, 0xFFFFFF), tf.float32) * 2.0**-24  # [depth, B], below 1
    root = tf.zeros([batch_size], tf.int32)
    # Without this branch XLA would compute the whole path anew for every use that is made of the places.
    return tf.cond(tree[-1][0] > 0, lambda: _descend(tree, root, shares), lambda: root)


def _descend(tree: Tree, node: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """[B] leaves below the root."""
    for level, share in zip(reversed(tree[:-1]), tf.unstack(shares), strict=True):
        sums = _running_sums(_children(level, node))
        # A child is passed only if something lies behind it: rounding alone must not lead to a priority of 0.
        passed = [tf.cast((share * sums[-1] >= one) & (one < sums[-1]), tf.int32) for one in sums[:-1]]
        node = FAN_OUT * node + tf.add_n(passed)
    return node


def _children(level: tf.Tensor, parents: tf.Tensor) -> list[tf.Tensor]:
    """`FAN_OUT` times [B]: the first child of each parent, the second, ..."""
    # Number by number: compiled, this takes half the time of gathering rows of `FAN_OUT`.
    return [tf.gather(level, FAN_OUT * parents + child) for child in range(FAN_OUT)]


def _running_sums(parts: list[tf.Tensor]) -> list[tf.Tensor]:
    """One after the other, so that a child of priority 0 never widens the sum."""
    sums = parts[:1]
    for part in parts[1:]:
        sums.append(sums[-1] + part)
    return sums
