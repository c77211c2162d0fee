"""From a Gymnasium action space to a probability distribution, and from its samples to what the environment
takes.

Between the two an action is in the *policy's units*, which is how a rollout stores it:

| action space | action | parameters P |
|---|---|---|
| `Discrete(A)` | [B] int32, counted from 0 | A logits |
| `MultiDiscrete`, K choices of any shape | [B, K] int32, each counted from 0 | Σ n logits, choice by choice |
| `MultiBinary`, K bits of any shape | [B, K] int32 | K logits of a 1 |
| `Box` of floats, D numbers of any shape | [B, D] float32; -1 to 1 is low to high | D means, D log std |

A Gaussian knows no bounds: its samples are clipped on their way into the environment, and `log_prob` is that
of the unclipped sample (as in Stable-Baselines3 and CleanRL), so the policy's gradient stays exact.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from tensorflow_probability import distributions as tfd

IMPOSSIBLE = -1e9
"""Logit of an action that does not exist: its probability is exactly 0; with -inf, 0 · log 0 would be NaN."""


def parameter_size(action_space: Space) -> int:
    """How many numbers per state the policy head must put out: the P of `action_distribution`.

    Args:
        action_space: Of one environment.

    Returns:
        A for Discrete, the sum of `nvec` for MultiDiscrete, the number of bits for MultiBinary, 2·D for Box.

    Raises:
        TypeError: The space is not supported.

    Example:
        >>> parameter_size(Discrete(4)), parameter_size(MultiDiscrete([2, 3]))
        (4, 5)
    """
    match action_space:
        case Discrete():
            return int(action_space.n)
        case MultiDiscrete():
            return int(action_space.nvec.sum())
        case MultiBinary():
            return math.prod(action_space.shape)
        case Box() if _is_float(action_space) and 0 not in action_space.shape:
            return 2 * math.prod(action_space.shape)
    raise _unsupported(action_space)


def action_distribution(action_space: Space, parameters: tf.Tensor) -> tfd.Distribution:
    """The policy π(·|s) for a batch of states, in the policy's units (see the module).

    Always in float32, also for a model that computes in a lower precision. Gradient flows to `parameters`
    through `log_prob` and `entropy`.

    Args:
        action_space: Of one environment.
        parameters: [B, P], P = `parameter_size(action_space)`: logits, or means followed by logarithms of
            standard deviations.

    Returns:
        A batch [B] of distributions: `log_prob(action)` and `entropy()` are [B]; `sample(seed=seed)` with a
        [2] int32 seed is an action, a pure function of the seed.

    Raises:
        TypeError: The space is not supported.
        ValueError: The last dimension of `parameters` is not P.

    Example:
        >>> policy = action_distribution(Discrete(2), tf.math.log([[0.25, 0.75]]))
        >>> [round(float(p), 4) for p in tf.exp(policy.log_prob([1]))]
        [0.75]
    """
    size = parameter_size(action_space)
    if not parameters.shape[-1:].is_compatible_with([size]):
        raise ValueError(f"parameters must be [B, {size}] for {action_space}, got shape {parameters.shape}")
    parameters = tf.cast(parameters, tf.float32)
    match action_space:
        case Discrete():
            return tfd.Categorical(logits=parameters)
        case MultiDiscrete():
            logits = _padded_logits(action_space.nvec.ravel(), parameters)  # [B, P] -> [B, K, max n]
            return tfd.Independent(tfd.Categorical(logits=logits), reinterpreted_batch_ndims=1)
        case MultiBinary():
            return tfd.Independent(tfd.Bernoulli(logits=parameters), reinterpreted_batch_ndims=1)
        case _:  # Box: parameter_size has turned away everything else
            mean, log_std = tf.split(parameters, 2, axis=-1)  # [B, 2 D] -> [B, D], [B, D]
            return tfd.MultivariateNormalDiag(loc=mean, scale_diag=tf.exp(log_std))


class EpsilonGreedy:
    """A policy over action values: any action with probability ε, else the best one. Batch shape [B].

    Watkins 1989; Mnih et al. 2015, algorithm 1. Its mode is the best action at every ε; among equals, the first.

    Args:
        action_values: [B, A] Q(s, ·).
        epsilon: Scalar ε, from 0 to 1.

    Example:
        >>> policy = EpsilonGreedy(tf.constant([[1.0, 3.0]]), 0.5)
        >>> policy.mode().numpy().tolist(), [round(float(p), 4) for p in tf.exp(policy.log_prob([1]))]
        ([1], [0.75])
    """

    def __init__(self, action_values: tf.Tensor, epsilon: tf.Tensor | float):
        self.action_values = tf.cast(action_values, tf.float32)
        num_actions = self.action_values.shape[-1]
        best = tf.one_hot(self.mode(), num_actions)  # [B, A]
        self._mixture = tfd.Categorical(probs=epsilon / num_actions + (1.0 - epsilon) * best)

    def mode(self) -> tf.Tensor:
        """[B] int32: the best action."""
        return tf.argmax(self.action_values, axis=-1, output_type=tf.int32)

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """[B] int32: an action for each state, a pure function of the [2] seed."""
        return self._mixture.sample(seed=seed)

    def log_prob(self, action: tf.Tensor) -> tf.Tensor:
        """[B] log π(action|s)."""
        return self._mixture.log_prob(action)


def sample(action_space: Space, distribution: tfd.Distribution, seed: tf.Tensor) -> tf.Tensor:
    """Draw an action for each state: a ~ π(a|s), a pure function of the seed.

    Of a policy that diverged, whose parameters are NaN, TensorFlow draws a choice one beyond the last, which makes
    `log_prob` raise; it is brought back into range, and the loss that follows is NaN, as callbacks expect.

    Args:
        action_space: Of one environment.
        distribution: As `action_distribution` makes it.
        seed: [2] int32.

    Returns:
        An action in the policy's units, [B, ...].

    Example:
        >>> policy = action_distribution(Discrete(3), tf.constant([[0.0, 50.0, 0.0]]))
        >>> sample(Discrete(3), policy, tf.constant([1, 2])).numpy().tolist()
        [1]
    """
    action = distribution.sample(seed=seed)
    match action_space:
        case Discrete():
            return tf.minimum(action, int(action_space.n) - 1)
        case MultiDiscrete():
            return tf.minimum(action, tf.constant(action_space.nvec.ravel() - 1, action.dtype))  # [B, K]
    return action


def to_environment(action_space: Space, action: tf.Tensor) -> tf.Tensor:
    """What the environment takes, from an action in the policy's units: scaled, clipped, shaped and cast.

    A Box dimension with both bounds is low + (action + 1) / 2 · (high - low), clipped; with one bound it is
    the action itself, clipped on that side; with none it is the action itself. No gradient is meant to flow.

    Args:
        action_space: Of one environment.
        action: [B, ...] in the policy's units.

    Returns:
        [B, *action_space.shape] of the space's dtype: every row is in the space.

    Raises:
        TypeError: The space is not supported.

    Example:
        >>> to_environment(Discrete(3, start=-1), tf.constant([0, 2])).numpy().tolist()
        [-1, 1]
        >>> to_environment(Box(0.0, 10.0, [1]), tf.constant([[-1.0], [0.5], [7.0]])).numpy().ravel().tolist()
        [0.0, 7.5, 10.0]
    """
    match action_space:
        case Discrete() | MultiDiscrete():
            action = _shaped(action_space, action)  # [B, K] -> [B, *shape]
            return action + action_space.start
        case MultiBinary():
            return _shaped(action_space, action)  # [B, K] -> [B, *shape]
        case Box() if _is_float(action_space):
            action = _shaped(action_space, action)  # [B, D] -> [B, *shape]
            center, half_width = box_units(action_space)
            return tf.clip_by_value(center + half_width * action, action_space.low, action_space.high)
    raise _unsupported(action_space)


def box_units(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """The environment's units of a Box: action = center + half width · (action in the policy's units).

    A dimension with both bounds has center (low + high) / 2 and half width (high - low) / 2, halved first so that
    neither overflows; one without has 0 and 1. The largest number of the type is no bound: nothing is beyond it.

    Args:
        box: Action space of one environment.

    Returns:
        Center and half width, each [*box.shape] of the space's dtype.

    Example:
        >>> center, half_width = box_units(Box(np.float32([0, 0]), np.float32([10, np.inf])))
        >>> center.tolist(), half_width.tolist()
        ([5.0, 0.0], [5.0, 1.0])
    """
    largest = np.finfo(box.low.dtype).max  # type: ignore[type-var]
    bounded = (box.low > -largest) & (box.high < largest)
    low, high = np.where(bounded, box.low, -1.0), np.where(bounded, box.high, 1.0)
    return (low / 2 + high / 2).astype(box.dtype), (high / 2 - low / 2).astype(box.dtype)


def _padded_logits(nvec: np.ndarray, parameters: tf.Tensor) -> tf.Tensor:
    """One row of logits for each choice, filled up with impossible actions: one distribution instead of K."""
    nvec = nvec.astype(np.int64)  # of a space of uint8, sums would be unsigned, and with a signed number floats
    first = np.cumsum(nvec) - nvec  # [K] where each choice's logits begin
    column = np.arange(nvec.max())  # [max n]
    exists = column < nvec[:, None]  # [K, max n]
    index = np.where(exists, first[:, None] + column, 0)  # [K, max n]
    return tf.where(exists, tf.gather(parameters, index, axis=-1), IMPOSSIBLE)  # [B, P] -> [B, K, max n]


def _shaped(action_space: Space, action: tf.Tensor) -> tf.Tensor:
    """[B, ...] -> [B, *action_space.shape], in the space's dtype."""
    return tf.cast(tf.reshape(action, [-1, *(action_space.shape or ())]), action_space.dtype)


def _is_float(box: Box) -> bool:
    return np.issubdtype(box.dtype, np.floating)


def _unsupported(action_space: Space) -> TypeError:
    supported = "Discrete, MultiDiscrete, MultiBinary, Box of one float or more"
    return TypeError(f"unsupported action space {action_space}; supported: {supported}")


def action_spec(action_space: Space, num_actions: int) -> tf.TensorSpec:
    """Shape and type of a batch of actions in the policy's units.

    Args:
        action_space: Of one environment.
        num_actions: How many actions the batch holds.

    Raises:
        TypeError: The space is not supported.

    Example:
        >>> action_spec(MultiDiscrete([2, 3]), 8).shape
        TensorShape([8, 2])
    """
    parameter_size(action_space)
    if isinstance(action_space, Discrete):
        return tf.TensorSpec([num_actions], tf.int32)
    dtype = tf.float32 if isinstance(action_space, Box) else tf.int32
    return tf.TensorSpec([num_actions, math.prod(action_space.shape or ())], dtype)
