import numpy as np
import pytest
import tensorflow as tf

from kerasrl_pg import ops


@pytest.fixture
def on_two_replicas(two_replicas):
    """Runs an operation on the two rows of each input, one per replica; returns both results."""

    def run(operation, *inputs):
        rows = [
            two_replicas.experimental_distribute_values_from_function(
                lambda context, x=x: tf.constant(x[context.replica_id_in_sync_group])
            )
            for x in inputs
        ]
        results = tf.function(lambda: two_replicas.run(operation, args=rows))()
        return [np.array(result) for result in two_replicas.experimental_local_results(results)]

    return run


def test_weighted_mean_by_hand(variant):
    x, weight = tf.constant([1.0, 3.0, 100.0]), tf.constant([1.5, 1.5, 0.0])
    np.testing.assert_allclose(variant(ops.weighted_mean)(x, weight), 2.0)
    np.testing.assert_allclose(variant(ops.weighted_mean)(x), 104 / 3)


def test_weighted_mean_only_moves_what_it_averages(variant):
    x, weight = tf.constant([1.0, 3.0]), tf.constant([1.5, 0.5])
    with tf.GradientTape() as tape:
        tape.watch([x, weight])
        mean = variant(ops.weighted_mean)(x, weight)
    by_x, by_weight = tape.gradient(mean, [x, weight])
    np.testing.assert_allclose(by_x, [0.75, 0.25])
    assert by_weight is None


def test_normalize_gives_mean_0_and_deviation_1(variant):
    x = tf.constant(np.random.default_rng(0).normal(7.0, 3.0, size=100), tf.float32)
    normalized = variant(ops.normalize)(x).numpy()
    np.testing.assert_allclose([normalized.mean(), normalized.std()], [0.0, 1.0], atol=1e-5)


def test_normalize_keeps_its_digits_far_from_0(variant):
    # E[x²] - E[x]² in float32 would give a variance of 0 or worse here.
    normalized = variant(ops.normalize)(tf.constant([1e4 - 0.5, 1e4 + 0.5]))
    np.testing.assert_allclose(normalized, [-1.0, 1.0], rtol=1e-3)


def test_normalize_leaves_a_constant_at_0(variant):
    np.testing.assert_array_equal(variant(ops.normalize)(tf.fill([5], 3.0)), np.zeros(5))


def test_normalize_takes_the_rounding_of_a_constants_mean_for_no_deviation(variant):
    """One sample in seven counts: 7 · x / 7 need not be x to the last digit."""
    for constant in np.random.default_rng(0).normal(size=50):
        x, weight = tf.fill([7], np.float32(constant)), tf.constant([7.0] + [0.0] * 6)
        np.testing.assert_array_equal(variant(ops.normalize)(x, weight), np.zeros(7))


def test_normalize_leaves_out_what_has_no_weight(variant):
    x, weight = tf.constant([1.0, 3.0, 1000.0]), tf.constant([1.5, 1.5, 0.0])
    np.testing.assert_allclose(variant(ops.normalize)(x, weight)[:2], [-1.0, 1.0], rtol=1e-6)


