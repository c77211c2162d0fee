"""Returns and advantages from a time-major segment of experience. No gradient flows through any of them.

Every operation takes `next_value`, V of the *true* successor (of the final observation where an episode
ended, not of the first observation of the next), and keeps two endings apart:

* `terminated`: the task is over, nothing more can be earned, V(s') counts as 0;
* `truncated`: a limit cut the episode, the task would have gone on, V(s') is what it would have earned.

The end of the segment cuts like a truncation: the last step bootstraps from its `next_value`.
"""

from __future__ import annotations

import tensorflow as tf

from kerasrl_pg.ops._checks import has_rank, in_unit_interval, same_shape
from kerasrl_pg.ops.statistics import moments
from kerasrl_pg.types import Batch, Rollout


def discounted_returns(
    reward: tf.Tensor, terminated: tf.Tensor, truncated: tf.Tensor, next_value: tf.Tensor, *, discount: float
) -> tf.Tensor:
    """Return until the episode ends: G_t = r_t + γ·G_{t+1}, with V(s') for G_{t+1} where the episode was cut.

    With `next_value` = 0 it is the Monte-Carlo return of Sutton & Barto 2018, eq. 3.8. No gradient flows.

    Args:
        reward: [T, N].
        terminated: [T, N] bool: G_{t+1} counts as 0.
        truncated: [T, N] bool: G_{t+1} counts as `next_value`, as it does at the end of the segment.
        next_value: [T, N] V of the true successor.
        discount: γ, from 0 to 1, per step.

    Returns:
        [T, N] G.

    Raises:
        ValueError: The inputs differ in shape or are not [T, N], or `discount` is not between 0 and 1.

    Example:
        >>> reward, zeros = tf.ones([3, 1]), tf.zeros([3, 1])
        >>> never = tf.zeros([3, 1], tf.bool)
        >>> discounted_returns(reward, never, never, zeros, discount=0.5).numpy().ravel().tolist()
        [1.75, 1.5, 1.0]
    """
    in_unit_interval(discount=discount)
    reward, terminated, truncated, next_value = same_shape(
        reward=reward, terminated=terminated, truncated=truncated, next_value=next_value
    )
    has_rank(2, reward=reward)
    alive, unbroken = _alive_and_unbroken(terminated, truncated, reward.dtype)
    follows = _cut_at_the_end(unbroken)
    bootstrap = discount * (alive - follows) * next_value  # where the episode goes on, but not in this segment
    return tf.stop_gradient(_sum_backwards(reward + bootstrap, discount * follows))


def n_step_returns(
    reward: tf.Tensor,
    terminated: tf.Tensor,
    truncated: tf.Tensor,
    next_value: tf.Tensor,
    *,
    discount: float,
    num_steps: int,
) -> tf.Tensor:
    """Return over `num_steps` rewards: G_t = r_t + γ·r_{t+1} + … + γⁿ⁻¹·r_{t+n-1} + γⁿ·V(s_{t+n}).

    Sutton & Barto 2018, eq. 7.1. It is shorter where the episode or the segment ends sooner: then it
    bootstraps from `next_value` there, and from 0 if the episode terminated. No gradient flows.

    Args:
        reward: [T, N].
        terminated: [T, N] bool.
        truncated: [T, N] bool.
        next_value: [T, N] V of the true successor.
        discount: γ, from 0 to 1, per step.
        num_steps: n, at least 1. The graph grows with it.

    Returns:
        [T, N] G. With `num_steps` ≥ T these are the `discounted_returns`.

    Raises:
        ValueError: The inputs differ in shape or are not [T, N], `discount` is not between 0 and 1, or
            `num_steps` is below 1.

    Example:
        >>> reward, next_value = tf.ones([3, 1]), 8 * tf.ones([3, 1])
        >>> never = tf.zeros([3, 1], tf.bool)
        >>> returns = n_step_returns(reward, never, never, next_value, discount=0.5, num_steps=2)
        >>> returns.numpy().ravel().tolist()
        [3.5, 3.5, 5.0]
    """
    in_unit_interval(discount=discount)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    reward, terminated, truncated, next_value = same_shape(
        reward=reward, terminated=terminated, truncated=truncated, next_value=next_value
    )
    has_rank(2, reward=reward)
    alive, unbroken = _alive_and_unbroken(terminated, truncated, reward.dtype)
    follows = _cut_at_the_end(unbroken)
    one_step = reward + discount * alive * next_value
    ending = reward + discount * (alive - follows) * next_value
    returns = one_step
    for _ in range(num_steps - 1):  # the k-step return is a reward and the next step's (k - 1)-step return
        following = tf.concat([returns[1:], tf.zeros_like(returns[:1])], axis=0)  # [T, N] G_{t+1}
        returns = ending + discount * follows * following
    return tf.stop_gradient(returns)


