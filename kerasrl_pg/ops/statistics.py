"""Means and variances: weighted, across replicas, and merged over time.

A *weight* has mean 1 over the whole batch of all replicas, and replicas hold equally many samples. Then the
plain mean of `weight * x`, averaged over replicas, is the weighted mean of x: no operation has to divide by a
sum.
"""

from __future__ import annotations

import tensorflow as tf

from kerasrl_pg.ops._checks import has_rank, same_shape

EPSILON = 1e-8
"""ε of `normalize`: added to the standard deviation."""


def weighted_mean(x: tf.Tensor, weight: tf.Tensor | None = None) -> tf.Tensor:
    """Mean over this replica's batch: mean(weight · x).

    Gradient flows to `x` only.

    Args:
        x: [B], or any shape.
        weight: The shape of `x`, mean 1 over the whole batch; None means all ones.

    Returns:
        Scalar.

    Raises:
        ValueError: `x` and `weight` differ in shape.

    Example:
        >>> float(weighted_mean(tf.constant([1.0, 3.0, 100.0]), tf.constant([1.5, 1.5, 0.0])))
        2.0
    """
    if weight is None:
        return tf.reduce_mean(x)  # scalar
    x, weight = same_shape(x=x, weight=weight)
    return tf.reduce_mean(tf.stop_gradient(weight) * x)  # scalar


def mean_across_replicas(x: tf.Tensor) -> tf.Tensor:
    """Mean of `x` over the replicas of a `tf.distribute` strategy: (1/R) Σᵣ xᵣ.

    Outside of a replica, or with a single one, it is `x` itself.

    Args:
        x: Any shape, the same on every replica.

    Returns:
        The shape of `x`, the same values on every replica.

    Example:
        >>> float(mean_across_replicas(tf.constant(2.0)))
        2.0
    """
    replica = tf.distribute.get_replica_context()  # None in cross-replica context
    if replica is None or replica.num_replicas_in_sync == 1:
        return x
    return replica.all_reduce(tf.distribute.ReduceOp.MEAN, x)


def gather_across_replicas(x: tf.Tensor) -> tf.Tensor:
    """`x` of every replica of a `tf.distribute` strategy, one after the other: (x₁, ..., x_R).

    Outside of a replica, or with a single one, it is `x` itself.

    Args:
        x: [n, ...], the same shape on every replica.

    Returns:
        [R n, ...], the same on every replica.

    Example:
        >>> gather_across_replicas(tf.constant([1.0, 2.0])).numpy().tolist()
        [1.0, 2.0]
    """
    replica = tf.distribute.get_replica_context()  # None in cross-replica context
    if replica is None or replica.num_replicas_in_sync == 1:
        return x
    gathered = replica.all_gather(x, axis=0)  # [R n, ...]
    return tf.ensure_shape(gathered, [replica.num_replicas_in_sync * x.shape[0], *x.shape[1:]])


