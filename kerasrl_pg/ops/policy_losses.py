"""Losses of a policy, to be minimised, and what to watch while they fall.

All take one number per sample and return the mean, weighted where some samples count more than others (or not
at all). Gradient flows to `log_prob`, and nowhere else.
"""

from __future__ import annotations

import tensorflow as tf

from kerasrl_pg.ops._checks import positive, same_shape
from kerasrl_pg.ops.distributions import tfd
from kerasrl_pg.ops.statistics import weighted_mean


def policy_gradient_loss(log_prob: tf.Tensor, advantage: tf.Tensor, weight: tf.Tensor | None = None) -> tf.Tensor:
    """The loss whose gradient is the policy gradient: -E[log π(a|s) · A].

    Williams 1992, eq. 11; Sutton et al. 2000, theorem 1. Gradient flows to `log_prob` only.

    Args:
        log_prob: [B] log π(a|s) under the policy that learns.
        advantage: [B] A(s, a), or a return.
        weight: [B], mean 1 over the whole batch; None means all ones.

    Returns:
        Scalar.

    Raises:
        ValueError: The inputs differ in shape.

    Example:
        >>> float(policy_gradient_loss(tf.constant([-1.0, -2.0]), tf.constant([1.0, 3.0])))
        3.5
    """
    log_prob, advantage = same_shape(log_prob=log_prob, advantage=advantage)
    return -weighted_mean(log_prob * tf.stop_gradient(advantage), weight)  # scalar


def clipped_surrogate_loss(
    log_prob: tf.Tensor,
    old_log_prob: tf.Tensor,
    advantage: tf.Tensor,
    *,
    clip_epsilon: float | tf.Tensor,
    weight: tf.Tensor | None = None,
) -> tf.Tensor:
    """PPO's pessimistic bound: -E[min(r·A, clip(r, 1 - ε, 1 + ε)·A)], r = π(a|s) / π_old(a|s).

    Schulman et al. 2017 (arXiv:1707.06347), eq. 7. Gradient flows to `log_prob` only, and only for samples
    whose ratio has not yet moved past the clip in the direction that the advantage asks for.

    Args:
        log_prob: [B] log π(a|s) under the policy that learns.
        old_log_prob: [B] log π(a|s) at the time of acting.
        advantage: [B] A(s, a).
        clip_epsilon: ε, greater than 0: how far the ratio may move from 1.
        weight: [B], mean 1 over the whole batch; None means all ones.

    Returns:
        Scalar.

    Raises:
        ValueError: The inputs differ in shape, or `clip_epsilon` is not greater than 0.

    Example:
        >>> log_prob, old_log_prob = tf.math.log([0.6, 0.1]), tf.math.log([0.3, 0.1])  # ratios 2 and 1
        >>> advantage = tf.constant([1.0, 1.0])
        >>> loss = clipped_surrogate_loss(log_prob, old_log_prob, advantage, clip_epsilon=0.2)
        >>> round(float(loss), 4)
        -1.1
    """
    positive(clip_epsilon=clip_epsilon)
    log_prob, old_log_prob, advantage = same_shape(log_prob=log_prob, old_log_prob=old_log_prob, advantage=advantage)
    advantage = tf.stop_gradient(advantage)
    ratio = tf.exp(log_prob - tf.stop_gradient(old_log_prob))
    clipped_ratio = tf.clip_by_value(ratio, 1.0 - clip_epsilon, 1.0 + clip_epsilon)
    return -weighted_mean(tf.minimum(ratio * advantage, clipped_ratio * advantage), weight)  # scalar


def entropy(distribution: tfd.Distribution, weight: tf.Tensor | None = None) -> tf.Tensor:
    """Mean entropy of a batch of distributions: E_s[H(π(·|s))].

    Each state's own entropy, then the mean; the entropy of the mean distribution would stay high for a policy
    that is certain of a different action in every state. Gradient flows to the distribution's parameters.

    Args:
        distribution: A batch [B] of distributions, as `action_distribution` makes them.
        weight: [B], mean 1 over the whole batch; None means all ones.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: `weight` does not have the shape of the batch.

    Example:
        >>> coin = tfd.Categorical(logits=tf.zeros([8, 2]))
        >>> round(float(entropy(coin)), 4)
        0.6931
    """
    return weighted_mean(distribution.entropy(), weight)  # scalar


def approx_kl(log_prob: tf.Tensor, old_log_prob: tf.Tensor, weight: tf.Tensor | None = None) -> tf.Tensor:
    """Estimate of KL(π_old ‖ π) from actions of π_old: E[(r - 1) - log r], r = π(a|s) / π_old(a|s).

    The low-variance estimator k3 of Schulman, http://joschu.net/blog/kl-approx.html: unbiased, and never
    negative. Gradient flows to `log_prob` only.

    Args:
        log_prob: [B] log π(a|s) under the policy that learns.
        old_log_prob: [B] log π(a|s) at the time of acting.
        weight: [B], mean 1 over the whole batch; None means all ones.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: The inputs differ in shape.

    Example:
        >>> round(float(approx_kl(tf.math.log([0.4]), tf.math.log([0.2]))), 4)  # 1 - log 2
        0.3069
    """
    log_prob, old_log_prob = same_shape(log_prob=log_prob, old_log_prob=old_log_prob)
    log_ratio = log_prob - tf.stop_gradient(old_log_prob)
    return weighted_mean(tf.math.expm1(log_ratio) - log_ratio, weight)  # scalar; expm1 keeps small ratios' digits


def clip_fraction(
    log_prob: tf.Tensor,
    old_log_prob: tf.Tensor,
    *,
    clip_epsilon: float | tf.Tensor,
    weight: tf.Tensor | None = None,
) -> tf.Tensor:
    """Share of samples whose ratio has left the clip: E[|r - 1| > ε], r = π(a|s) / π_old(a|s).

    No gradient flows.

    Args:
        log_prob: [B] log π(a|s) under the policy that learns.
        old_log_prob: [B] log π(a|s) at the time of acting.
        clip_epsilon: ε of the `clipped_surrogate_loss`, greater than 0.
        weight: [B], mean 1 over the whole batch; None means all ones.

    Returns:
        Scalar from 0 to 1.

    Raises:
        ValueError: The inputs differ in shape, or `clip_epsilon` is not greater than 0.

    Example:
        >>> log_prob, old_log_prob = tf.math.log([0.6, 0.1]), tf.math.log([0.3, 0.1])  # ratios 2 and 1
        >>> float(clip_fraction(log_prob, old_log_prob, clip_epsilon=0.2))
        0.5
    """
    positive(clip_epsilon=clip_epsilon)
    log_prob, old_log_prob = same_shape(log_prob=log_prob, old_log_prob=old_log_prob)
    outside = tf.abs(tf.math.expm1(log_prob - old_log_prob)) > clip_epsilon
    return weighted_mean(tf.cast(outside, log_prob.dtype), weight)  # scalar
