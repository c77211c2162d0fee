"""Losses of a value or action-value function. A target is data: gradient never flows into one."""

from __future__ import annotations

import tensorflow as tf

from kerasrl_pg.ops._checks import has_rank, in_unit_interval, positive, same_shape
from kerasrl_pg.ops.statistics import weighted_mean


def value_loss(
    value: tf.Tensor,
    value_target: tf.Tensor,
    *,
    weight: tf.Tensor | None = None,
    scale: tf.Tensor | float = 1.0,
) -> tf.Tensor:
    """Mean squared error: E[((V(s) - target) / scale)²].

    There is no factor 1/2: weighing this loss against the policy's is the part of an algorithm's
    `value_coef`, in which 0.5 is common. Gradient flows to `value` only.

    Args:
        value: [B] V(s).
        value_target: [B].
        weight: [B], mean 1 over the whole batch; None means all ones.
        scale: Scalar: the unit in which errors count, such as the standard deviation of returns.

    Returns:
        Scalar.

    Raises:
        ValueError: The inputs differ in shape, or `scale` is not a scalar.

    Example:
        >>> float(value_loss(tf.constant([1.0, 2.0]), tf.constant([1.0, 4.0])))
        2.0
    """
    has_rank(0, scale=scale)
    value, value_target = same_shape(value=value, value_target=value_target)
    error = (value - tf.stop_gradient(value_target)) / tf.stop_gradient(scale)
    return weighted_mean(tf.square(error), weight)  # scalar


def clipped_value_loss(
    value: tf.Tensor,
    old_value: tf.Tensor,
    value_target: tf.Tensor,
    *,
    clip_epsilon: float,
    weight: tf.Tensor | None = None,
    scale: tf.Tensor | float = 1.0,
) -> tf.Tensor:
    """Squared error that stops paying for moves beyond ε: E[max((V - target)², (V_clip - target)²)].

    V_clip = V_old + clip(V - V_old, -ε, ε), everything in units of `scale`. It is not in the PPO paper but in
    its reference code (OpenAI Baselines, ppo2/model.py). No factor 1/2, as in `value_loss`. Gradient flows to
    `value` only.

    Args:
        value: [B] V(s).
        old_value: [B] V(s) at the time of acting.
        value_target: [B].
        clip_epsilon: ε, greater than 0, in units of `scale`.
        weight: [B], mean 1 over the whole batch; None means all ones.
        scale: Scalar: the unit in which errors and moves count.

    Returns:
        Scalar.

    Raises:
        ValueError: The inputs differ in shape, `scale` is not a scalar, or `clip_epsilon` is not greater than
            0.

    Example:
        >>> value, old_value, value_target = tf.constant([1.0]), tf.constant([0.0]), tf.constant([1.0])
        >>> float(clipped_value_loss(value, old_value, value_target, clip_epsilon=0.5))
        0.25
    """
    positive(clip_epsilon=clip_epsilon)
    has_rank(0, scale=scale)
    value, old_value, value_target = same_shape(value=value, old_value=old_value, value_target=value_target)
    scale = tf.stop_gradient(scale)
    target = tf.stop_gradient(value_target) / scale
    old = tf.stop_gradient(old_value) / scale
    new = value / scale
    clipped = old + tf.clip_by_value(new - old, -clip_epsilon, clip_epsilon)
    return weighted_mean(tf.maximum(tf.square(new - target), tf.square(clipped - target)), weight)  # scalar


def huber(x: tf.Tensor, delta: float = 1.0) -> tf.Tensor:
    """Square near 0, linear beyond δ: x²/2 if |x| ≤ δ, else δ(|x| - δ/2).

    Huber 1964. Its gradient is `x` clipped to ±δ, which is the error clipping of Mnih et al. 2015 for δ = 1.
    Gradient flows to `x`.

    Args:
        x: Any shape: the errors.
        delta: δ, greater than 0, in the unit of `x`.

    Returns:
        The shape of `x`.

    Raises:
        ValueError: `delta` is not greater than 0.

    Example:
        >>> huber(tf.constant([-3.0, 0.0, 1.0])).numpy().tolist()
        [2.5, 0.0, 0.5]
    """
    positive(delta=delta)
    size = tf.abs(x)
    return tf.where(size <= delta, 0.5 * tf.square(x), delta * (size - 0.5 * delta))


