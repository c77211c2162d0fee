import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from kerasrl_pg import ops

OLD_LOG_PROB = tf.zeros([4])
RATIOS = tf.constant([0.5, 1.5, 0.5, 1.5])
ADVANTAGE = tf.constant([1.0, 1.0, -1.0, -1.0])


def gradients(loss, *inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = loss(*inputs)
    return tape.gradient(output, inputs)


def test_policy_gradient_loss_by_hand(variant):
    log_prob, advantage = tf.constant([-0.1, -2.0]), tf.constant([1.0, -3.0])
    np.testing.assert_allclose(variant(ops.policy_gradient_loss)(log_prob, advantage), -2.95)


def test_policy_gradient_loss_only_moves_log_prob(variant):
    log_prob, advantage, weight = tf.constant([-0.1, -2.0]), tf.constant([1.0, -3.0]), tf.constant([1.5, 0.5])
    by_log_prob, by_advantage, by_weight = gradients(variant(ops.policy_gradient_loss), log_prob, advantage, weight)
    np.testing.assert_allclose(by_log_prob, [-0.75, 0.75])  # -weight · advantage / B
    assert by_advantage is None
    assert by_weight is None


def test_clipped_surrogate_loss_by_hand(variant):
    # min(r A, clip(r) A): 0.5, 1.2 (clipped), -0.8 (clipped), -1.5; the pessimist's choice each time.
    loss = variant(ops.clipped_surrogate_loss)(tf.math.log(RATIOS), OLD_LOG_PROB, ADVANTAGE, clip_epsilon=0.2)
    np.testing.assert_allclose(loss, -(0.5 + 1.2 - 0.8 - 1.5) / 4, rtol=1e-6)


def test_clipped_surrogate_loss_moves_only_samples_that_have_not_gone_far_enough(variant):
    loss = variant(
        lambda log_prob, old, advantage: ops.clipped_surrogate_loss(log_prob, old, advantage, clip_epsilon=0.2)
    )
    by_log_prob, by_old, by_advantage = gradients(loss, tf.math.log(RATIOS), OLD_LOG_PROB, ADVANTAGE)
    # Where the clip is in force, no gradient; elsewhere -r A / B, also for a sample that moved the wrong way.
    np.testing.assert_allclose(by_log_prob, [-0.125, 0.0, 0.0, 0.375], rtol=1e-6)
    assert by_old is None
    assert by_advantage is None


def test_clipped_surrogate_loss_starts_as_the_policy_gradient(variant):
    log_prob, advantage = tf.constant([-0.1, -2.0]), tf.constant([1.0, -3.0])
    surrogate = variant(lambda log_prob: ops.clipped_surrogate_loss(log_prob, log_prob, advantage, clip_epsilon=0.2))
    plain = variant(lambda log_prob: ops.policy_gradient_loss(log_prob, advantage))
    np.testing.assert_allclose(*(gradients(loss, log_prob)[0] for loss in (surrogate, plain)))


def test_entropy_is_the_mean_of_the_entropies_and_not_the_entropy_of_the_mean(variant):
    # Certain of a different action in each state: no entropy, although both actions are taken equally often.
    logits = tf.constant([[50.0, -50.0], [-50.0, 50.0]])
    mean_entropy = variant(lambda logits: ops.entropy(tfd.Categorical(logits=logits)))
    np.testing.assert_allclose(mean_entropy(logits), 0.0, atol=1e-6)
    np.testing.assert_allclose(mean_entropy(tf.zeros([2, 2])), np.log(2.0), rtol=1e-6)


def test_entropy_counts_by_weight_and_moves_the_parameters(variant):
    logits, weight = tf.constant([[0.0, 0.0], [1.0, 0.0]]), tf.constant([2.0, 0.0])
    mean_entropy = variant(lambda logits: ops.entropy(tfd.Categorical(logits=logits), weight))
    np.testing.assert_allclose(mean_entropy(logits), np.log(2.0), rtol=1e-6)
    (by_logits,) = gradients(variant(lambda logits: ops.entropy(tfd.Categorical(logits=logits))), logits)
    np.testing.assert_allclose(by_logits[0], [0.0, 0.0], atol=1e-7)  # uniform: the maximum
    assert by_logits[1, 0] < 0 < by_logits[1, 1]  # otherwise towards uniform


def test_approx_kl_by_hand(variant):
    log_prob, old_log_prob = tf.math.log([0.4, 0.2]), tf.math.log([0.2, 0.2])
    np.testing.assert_allclose(variant(ops.approx_kl)(log_prob, old_log_prob), (1 - np.log(2)) / 2, rtol=1e-5)


def test_approx_kl_has_the_true_kl_as_its_mean(variant):
    # Every action once, weighted by how often the old policy takes it: the estimator's exact expectation.
    old, new = tf.constant([0.5, 0.3, 0.2]), tf.constant([0.2, 0.3, 0.5])
    estimate = variant(ops.approx_kl)(tf.math.log(new), tf.math.log(old), 3 * old)
    np.testing.assert_allclose(estimate, np.sum(old * np.log(old / new)), rtol=1e-5)


def test_approx_kl_of_a_tiny_change_is_not_lost_in_rounding(variant):
    estimate = variant(ops.approx_kl)(tf.constant([1e-4]), tf.constant([0.0]))
    np.testing.assert_allclose(estimate, 5e-9, rtol=0.01)  # (log r)² / 2


def test_approx_kl_only_moves_log_prob(variant):
    log_prob, old_log_prob = tf.math.log([0.4, 0.2]), tf.math.log([0.2, 0.2])
    by_log_prob, by_old = gradients(variant(ops.approx_kl), log_prob, old_log_prob)
    np.testing.assert_allclose(by_log_prob, [0.5, 0.0], rtol=1e-5, atol=1e-7)  # (r - 1) / B
    assert by_old is None


def test_clip_fraction_counts_ratios_on_both_sides(variant):
    ratios = tf.constant([0.5, 0.9, 1.0, 1.1, 1.5])
    compiled = variant(ops.clip_fraction)
    fraction = compiled(tf.math.log(ratios), tf.zeros([5]), clip_epsilon=0.2)
    np.testing.assert_allclose(fraction, 0.4)
    weight = tf.constant([0.0, 1.25, 1.25, 1.25, 1.25])
    fraction = compiled(tf.math.log(ratios), tf.zeros([5]), clip_epsilon=0.2, weight=weight)
    np.testing.assert_allclose(fraction, 0.25)


def test_clip_fraction_passes_no_gradient(variant):
    fraction = variant(lambda new, old: ops.clip_fraction(new, old, clip_epsilon=0.2))
    assert gradients(fraction, tf.math.log(RATIOS), OLD_LOG_PROB) == (None, None)


def test_a_sample_without_weight_has_no_say(variant):
    weight = tf.constant([4 / 3, 4 / 3, 4 / 3, 0.0])
    weighted = variant(ops.clipped_surrogate_loss)(
        tf.math.log(RATIOS), OLD_LOG_PROB, ADVANTAGE, clip_epsilon=0.2, weight=weight
    )
    without = ops.clipped_surrogate_loss(tf.math.log(RATIOS[:3]), OLD_LOG_PROB[:3], ADVANTAGE[:3], clip_epsilon=0.2)
    np.testing.assert_allclose(weighted, without, rtol=1e-6)


def test_the_order_of_samples_does_not_matter(variant):
    order = [2, 0, 3, 1]
    compiled = variant(ops.clipped_surrogate_loss)
    inputs = tf.math.log(RATIOS), OLD_LOG_PROB, ADVANTAGE
    shuffled = [tf.gather(x, order) for x in inputs]
    np.testing.assert_allclose(compiled(*inputs, clip_epsilon=0.2), compiled(*shuffled, clip_epsilon=0.2), rtol=1e-6)


def test_a_stray_dimension_is_an_error_and_not_a_broadcast():
    flat, stray = tf.zeros([4]), tf.zeros([4, 1])
    with pytest.raises(ValueError, match=r"same shape.*log_prob \(4,\), advantage \(4, 1\)"):
        ops.policy_gradient_loss(flat, stray)
    with pytest.raises(ValueError, match=r"same shape.*old_log_prob \(4, 1\)"):
        ops.clipped_surrogate_loss(flat, stray, flat, clip_epsilon=0.2)
    with pytest.raises(ValueError, match=r"same shape.*weight \(4, 1\)"):
        ops.policy_gradient_loss(flat, flat, stray)
    with pytest.raises(ValueError, match=r"same shape.*weight \(4, 1\)"):
        ops.entropy(tfd.Categorical(logits=tf.zeros([4, 2])), stray)
    with pytest.raises(ValueError, match="old_log_prob"):
        ops.approx_kl(flat, stray)
    with pytest.raises(ValueError, match="old_log_prob"):
        ops.clip_fraction(flat, stray, clip_epsilon=0.2)


@pytest.mark.parametrize("loss", [ops.clipped_surrogate_loss, ops.clip_fraction])
def test_a_clip_of_nothing_is_an_error(loss):
    inputs = [tf.zeros([4])] * (3 if loss is ops.clipped_surrogate_loss else 2)
    with pytest.raises(ValueError, match=r"clip_epsilon must be greater than 0, got 0\.0"):
        loss(*inputs, clip_epsilon=0.0)