def moments(x: tf.Tensor, weight: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance over the batches of all replicas: μ = E[x], σ² = E[(x - μ)²].

    The variance is taken around the mean of all replicas: an average of the replicas' own variances would
    miss the spread between them, and E[x²] - μ² would lose its digits in float32.

    Args:
        x: [B], or any shape.
        weight: The shape of `x`, mean 1 over the whole batch; None means all ones.

    Returns:
        Two scalars: the mean and the (population) variance.

    Raises:
        ValueError: `x` and `weight` differ in shape.

    Example:
        >>> mean, variance = moments(tf.constant([1.0, 3.0]))
        >>> float(mean), float(variance)
        (2.0, 1.0)
    """
    mean = mean_across_replicas(weighted_mean(x, weight))  # scalar
    variance = mean_across_replicas(weighted_mean(tf.square(x - mean), weight))  # scalar
    return mean, variance


def normalize(x: tf.Tensor, weight: tf.Tensor | None = None) -> tf.Tensor:
    """Mean 0 and standard deviation 1 over the batches of all replicas: (x - μ) / (σ + ε).

    No gradient flows: it is meant for advantages, which are data to a loss.

    Args:
        x: [B], or any shape.
        weight: The shape of `x`, mean 1 over the whole batch; None means all ones. Samples of weight 0 do not
            count towards μ and σ, and are shifted and scaled like the others.

    Returns:
        The shape of `x`; zeros where `x` is constant.

    Raises:
        ValueError: `x` and `weight` differ in shape.

    Example:
        >>> normalize(tf.constant([1.0, 3.0])).numpy().tolist()
        [-1.0, 1.0]
    """
    mean, variance = moments(x, weight)
    deviation = tf.sqrt(variance)  # scalar
    # The weighted mean of a constant may miss it by its last digit, which must not be blown up to order 1.
    is_constant = deviation <= 1e-6 * tf.abs(mean)  # not so where one is NaN: then all are
    return tf.stop_gradient(tf.where(is_constant, tf.zeros_like(x), (x - mean) / (deviation + EPSILON)))


def element_moments(x: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mean and variance of each element on its own, over this replica's samples, and how many they are.

    Args:
        x: [*S, *E]: samples of elements.
        weight: [*S]: 1 for a sample that counts, 0 for one that does not, or anything between.

    Returns:
        Mean [*E], (population) variance [*E], and the sum of the weights, scalar. Zeros where no sample counts.

    Raises:
        ValueError: the first axes of `x` are not those of `weight`.

    Example:
        >>> mean, variance, count = element_moments(tf.constant([[1.0, 5.0], [3.0, 5.0]]), tf.ones([2]))
        >>> mean.numpy().tolist(), variance.numpy().tolist(), float(count)
        ([2.0, 5.0], [1.0, 0.0], 2.0)
    """
    samples = weight.shape.rank
    if not x.shape[:samples].is_compatible_with(weight.shape):
        raise ValueError(f"weight must have the first axes of x {x.shape.as_list()}, got {weight.shape.as_list()}")
    count = tf.reduce_sum(weight)
    share = tf.reshape(
        tf.math.divide_no_nan(weight, count), [*tf.unstack(tf.shape(weight)), *[1] * (x.shape.rank - samples)]
    )
    mean = tf.reduce_sum(share * x, axis=list(range(samples)))
    variance = tf.reduce_sum(share * tf.square(x - mean), axis=list(range(samples)))
    return mean, variance, count


def moments_of_replicas(mean: tf.Tensor, variance: tf.Tensor, count: tf.Tensor) -> dict[str, tf.Tensor]:
    """The moments of the samples of all replicas, from those of each: μ = Σ fᵣμᵣ, σ² = Σ fᵣ(σᵣ² + (μᵣ - μ)²).

    fᵣ is the share of replica r in all samples.

    Args:
        mean: Any shape: of this replica's samples.
        variance: The shape of `mean`.
        count: Scalar float: how many they are.

    Returns:
        "mean", "variance" and "count" of all.

    Example:
        >>> of_all = moments_of_replicas(tf.constant(2.0), tf.constant(1.0), tf.constant(5.0))
        >>> {name: float(value) for name, value in of_all.items()}   # of one replica: as they are
        {'mean': 2.0, 'variance': 1.0, 'count': 5.0}
    """
    count_per_replica = mean_across_replicas(count)
    share = tf.math.divide_no_nan(count, count_per_replica)
    mean_of_all = mean_across_replicas(share * mean)
    variance_of_all = mean_across_replicas(share * (variance + tf.square(mean - mean_of_all)))
    replica = tf.distribute.get_replica_context()
    replicas = 1 if replica is None else replica.num_replicas_in_sync
    return {"mean": mean_of_all, "variance": variance_of_all, "count": replicas * count_per_replica}


def merge_moments(
    mean: tf.Tensor,
    variance: tf.Tensor,
    count: tf.Tensor,
    batch_mean: tf.Tensor,
    batch_variance: tf.Tensor,
    batch_count: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Moments of two sets of samples together: μ + fδ and (1 - f)σ² + fσ_b² + f(1 - f)δ².

    Here δ = μ_b - μ and f = n_b / (n + n_b). This is Chan, Golub & LeVeque 1983, eqs. 2.1a-b, written with
    fractions instead of sums of squares, so that nothing grows with the count and float32 is enough. Start
    from any mean and variance with a count of 0.

    Args:
        mean: Any shape: of the samples so far.
        variance: The shape of `mean`: their population variance.
        count: Scalar float: how many they are.
        batch_mean: The shape of `mean`: of the new samples.
        batch_variance: The shape of `mean`.
        batch_count: Scalar float.

    Returns:
        The mean, variance and count of all samples, in the shapes of the first three arguments.

    Raises:
        ValueError: The means and variances differ in shape, or a count is not a scalar.

    Example:
        >>> of_one_and_three = tf.constant(2.0), tf.constant(1.0), tf.constant(2.0)
        >>> of_five = tf.constant(5.0), tf.constant(0.0), tf.constant(1.0)
        >>> mean, variance, count = merge_moments(*of_one_and_three, *of_five)
        >>> float(mean), round(float(variance), 4), float(count)
        (3.0, 2.6667, 3.0)
    """
    has_rank(0, count=count, batch_count=batch_count)
    mean, variance, batch_mean, batch_variance = same_shape(
        mean=mean, variance=variance, batch_mean=batch_mean, batch_variance=batch_variance
    )
    total = count + batch_count
    fraction = tf.math.divide_no_nan(batch_count, total)  # no samples at all leave the moments as they are
    delta = batch_mean - mean
    merged_mean = mean + fraction * delta
    merged_variance = (
        (1.0 - fraction) * variance + fraction * batch_variance + fraction * (1.0 - fraction) * tf.square(delta)
    )
    return merged_mean, merged_variance, total


def unit_mean_weight(weight: tf.Tensor) -> tf.Tensor:
    """`weight` scaled to a mean of 1 over the batches of all replicas: what any other `weight` here must be.

    Args:
        weight: Any shape, at least 0; all zeros stay zeros.

    Returns:
        The shape of `weight`.

    Example:
        >>> unit_mean_weight(tf.constant([1.0, 1.0, 0.0, 0.0])).numpy().tolist()
        [2.0, 2.0, 0.0, 0.0]
    """
    return tf.math.divide_no_nan(weight, mean_across_replicas(tf.reduce_mean(weight)))