def gae(
    reward: tf.Tensor,
    value: tf.Tensor,
    next_value: tf.Tensor,
    terminated: tf.Tensor,
    truncated: tf.Tensor,
    *,
    discount: float,
    gae_lambda: float,
) -> tf.Tensor:
    """Generalized advantage estimation: A_t = δ_t + γλ·A_{t+1}, δ_t = r_t + γ·V(s') - V(s_t).

    Schulman et al. 2016 (arXiv:1506.02438), eq. 16; Schulman et al. 2017 (arXiv:1707.06347), eqs. 11-12. The
    sum stops where the episode ends, be it a termination or a truncation; V(s') is 0 at a termination only.
    No gradient flows.

    Args:
        reward: [T, N].
        value: [T, N] V(s_t).
        next_value: [T, N] V of the true successor.
        terminated: [T, N] bool.
        truncated: [T, N] bool.
        discount: γ, from 0 to 1, per step.
        gae_lambda: λ, from 0 (the TD error) to 1 (`discounted_returns` minus `value`).

    Returns:
        [T, N] advantage; `advantage + value` is the λ-return.

    Raises:
        ValueError: The inputs differ in shape or are not [T, N], or `discount` or `gae_lambda` is not between
            0 and 1.

    Example:
        >>> reward, value = tf.ones([3, 1]), tf.zeros([3, 1])
        >>> terminated, truncated = tf.constant([[False], [False], [True]]), tf.zeros([3, 1], tf.bool)
        >>> advantage = gae(reward, value, value, terminated, truncated, discount=1.0, gae_lambda=0.5)
        >>> advantage.numpy().ravel().tolist()
        [1.75, 1.5, 1.0]
    """
    in_unit_interval(discount=discount, gae_lambda=gae_lambda)
    reward, value, next_value, terminated, truncated = same_shape(
        reward=reward, value=value, next_value=next_value, terminated=terminated, truncated=truncated
    )
    has_rank(2, reward=reward)
    alive, unbroken = _alive_and_unbroken(terminated, truncated, reward.dtype)
    delta = reward + discount * alive * next_value - value
    return tf.stop_gradient(_sum_backwards(delta, discount * gae_lambda * unbroken))


def advantage_batch(rollout: Rollout, *, discount: float, gae_lambda: float) -> Batch:
    """What a loss needs of a rollout: its GAE advantages, and V(s_t) + A_t as the target of the value.

    The weight is 1 where the rollout is valid and 0 elsewhere: bringing its mean to 1 takes all replicas, so
    that is the learner's part. No gradient flows.

    Args:
        rollout: [T, N, ...].
        discount: γ, from 0 to 1, per step.
        gae_lambda: λ, from 0 to 1.

    Returns:
        A batch [T, N, ...].

    Raises:
        ValueError: As `gae`.

    Example:
        >>> ones, never = tf.ones([2, 1]), tf.zeros([2, 1], tf.bool)
        >>> rollout = Rollout(
        ...     observation=ones, action=ones, log_prob=ones, value=ones, reward=ones,
        ...     terminated=never, truncated=never, next_value=ones, valid=~never,
        ... )
        >>> batch = advantage_batch(rollout, discount=0.5, gae_lambda=0.0)
        >>> batch.advantage.numpy().ravel().tolist(), batch.value_target.numpy().ravel().tolist()
        ([0.5, 0.5], [1.5, 1.5])
    """
    advantage = gae(  # [T, N]
        rollout.reward,
        rollout.value,
        rollout.next_value,
        rollout.terminated,
        rollout.truncated,
        discount=discount,
        gae_lambda=gae_lambda,
    )
    return Batch(
        observation=rollout.observation,
        action=rollout.action,
        log_prob=rollout.log_prob,
        value=rollout.value,
        advantage=advantage,
        value_target=tf.stop_gradient(advantage + rollout.value),
        weight=tf.cast(rollout.valid, advantage.dtype),
    )


def explained_variance(value: tf.Tensor, value_target: tf.Tensor, weight: tf.Tensor | None = None) -> tf.Tensor:
    """How much of the targets' variance the values account for: 1 - Var[target - value] / Var[target].

    1 is perfect, 0 no better than a constant, negative worse than a constant; 0 by definition if the targets
    do not vary. Over the batches of all replicas. No gradient flows.

    Args:
        value: [B], or any shape.
        value_target: The shape of `value`.
        weight: The shape of `value`, mean 1 over the whole batch; None means all ones.

    Returns:
        Scalar.

    Raises:
        ValueError: The inputs differ in shape.

    Example:
        >>> float(explained_variance(tf.constant([1.0, 2.0]), tf.constant([2.0, 4.0])))
        0.75
    """
    value, value_target = same_shape(value=value, value_target=value_target)
    _, residual = moments(value_target - value, weight)  # scalar
    _, total = moments(value_target, weight)  # scalar
    explained = tf.where(total <= 0, 0.0, 1.0 - tf.math.divide_no_nan(residual, total))
    return tf.stop_gradient(explained)


def _alive_and_unbroken(terminated: tf.Tensor, truncated: tf.Tensor, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
    alive = 1.0 - tf.cast(terminated, dtype)  # V(s') counts unless the task ended
    unbroken = alive * (1.0 - tf.cast(truncated, dtype))  # the next row belongs to the same episode
    return alive, unbroken


def _cut_at_the_end(unbroken: tf.Tensor) -> tf.Tensor:
    """1 where the next row exists and belongs to the same episode."""
    return tf.concat([unbroken[:-1], tf.zeros_like(unbroken[-1:])], axis=0)  # [T, N]


def _sum_backwards(term: tf.Tensor, decay: tf.Tensor) -> tf.Tensor:
    """x_t = term_t + decay_t · x_{t+1}, from x_T = 0.

    A plain scan: under XLA it is as fast as a log-depth associative scan at [32, 8], 2.5 times as fast at
    [128, 1024], and compiles in a quarter of the time.
    """
    return tf.scan(
        lambda later, row: row[0] + row[1] * later,
        (term, decay),
        initializer=tf.zeros_like(term[0]),  # [N]
        reverse=True,
    )  # [T, N]
