import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasrl_pg import ops
from kerasrl_pg.types import Rollout

DISCOUNT = 0.9
T, N = 12, 3


def column(*values, dtype=tf.float32):
    return tf.constant(values, dtype)[:, None]  # [T] -> [T, 1]


def random_segment(seed=0):
    """reward, value, next_value, terminated, truncated, all [T, N]: some end both ways at once."""
    random = np.random.default_rng(seed)
    numbers = random.normal(size=[3, T, N]).astype(np.float32)
    endings = random.random(size=[2, T, N]) < 0.25
    return *map(tf.constant, numbers), *map(tf.constant, endings)


def naive_gae(reward, value, next_value, terminated, truncated, discount, gae_lambda):
    """Straight from the definition: the sum of (γλ)^l δ_{t+l} up to the episode's end, one by one."""
    advantage = np.zeros([T, N])
    for t, n in np.ndindex(T, N):
        weight = 1.0
        for later in range(t, T):
            bootstrap = 0.0 if terminated[later, n] else discount * next_value[later, n]
            advantage[t, n] += weight * (reward[later, n] + bootstrap - value[later, n])
            weight *= discount * gae_lambda
            if terminated[later, n] or truncated[later, n]:
                break
    return advantage


@pytest.fixture
def segment():
    return random_segment()


def test_gae_by_hand(variant):
    # One column runs on, one terminates at step 1, one is truncated there. r = 1, V = 2, V(s') = 4.
    ones = tf.ones([3, 3])
    terminated = tf.constant([[False, False, False], [False, True, False], [False, False, False]])
    truncated = tf.constant([[False, False, False], [False, False, True], [False, False, False]])
    advantage = variant(ops.gae)(ones, 2 * ones, 4 * ones, terminated, truncated, discount=0.5, gae_lambda=0.5)
    # δ = 1 + 2 - 2 = 1, or 1 - 2 = -1 where the task is over; the trace decays by 1/4, and stops at both.
    np.testing.assert_allclose(advantage, [[1.3125, 0.75, 1.25], [1.25, -1.0, 1.0], [1.0, 1.0, 1.0]])


def test_gae_equals_its_definition(variant, segment):
    advantage = variant(ops.gae)(*segment, discount=DISCOUNT, gae_lambda=0.8)
    expected = naive_gae(*(x.numpy() for x in segment), DISCOUNT, 0.8)
    np.testing.assert_allclose(advantage, expected, rtol=1e-5, atol=1e-5)


def test_gae_with_lambda_0_is_the_td_error(variant, segment):
    reward, value, next_value, terminated, _ = segment
    advantage = variant(ops.gae)(*segment, discount=DISCOUNT, gae_lambda=0.0)
    td_error = reward + DISCOUNT * next_value * np.where(terminated, 0.0, 1.0) - value
    np.testing.assert_allclose(advantage, td_error, rtol=1e-5, atol=1e-6)


def test_gae_with_lambda_1_is_the_return_minus_the_value(variant, segment):
    # Only if V(s') is the V of the next row within an episode, as it is in a rollout.
    reward, value, next_value, terminated, truncated = segment
    ended = (terminated | truncated).numpy()
    ended[-1] = True
    next_value = tf.where(ended, next_value, np.roll(value, -1, axis=0))
    advantage = variant(ops.gae)(reward, value, next_value, terminated, truncated, discount=DISCOUNT, gae_lambda=1.0)
    returns = variant(ops.discounted_returns)(reward, terminated, truncated, next_value, discount=DISCOUNT)
    np.testing.assert_allclose(advantage + value, returns, rtol=1e-5, atol=1e-5)


