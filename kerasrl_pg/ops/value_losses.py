"""Losses of a value or action-value function. A target is data: gradient never flows into one."""

from __future__ import annotations

import tensorflow as tf

from kerasrl_pg.ops._checks import has_rank, positive, same_shape
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


def td_error(q: tf.Tensor, action: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Error of Q-learning: δ = target - Q(s, a). Gradient flows to `q` only.

    Args:
        q: [B, A] Q(s, ·) of the network that learns.
        action: [B] int: what was done.
        target: [B] what Q(s, a) should be, as `q_target` or `double_q_target` say it.

    Returns:
        [B] δ, positive where the action turned out better than expected.

    Raises:
        ValueError: Shapes are not as above.

    Example:
        >>> td_error(tf.constant([[1.0, 2.0]]), tf.constant([1]), tf.constant([3.0])).numpy().tolist()
        [1.0]
    """
    has_rank(2, q=q)
    has_rank(1, action=action)
    of_action, target = same_shape(q_of_action=_of_action(q, action), target=target)
    return tf.stop_gradient(target) - of_action


def q_target(reward: tf.Tensor, discount: tf.Tensor, next_q: tf.Tensor) -> tf.Tensor:
    """Q-learning: r + γ·max_a' Q⁻(s', a'). No gradient flows.

    Watkins & Dayan 1992; Mnih et al. 2015, algorithm 1. For transitions of n steps r is their discounted sum and
    γ stands for γⁿ.

    Args:
        reward: [B].
        discount: [B] γ, 0 where the task ended (see `types.Transitions`).
        next_q: [B, A] Q⁻(s', ·), s' being the true successor.

    Returns:
        [B] the target of Q(s, a).

    Raises:
        ValueError: Shapes are not as above.

    Example:
        >>> q_target(tf.constant([1.0, 1.0]), tf.constant([0.5, 0.0]), tf.constant([[3.0, 4.0]] * 2)).numpy().tolist()
        [3.0, 1.0]
    """
    has_rank(2, next_q=next_q)
    return _one_step_target(reward, discount, tf.reduce_max(next_q, axis=-1))  # [B, A] -> [B]


def double_q_target(
    reward: tf.Tensor, discount: tf.Tensor, next_q_online: tf.Tensor, next_q_target: tf.Tensor
) -> tf.Tensor:
    """Double Q-learning: r + γ·Q⁻(s', argmax_a' Q(s', a')). No gradient flows.

    Van Hasselt, Guez & Silver 2016 (arXiv:1509.06461), eq. 4: one network chooses the action, the other one
    values it, so that noise in either is not taken for value.

    Args:
        reward: [B].
        discount: [B] γ, 0 where the task ended.
        next_q_online: [B, A] Q(s', ·), of the network that learns.
        next_q_target: [B, A] Q⁻(s', ·), of the target network.

    Returns:
        [B] the target of Q(s, a).

    Raises:
        ValueError: Shapes are not as above.

    Example:
        >>> online, target = tf.constant([[0.0, 1.0]]), tf.constant([[9.0, 4.0]])
        >>> double_q_target(tf.constant([1.0]), tf.constant([0.5]), online, target).numpy().tolist()
        [3.0]
    """
    next_q_online, next_q_target = same_shape(next_q_online=next_q_online, next_q_target=next_q_target)
    has_rank(2, next_q_online=next_q_online)
    best_action = tf.argmax(next_q_online, axis=-1, output_type=tf.int32)  # [B, A] -> [B]
    return _one_step_target(reward, discount, _of_action(next_q_target, best_action))


def _one_step_target(reward: tf.Tensor, discount: tf.Tensor, next_value: tf.Tensor) -> tf.Tensor:
    reward, discount, next_value = same_shape(reward=reward, discount=discount, next_value=next_value)
    has_rank(1, reward=reward)
    return tf.stop_gradient(reward + discount * next_value)


def _of_action(q: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    return tf.gather(q, action, axis=1, batch_dims=1)  # [B, A] -> [B]