def td_error(
    q: tf.Tensor,
    action: tf.Tensor,
    reward: tf.Tensor,
    terminated: tf.Tensor,
    next_q: tf.Tensor,
    *,
    discount: float,
) -> tf.Tensor:
    """Error of Q-learning: δ = r + γ·max_a' Q⁻(s', a') - Q(s, a), without Q⁻ where the task ended.

    Watkins & Dayan 1992; Mnih et al. 2015, algorithm 1. Gradient flows to `q` only.

    Args:
        q: [B, A] Q(s, ·) of the network that learns.
        action: [B] int: what was done.
        reward: [B].
        terminated: [B] bool.
        next_q: [B, A] Q⁻(s', ·), of the target network, s' being the true successor.
        discount: γ, from 0 to 1, per step.

    Returns:
        [B] δ, positive where the action turned out better than expected.

    Raises:
        ValueError: Shapes are not as above, or `discount` is not between 0 and 1.

    Example:
        >>> q, next_q = tf.constant([[1.0, 2.0]]), tf.constant([[3.0, 4.0]])
        >>> action, reward, terminated = tf.constant([1]), tf.constant([1.0]), tf.constant([False])
        >>> td_error(q, action, reward, terminated, next_q, discount=0.5).numpy().tolist()
        [1.0]
    """
    in_unit_interval(discount=discount)
    q, next_q = same_shape(q=q, next_q=next_q)
    action, reward, terminated = same_shape(action=action, reward=reward, terminated=terminated)
    has_rank(2, q=q)
    has_rank(1, action=action)
    next_value = tf.reduce_max(next_q, axis=-1)  # [B, A] -> [B]
    target = _one_step_target(reward, terminated, next_value, discount)
    return target - _of_action(q, action)


def double_q_target(
    reward: tf.Tensor,
    terminated: tf.Tensor,
    next_q_online: tf.Tensor,
    next_q_target: tf.Tensor,
    *,
    discount: float,
) -> tf.Tensor:
    """Double Q-learning: r + γ·Q⁻(s', argmax_a' Q(s', a')), without Q⁻ where the task ended.

    Van Hasselt, Guez & Silver 2016 (arXiv:1509.06461), eq. 4: one network chooses the action, the other one
    values it, so that noise in either is not taken for value. No gradient flows.

    Args:
        reward: [B].
        terminated: [B] bool.
        next_q_online: [B, A] Q(s', ·), of the network that learns.
        next_q_target: [B, A] Q⁻(s', ·), of the target network.
        discount: γ, from 0 to 1, per step.

    Returns:
        [B] the target of Q(s, a).

    Raises:
        ValueError: Shapes are not as above, or `discount` is not between 0 and 1.

    Example:
        >>> online, target = tf.constant([[0.0, 1.0]]), tf.constant([[9.0, 4.0]])
        >>> reward, terminated = tf.constant([1.0]), tf.constant([False])
        >>> double_q_target(reward, terminated, online, target, discount=0.5).numpy().tolist()
        [3.0]
    """
    in_unit_interval(discount=discount)
    next_q_online, next_q_target = same_shape(next_q_online=next_q_online, next_q_target=next_q_target)
    reward, terminated = same_shape(reward=reward, terminated=terminated)
    has_rank(2, next_q_online=next_q_online)
    has_rank(1, reward=reward)
    best_action = tf.argmax(next_q_online, axis=-1, output_type=tf.int32)  # [B, A] -> [B]
    return _one_step_target(reward, terminated, _of_action(next_q_target, best_action), discount)


def _one_step_target(reward: tf.Tensor, terminated: tf.Tensor, next_value: tf.Tensor, discount: float) -> tf.Tensor:
    reward, next_value = same_shape(reward=reward, next_value=next_value)
    return tf.stop_gradient(reward + discount * (1.0 - tf.cast(terminated, reward.dtype)) * next_value)


def _of_action(q: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    return tf.gather(q, action, axis=1, batch_dims=1)  # [B, A] -> [B]