@given(
    seed=st.integers(0, 2**32 - 1),
    discount=st.sampled_from([0.0, 0.5, 0.98]),
    gae_lambda=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    num_steps=st.integers(1, T + 1),
)
@settings(max_examples=40)
def test_exact_values_leave_no_advantage_whatever_the_endings(seed, discount, gae_lambda, num_steps):
    random = np.random.default_rng(seed)
    states = random.integers(1, 8)
    successor = random.integers(states, size=states)
    reward_of = random.normal(size=states)
    ends_the_task = random.random(states) < 0.3
    transition = np.eye(states)[successor] * ~ends_the_task[:, None]
    value_of = np.linalg.solve(np.eye(states) - discount * transition, reward_of)  # V = r + γ P V

    state = np.zeros([T, N], int)
    truncated = random.random([T, N]) < 0.2
    for t in range(T - 1):
        ended = ends_the_task[state[t]] | truncated[t]
        state[t + 1] = np.where(ended, random.integers(states, size=N), successor[state[t]])
    reward, value, next_value = (
        tf.constant(table[state], tf.float32) for table in (reward_of, value_of, value_of[successor])
    )
    terminated = tf.constant(ends_the_task[state])

    advantage = ops.gae(reward, value, next_value, terminated, truncated, discount=discount, gae_lambda=gae_lambda)
    np.testing.assert_allclose(advantage, np.zeros([T, N]), atol=2e-4)
    for returns in (
        ops.discounted_returns(reward, terminated, truncated, next_value, discount=discount),
        ops.n_step_returns(reward, terminated, truncated, next_value, discount=discount, num_steps=num_steps),
    ):
        np.testing.assert_allclose(returns, value, atol=2e-4)


def test_a_time_limit_taken_for_an_ending_is_an_error_of_49(variant):
    # A reward of 1 forever at γ = 0.98 is worth 1 / (1 - γ) = 50, and the limit does not change that.
    one, fifty = tf.ones([1, 1]), 50.0 * tf.ones([1, 1])
    yes, no = tf.ones([1, 1], tf.bool), tf.zeros([1, 1], tf.bool)
    compiled = variant(ops.gae)
    truncated = compiled(one, fifty, fifty, no, yes, discount=0.98, gae_lambda=0.95)
    terminated = compiled(one, fifty, fifty, yes, no, discount=0.98, gae_lambda=0.95)
    np.testing.assert_allclose([truncated[0, 0], terminated[0, 0]], [0.0, -49.0], atol=1e-5)


def test_a_task_that_ends_at_its_time_limit_has_ended(variant):
    one, both = tf.ones([1, 1]), tf.ones([1, 1], tf.bool)
    returns = variant(ops.discounted_returns)(one, both, both, 50 * one, discount=DISCOUNT)
    np.testing.assert_allclose(returns, [[1.0]])


def test_discounted_returns_by_hand(variant):
    reward, next_value = column(1.0, 2.0, 3.0, 4.0), column(10.0, 20.0, 30.0, 40.0)
    never = tf.zeros([4, 1], tf.bool)
    third = column(False, False, True, False, dtype=tf.bool)
    compiled = variant(ops.discounted_returns)
    terminated = compiled(reward, third, never, next_value, discount=0.5)
    truncated = compiled(reward, never, third, next_value, discount=0.5)
    # From the end: 4 + 40/2 = 24; 3, or 3 + 30/2 = 18; and so on.
    np.testing.assert_allclose(terminated[:, 0], [2.75, 3.5, 3.0, 24.0])
    np.testing.assert_allclose(truncated[:, 0], [6.5, 11.0, 18.0, 24.0])


def test_discounted_returns_without_a_critic_are_monte_carlo_returns(variant):
    reward, zeros, never = tf.ones([T, 1]), tf.zeros([T, 1]), tf.zeros([T, 1], tf.bool)
    returns = variant(ops.discounted_returns)(reward, never, never, zeros, discount=DISCOUNT)
    steps_left = np.arange(T, 0, -1)
    np.testing.assert_allclose(returns[:, 0], (1 - DISCOUNT**steps_left) / (1 - DISCOUNT), rtol=1e-6)


def test_nothing_after_an_ending_reaches_back_before_it(variant, segment):
    reward, _, _, terminated, truncated = segment
    compiled = variant(lambda reward: ops.gae(reward, *segment[1:], discount=DISCOUNT, gae_lambda=0.9))
    for t in range(T - 1):
        ended = (terminated[t] | truncated[t]).numpy()
        disturbed = tf.where((np.arange(T)[:, None] > t) & ended, 1e6, reward)
        before, after = compiled(reward).numpy(), compiled(disturbed).numpy()
        np.testing.assert_array_equal(before[: t + 1, ended], after[: t + 1, ended])


