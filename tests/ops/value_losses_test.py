import numpy as np
import pytest
import tensorflow as tf

from kerasrl_pg import ops

Q = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
NEXT_Q = tf.constant([[10.0, 30.0, 20.0], [10.0, 30.0, 20.0]])
ACTION = tf.constant([2, 0])
REWARD = tf.constant([1.0, 1.0])
DISCOUNT = tf.constant([0.5, 0.0])  # the second transition ended the task


def gradients(loss, *inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = loss(*inputs)
    return tape.gradient(output, inputs)


def test_value_loss_is_the_mean_squared_error_without_a_half(variant):
    loss = variant(ops.value_loss)(tf.constant([1.0, 2.0]), tf.constant([4.0, 2.0]))
    np.testing.assert_allclose(loss, 4.5)


def test_value_loss_counts_in_units_of_its_scale_and_by_weight(variant):
    value, target = tf.constant([1.0, 2.0]), tf.constant([4.0, 2.0])
    loss = variant(ops.value_loss)(value, target, weight=tf.constant([0.5, 1.5]), scale=tf.constant(3.0))
    np.testing.assert_allclose(loss, 0.25)


def test_value_loss_only_moves_the_value(variant):
    value, target, scale = tf.constant([1.0, 2.0]), tf.constant([4.0, 2.0]), tf.constant(2.0)
    loss = variant(lambda value, target, scale: ops.value_loss(value, target, scale=scale))
    by_value, by_target, by_scale = gradients(loss, value, target, scale)
    np.testing.assert_allclose(by_value, [-0.75, 0.0])  # 2 · error / scale² / B
    assert by_target is None
    assert by_scale is None


@pytest.mark.parametrize(
    ("value", "loss", "gradient"),
    [
        (0.25, 0.75**2, -1.5),  # within the clip: the plain error
        (0.75, 0.5**2, 0.0),  # beyond it, towards the target: paid up to 0.5, and no further
        (-1.0, 2.0**2, -4.0),  # beyond it, away from the target: the whole error counts
    ],
)
def test_clipped_value_loss_by_hand(variant, value, loss, gradient):
    clipped = variant(lambda value: ops.clipped_value_loss(value, tf.zeros([1]), tf.ones([1]), clip_epsilon=0.5))
    np.testing.assert_allclose(clipped(tf.constant([value])), loss)
    np.testing.assert_allclose(gradients(clipped, tf.constant([value]))[0], [gradient])


def test_clipped_value_loss_counts_by_weight_and_leaves_out_what_has_none(variant):
    value, old, target = tf.constant([0.75, -1.0, 1e6]), tf.zeros([3]), tf.ones([3])
    weight = tf.constant([2.0, 1.0, 0.0])
    loss = variant(lambda value: ops.clipped_value_loss(value, old, target, clip_epsilon=0.5, weight=weight))
    np.testing.assert_allclose(loss(value), (2 * 0.25 + 4.0) / 3, rtol=1e-6)
    np.testing.assert_allclose(gradients(loss, value)[0], [0.0, -4.0 / 3, 0.0], rtol=1e-6)


def test_clipped_value_loss_without_a_move_is_the_value_loss(variant):
    value, target = tf.constant([1.0, -2.0]), tf.constant([4.0, 2.0])
    clipped = variant(ops.clipped_value_loss)(value, value, target, clip_epsilon=0.2)
    np.testing.assert_allclose(clipped, ops.value_loss(value, target))


def test_clipped_value_loss_does_not_depend_on_the_unit_of_reward(variant):
    value, old, target = tf.constant([0.9, -2.0]), tf.constant([0.0, -1.9]), tf.constant([4.0, 2.0])
    compiled = variant(ops.clipped_value_loss)
    np.testing.assert_allclose(
        compiled(value, old, target, clip_epsilon=0.5),
        compiled(100 * value, 100 * old, 100 * target, clip_epsilon=0.5, scale=100.0),
        rtol=1e-5,
    )


def test_clipped_value_loss_only_moves_the_value(variant):
    value, old, target = tf.constant([0.1]), tf.constant([0.0]), tf.constant([1.0])
    loss = variant(lambda *inputs: ops.clipped_value_loss(*inputs, clip_epsilon=0.5))
    by_value, by_old, by_target = gradients(loss, value, old, target)
    np.testing.assert_allclose(by_value, [-1.8], rtol=1e-6)
    assert by_old is None
    assert by_target is None


def test_huber_is_square_then_linear_and_its_gradient_is_the_clipped_error(variant):
    error = tf.constant([-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0])
    loss = variant(lambda error: ops.huber(error, delta=2.0))
    np.testing.assert_allclose(loss(error), [6.0, 2.0, 0.5, 0.0, 0.5, 2.0, 6.0])
    np.testing.assert_allclose(gradients(loss, error)[0], np.clip(error, -2.0, 2.0))


def test_td_error_by_hand(variant):
    error = variant(ops.td_error)(Q, ACTION, tf.constant([16.0, 1.0]))
    np.testing.assert_allclose(error, [13.0, -3.0])


def test_td_error_only_moves_the_q_of_the_action(variant):
    by_q, by_target = gradients(variant(lambda q, target: ops.td_error(q, ACTION, target)), Q, REWARD)
    np.testing.assert_allclose(tf.convert_to_tensor(by_q), [[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])
    assert by_target is None


def test_q_target_is_the_reward_and_the_best_next_value_and_nothing_more_where_the_task_ended(variant):
    np.testing.assert_allclose(variant(ops.q_target)(REWARD, DISCOUNT, NEXT_Q), [1 + 30 / 2, 1.0])


def test_double_q_target_values_the_action_that_the_other_network_chooses(variant):
    online = tf.constant([[0.0, 1.0, 9.0], [0.0, 1.0, 9.0]])  # chooses 2, which the target network values at 20
    target = variant(ops.double_q_target)(REWARD, DISCOUNT, online, NEXT_Q)
    np.testing.assert_allclose(target, [11.0, 1.0])


def test_double_q_target_of_one_network_is_the_target_of_q_learning(variant):
    target = variant(ops.double_q_target)(REWARD, DISCOUNT, NEXT_Q, NEXT_Q)
    np.testing.assert_allclose(target, ops.q_target(REWARD, DISCOUNT, NEXT_Q))


def test_noise_makes_the_maximum_too_high_and_two_networks_do_not_share_their_noise(variant):
    """Van Hasselt et al. 2016: every action is worth 0; estimates of it are off by independent noise."""
    noise = np.random.default_rng(0).normal(size=(2, 20_000, 8)).astype(np.float32)
    zeros, ones = tf.zeros([20_000]), tf.ones([20_000])
    single = variant(ops.q_target)(zeros, ones, noise[0])
    double = variant(ops.double_q_target)(zeros, ones, noise[0], noise[1])
    assert abs(float(tf.reduce_mean(single)) - 1.42) < 0.02  # the expected largest of 8 standard normal numbers
    assert abs(float(tf.reduce_mean(double))) < 0.02


def test_targets_pass_no_gradient(variant):
    single = variant(lambda reward, next_q: ops.q_target(reward, DISCOUNT, next_q))
    assert gradients(single, REWARD, NEXT_Q) == (None, None)
    double = variant(lambda online, target: ops.double_q_target(REWARD, DISCOUNT, online, target))
    assert gradients(double, Q, NEXT_Q) == (None, None)


def test_a_stray_dimension_is_an_error_and_not_a_broadcast():
    flat, stray = tf.zeros([2]), tf.zeros([2, 1])
    with pytest.raises(ValueError, match=r"same shape.*value \(2,\), value_target \(2, 1\)"):
        ops.value_loss(flat, stray)
    with pytest.raises(ValueError, match=r"same shape.*weight \(2, 1\)"):
        ops.value_loss(flat, flat, weight=stray)
    with pytest.raises(ValueError, match=r"scale must have rank 0, got shape \(2,\)"):
        ops.value_loss(flat, flat, scale=tf.ones([2]))
    with pytest.raises(ValueError, match=r"same shape.*old_value \(2, 1\)"):
        ops.clipped_value_loss(flat, stray, flat, clip_epsilon=0.2)
    with pytest.raises(ValueError, match=r"same shape.*weight \(2, 1\)"):
        ops.clipped_value_loss(flat, flat, flat, clip_epsilon=0.2, weight=stray)
    with pytest.raises(ValueError, match=r"same shape.*q_of_action \(2,\), target \(2, 1\)"):
        ops.td_error(Q, ACTION, stray)
    with pytest.raises(ValueError, match=r"action must have rank 1, got shape \(2, 1\)"):
        ops.td_error(Q, tf.zeros([2, 1], tf.int32), flat)
    with pytest.raises(ValueError, match=r"same shape.*reward \(2, 1\), discount \(2,\)"):
        ops.q_target(stray, flat, NEXT_Q)
    with pytest.raises(ValueError, match=r"same shape.*discount \(2, 1\)"):
        ops.double_q_target(flat, stray, Q, NEXT_Q)
    with pytest.raises(ValueError, match=r"next_q_online must have rank 2"):
        ops.double_q_target(stray, stray, Q[:, :, None], NEXT_Q[:, :, None])
    with pytest.raises(ValueError, match=r"same shape.*next_q_target \(2, 1\)"):
        ops.double_q_target(flat, flat, Q, stray)


def test_numbers_out_of_range_are_named():
    with pytest.raises(ValueError, match="delta must be greater than 0, got -1"):
        ops.huber(REWARD, delta=-1)
    with pytest.raises(ValueError, match="clip_epsilon must be greater than 0, got 0"):
        ops.clipped_value_loss(REWARD, REWARD, REWARD, clip_epsilon=0)