def test_normalize_passes_no_gradient(variant):
    x = tf.constant([1.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        normalized = variant(ops.normalize)(x)
    assert tape.gradient(normalized, x) is None


def test_normalize_over_two_replicas_is_normalize_over_their_union(on_two_replicas):
    x = np.array([[1.0, 2.0, 4.0], [100.0, 101.0, 105.0]], np.float32)
    expected = (x - x.mean()) / x.std()
    np.testing.assert_allclose(on_two_replicas(ops.normalize, x), expected, rtol=1e-5)


def test_normalize_over_two_replicas_with_unequal_shares_of_the_weight(on_two_replicas):
    x = np.array([[1.0, 2.0, 4.0], [100.0, 101.0, 105.0]], np.float32)
    valid = np.array([[True, True, True], [True, False, False]])
    weight = (valid / valid.mean()).astype(np.float32)  # mean 1 over both, not over each
    expected = (x - x[valid].mean()) / x[valid].std()
    np.testing.assert_allclose(on_two_replicas(ops.normalize, x, weight), expected, rtol=1e-5)


def test_unit_mean_weight_is_what_the_other_operations_ask_for(variant):
    compiled = variant(ops.unit_mean_weight)
    np.testing.assert_allclose(compiled(tf.constant([1.0, 1.0, 0.0])), [1.5, 1.5, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(compiled(tf.zeros([3])), np.zeros(3))


def test_unit_mean_weight_has_its_mean_over_two_replicas_and_not_over_each(on_two_replicas):
    valid = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(on_two_replicas(ops.unit_mean_weight, valid), valid / valid.mean())


def test_mean_across_replicas(on_two_replicas):
    means = on_two_replicas(ops.mean_across_replicas, np.array([[1.0, 2.0], [3.0, 8.0]], np.float32))
    np.testing.assert_allclose(means, [[2.0, 5.0], [2.0, 5.0]])


def test_mean_across_replicas_is_the_identity_without_replicas(variant, two_replicas):
    x = tf.constant([1.0, 2.0])
    np.testing.assert_array_equal(variant(ops.mean_across_replicas)(x), x)
    with two_replicas.scope():  # cross-replica context
        assert ops.mean_across_replicas(x) is x


def test_explained_variance_over_two_replicas_is_that_of_their_union(on_two_replicas):
    target = np.array([[1.0, 2.0], [101.0, 102.0]], np.float32)
    value = np.array([[2.0, 1.0], [102.0, 101.0]], np.float32)  # right about the replicas, wrong within each
    explained = on_two_replicas(ops.explained_variance, value, target)
    np.testing.assert_allclose(explained, 1 - np.var(target - value) / np.var(target), rtol=1e-6)


def test_element_moments_are_those_of_each_element_over_the_samples_that_count(variant):
    rng = np.random.default_rng(0)
    x, counts = rng.normal(3, 2, (5, 4, 3, 2)).astype(np.float32), rng.random((5, 4)) < 0.6
    mean, variance, count = variant(ops.element_moments)(tf.constant(x), tf.cast(counts, tf.float32))
    np.testing.assert_allclose(mean, x[counts].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variance, x[counts].var(axis=0), rtol=1e-5)
    assert float(count) == counts.sum()


def test_element_moments_of_scalars_weigh_them(variant):
    mean, variance, count = variant(ops.element_moments)(tf.constant([0.0, 4.0, 9.0]), tf.constant([3.0, 1.0, 0.0]))
    np.testing.assert_allclose([mean, variance, count], [1.0, 3.0, 4.0])  # 3/4 · 0 + 1/4 · 4; 3/4 · 1 + 1/4 · 9


def test_element_moments_of_no_samples_are_zeros(variant):
    mean, variance, count = variant(ops.element_moments)(tf.ones([4, 2]), tf.zeros([4]))
    assert (mean.numpy().tolist(), variance.numpy().tolist(), float(count)) == ([0.0, 0.0], [0.0, 0.0], 0.0)


def test_moments_of_replicas_are_those_of_all_samples(on_two_replicas):
    # Replica 1 has seen 1 and 3, replica 2 has seen 8: as many samples as each has weigh its moments.
    own = np.array([[2.0, 1.0, 2.0], [8.0, 0.0, 1.0]], np.float32)
    for moments in on_two_replicas(lambda x: list(ops.moments_of_replicas(x[0], x[1], x[2]).values()), own):
        np.testing.assert_allclose(moments, [4.0, np.var([1, 3, 8]), 3.0], rtol=1e-6)


def test_merge_moments_equals_the_moments_of_everything(variant):
    samples = np.random.default_rng(0).normal(1e3, 1.0, size=[1000, 2]) + np.linspace(0, 9, 1000)[:, None]
    merge = variant(ops.merge_moments)
    moments = tf.zeros([2]), tf.zeros([2]), tf.constant(0.0)
    for batch in np.split(samples, [1, 100, 101, 600]):
        batch_moments = batch.mean(axis=0), batch.var(axis=0), len(batch)
        moments = merge(*moments, *(tf.constant(moment, tf.float32) for moment in batch_moments))
    mean, variance, count = moments
    np.testing.assert_allclose(mean, samples.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(variance, samples.var(axis=0), rtol=1e-4)
    assert float(count) == 1000.0


def test_merge_moments_stays_put_over_many_batches_in_float32(variant):
    # Sums of squares would be 1e8 · count by now, and float32 has seven digits.
    def many(batch_mean, batch_variance):
        moments = batch_mean, batch_variance, tf.constant(0.0)
        return tf.while_loop(
            lambda *_: True,
            lambda *moments: ops.merge_moments(*moments, batch_mean, batch_variance, tf.constant(256.0)),
            moments,
            maximum_iterations=2_000,
        )

    mean, variance, count = variant(many)(tf.constant(1e4), tf.constant(2.0))
    np.testing.assert_allclose([mean, variance, count], [1e4, 2.0, 2_000 * 256], rtol=1e-3)


def test_merge_moments_of_no_samples_changes_nothing(variant):
    nothing = tf.constant(0.0)
    mean, variance, count = variant(ops.merge_moments)(
        tf.constant(5.0), tf.constant(2.0), nothing, nothing, nothing, nothing
    )
    np.testing.assert_array_equal([mean, variance, count], [5.0, 2.0, 0.0])


def test_a_stray_dimension_is_an_error_and_not_a_broadcast():
    flat, stray, one = tf.zeros([2]), tf.zeros([2, 1]), tf.constant(1.0)
    with pytest.raises(ValueError, match=r"same shape.*x \(2,\), weight \(2, 1\)"):
        ops.weighted_mean(flat, stray)
    with pytest.raises(ValueError, match=r"same shape.*x \(2,\), weight \(2, 1\)"):
        ops.normalize(flat, stray)
    with pytest.raises(ValueError, match=r"same shape.*mean \(2,\).*batch_mean \(2, 1\)"):
        ops.merge_moments(flat, flat, one, stray, flat, one)
    with pytest.raises(ValueError, match=r"batch_count must have rank 0, got shape \(2,\)"):
        ops.merge_moments(flat, flat, one, flat, flat, flat)
    with pytest.raises(ValueError, match=r"weight must have the first axes of x \[2, 1\], got \[3\]"):
        ops.element_moments(stray, tf.ones([3]))


def test_gathering_puts_replicas_one_after_the_other(on_two_replicas):
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    for gathered in on_two_replicas(ops.gather_across_replicas, x):
        assert gathered.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_gathering_outside_of_replicas_is_nothing(variant):
    assert variant(ops.gather_across_replicas)(tf.constant([1.0, 2.0])).numpy().tolist() == [1.0, 2.0]


def test_shapes_are_compared_with_each_other_where_the_first_is_not_known():
    @tf.function(input_signature=[tf.TensorSpec(None), tf.TensorSpec([None]), tf.TensorSpec([None, 1])])
    def merge(unknown, flat, stray):
        one = tf.constant(1.0)
        return ops.merge_moments(unknown, flat, one, stray, flat, one)

    with pytest.raises(ValueError, match=r"same shape.*batch_mean \(None, 1\)"):
        merge(tf.zeros([2]), tf.zeros([2]), tf.zeros([2, 1]))


def test_what_is_not_a_number_stays_so_for_callbacks_to_see(variant):
    assert np.isnan(variant(ops.normalize)(tf.constant([1.0, np.nan, 3.0]))).all()
    values = tf.constant([1.0, np.nan, 3.0]), tf.constant([1.0, 2.0, 3.0])
    assert np.isnan(variant(ops.explained_variance)(*values))
    assert np.isnan(variant(ops.explained_variance)(*values[::-1]))