def test_n_step_returns_by_hand(variant):
    reward, next_value = column(1.0, 2.0, 3.0, 4.0), column(10.0, 20.0, 30.0, 40.0)
    never = tf.zeros([4, 1], tf.bool)
    third = column(False, False, True, False, dtype=tf.bool)
    compiled = variant(ops.n_step_returns)
    terminated = compiled(reward, third, never, next_value, discount=0.5, num_steps=2)
    truncated = compiled(reward, never, third, next_value, discount=0.5, num_steps=2)
    # 1 + 2/2 + 20/4 = 7; then 2 + 3/2, and 30/4 more if it was truncated; both end at the segment's end.
    np.testing.assert_allclose(terminated[:, 0], [7.0, 3.5, 3.0, 24.0])
    np.testing.assert_allclose(truncated[:, 0], [7.0, 11.0, 18.0, 24.0])


def naive_n_step_returns(reward, terminated, truncated, next_value, discount, num_steps):
    """Straight from the definition, step by step, up to the episode's end or the segment's."""
    returns = np.zeros([T, N])
    for t, n in np.ndindex(T, N):
        for later in range(t, min(t + num_steps, T)):
            returns[t, n] += discount ** (later - t) * reward[later, n]
            if terminated[later, n] or truncated[later, n]:
                break
        if not terminated[later, n]:
            returns[t, n] += discount ** (later - t + 1) * next_value[later, n]
    return returns


@pytest.mark.parametrize("num_steps", [1, 3, 5])
def test_n_step_returns_equal_their_definition(variant, segment, num_steps):
    reward, _, next_value, terminated, truncated = segment
    inputs = reward, terminated, truncated, next_value
    returns = variant(ops.n_step_returns)(*inputs, discount=DISCOUNT, num_steps=num_steps)
    expected = naive_n_step_returns(*(x.numpy() for x in inputs), DISCOUNT, num_steps)
    np.testing.assert_allclose(returns, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_steps", [T, T + 5])
def test_n_step_returns_of_the_whole_segment_are_discounted_returns(variant, segment, num_steps):
    reward, _, next_value, terminated, truncated = segment
    inputs = reward, terminated, truncated, next_value
    n_step = variant(ops.n_step_returns)(*inputs, discount=DISCOUNT, num_steps=num_steps)
    full = variant(ops.discounted_returns)(*inputs, discount=DISCOUNT)
    np.testing.assert_allclose(n_step, full, rtol=1e-5, atol=1e-5)


def test_segments_of_any_length_go_through_one_graph(segment):
    graph = tf.function(
        lambda *inputs: ops.gae(*inputs, discount=DISCOUNT, gae_lambda=0.9),
        input_signature=[tf.TensorSpec([None, None], x.dtype) for x in segment],
    )
    for length in (1, T):
        inputs = [x[-length:] for x in segment]
        eager = ops.gae(*inputs, discount=DISCOUNT, gae_lambda=0.9)
        np.testing.assert_allclose(graph(*inputs), eager, rtol=1e-5, atol=1e-6)


def test_no_gradient_flows_through_returns_and_advantages(variant, segment):
    reward, value, next_value, terminated, truncated = segment

    def everything(reward, value, next_value):
        returns = reward, terminated, truncated, next_value
        rollout = Rollout(*(value,) * 3, value, reward, terminated, truncated, next_value, valid=~terminated)
        batch = ops.advantage_batch(rollout, discount=DISCOUNT, gae_lambda=0.9)
        return (
            ops.gae(reward, value, next_value, terminated, truncated, discount=DISCOUNT, gae_lambda=0.9),
            ops.discounted_returns(*returns, discount=DISCOUNT),
            ops.n_step_returns(*returns, discount=DISCOUNT, num_steps=3),
            ops.explained_variance(value, next_value),
            (batch.advantage, batch.value_target),
        )

    with tf.GradientTape() as tape:
        tape.watch([reward, value, next_value])
        outputs = tf.nest.flatten(variant(everything)(reward, value, next_value))
    assert tape.gradient(outputs, [reward, value, next_value]) == [None, None, None]


def test_advantage_batch_targets_the_lambda_return_and_leaves_out_what_is_not_valid(variant, segment):
    reward, value, next_value, terminated, truncated = segment
    valid = tf.constant(np.arange(T * N).reshape(T, N) % 4 != 0)
    rollout = Rollout(reward, reward, value, value, reward, terminated, truncated, next_value, valid)
    batch = variant(lambda rollout: ops.advantage_batch(rollout, discount=DISCOUNT, gae_lambda=0.7))(rollout)
    advantage = ops.gae(*segment, discount=DISCOUNT, gae_lambda=0.7)
    np.testing.assert_allclose(batch.advantage, advantage, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.value_target, advantage + value, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(batch.weight, valid.numpy().astype(np.float32))
    np.testing.assert_array_equal(batch.observation, reward)


@pytest.mark.parametrize(
    ("value", "explained"),
    [([1.0, 2.0, 6.0], 1.0), ([3.0, 3.0, 3.0], 0.0), ([8.0, 9.0, 13.0], 1.0), ([6.0, 5.0, 1.0], -3.0)],
    ids=["perfect", "constant", "perfect but for a constant", "upside down"],
)
def test_explained_variance(variant, value, explained):
    result = variant(ops.explained_variance)(tf.constant(value), tf.constant([1.0, 2.0, 6.0]))
    np.testing.assert_allclose(result, explained, atol=1e-6)


def test_explained_variance_leaves_out_what_has_no_weight(variant):
    value, target = tf.constant([1.0, 2.0, 99.0]), tf.constant([1.0, 2.0, 0.0])
    compiled = variant(ops.explained_variance)
    np.testing.assert_allclose(compiled(value, target, tf.constant([1.5, 1.5, 0.0])), 1.0)
    assert compiled(value, target) < 0


def test_explained_variance_of_targets_that_do_not_vary_is_0(variant):
    assert float(variant(ops.explained_variance)(tf.constant([1.0, 2.0]), tf.constant([3.0, 3.0]))) == 0.0


def test_a_stray_dimension_is_an_error_and_not_a_broadcast(segment):
    reward, value, next_value, terminated, truncated = segment
    with pytest.raises(ValueError, match=r"same shape.*reward \(12, 3\).*terminated \(12, 3, 1\)"):
        ops.gae(reward, value, next_value, terminated[..., None], truncated, discount=0.9, gae_lambda=0.9)
    with pytest.raises(ValueError, match=r"same shape.*next_value \(1, 3\)"):
        ops.discounted_returns(reward, terminated, truncated, next_value[:1], discount=0.9)
    with pytest.raises(ValueError, match=r"same shape.*truncated \(12,\)"):
        ops.n_step_returns(reward, terminated, truncated[:, 0], next_value, discount=0.9, num_steps=1)
    with pytest.raises(ValueError, match=r"reward must have rank 2, got shape \(12,\)"):
        ops.discounted_returns(*[x[:, 0] for x in (reward, terminated, truncated, value)], discount=0.9)
    with pytest.raises(ValueError, match=r"value_target \(12, 1\)"):
        ops.explained_variance(reward[:, 0], reward[:, :1])


def test_numbers_out_of_range_are_named(segment):
    reward, _, next_value, terminated, truncated = segment
    inputs = reward, terminated, truncated, next_value
    with pytest.raises(ValueError, match=r"discount must be between 0 and 1, got 1\.01"):
        ops.discounted_returns(*inputs, discount=1.01)
    with pytest.raises(ValueError, match=r"gae_lambda must be between 0 and 1, got -0\.1"):
        ops.gae(*segment, discount=0.9, gae_lambda=-0.1)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        ops.n_step_returns(*inputs, discount=0.9, num_steps=0)
