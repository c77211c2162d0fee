import dataclasses

import keras
import numpy as np
import pytest

import kerasrl_pg as krl
from kerasrl_pg import ops
from kerasrl_pg.algorithms import A2C
from tests.algorithms.tabular import random_rollout, rollout_on, tabular_learner, updated


def two_steps(learner):
    """State 0, then state 1, then the end; action 1 both times; a reward of 1 each."""
    return rollout_on(learner, [[0], [1]], [[1], [1]], [[1.0], [1.0]], terminated=[[False], [True]])


def test_the_loss_by_hand():
    # δ₁ = 1 - 2 = -1 = A₁;  δ₀ = 1 + 0.5·2 - 1 = 1, A₀ = 1 + 0.5·(-1) = 0.5.  Targets: 1.5 and 1.  π = ½ everywhere.
    algorithm = A2C(discount=0.5, gae_lambda=1.0, value_coef=0.5, entropy_coef=0.01, max_gradient_norm=None)
    _, _, metrics = updated(algorithm, np.zeros((2, 2)), [1.0, 2.0], two_steps)
    policy_loss, value_loss, entropy = np.log(2) * (0.5 - 1.0) / 2, (0.5**2 + 1.0**2) / 2, np.log(2)
    assert metrics["policy_loss"] == pytest.approx(policy_loss)
    assert metrics["value_loss"] == pytest.approx(value_loss)
    assert metrics["entropy"] == pytest.approx(entropy)
    assert metrics["loss"] == pytest.approx(policy_loss + 0.5 * value_loss - 0.01 * entropy)


def test_the_step_by_hand():
    # -∂/∂logits of the policy's loss: (1{a} - π) · A / 2;  -∂/∂V of half the squared error: (target - V) / 2.
    algorithm = A2C(discount=0.5, gae_lambda=1.0, value_coef=0.5, entropy_coef=0.0, max_gradient_norm=None)
    logits, values, _ = updated(algorithm, np.zeros((2, 2)), [1.0, 2.0], two_steps)
    np.testing.assert_allclose(logits, [[-0.125, 0.125], [0.25, -0.25]], rtol=1e-6)
    np.testing.assert_allclose(values, [1.25, 1.5], rtol=1e-6)


def test_with_lambda_one_the_advantage_is_the_papers_n_step_return_minus_the_value():
    learner = tabular_learner(np.zeros((3, 2)), [0.5, -1.0, 2.0])
    rollout = random_rollout(learner, length=5)
    batch = A2C(rollout_length=5, discount=0.9, gae_lambda=1.0).prepare(rollout)
    returns = ops.n_step_returns(
        rollout.reward, rollout.terminated, rollout.truncated, rollout.next_value, discount=0.9, num_steps=5
    )
    np.testing.assert_allclose(batch.advantage, returns - rollout.value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.value_target, returns, rtol=1e-5, atol=1e-6)


def test_with_lambda_zero_the_advantage_is_the_one_step_error():
    learner = tabular_learner(np.zeros((3, 2)), [0.5, -1.0, 2.0])
    rollout = random_rollout(learner)
    batch = A2C(discount=0.9, gae_lambda=0.0).prepare(rollout)
    # next_value is 0 at a termination, and V of the final observation at a truncation, already in the rollout.
    np.testing.assert_allclose(batch.advantage, rollout.reward + 0.9 * rollout.next_value - rollout.value, atol=1e-6)


def test_standardised_advantages_do_not_depend_on_the_rewards_unit():
    def scaled(scale):
        def make(learner):
            rollout = random_rollout(learner)
            return rollout._replace(reward=scale * rollout.reward)

        algorithm = A2C(normalize_advantage=True, value_coef=0.0, entropy_coef=0.0, max_gradient_norm=None)
        return updated(algorithm, np.zeros((3, 2)), np.zeros(3), make)[0]

    np.testing.assert_allclose(scaled(1.0), scaled(100.0), rtol=1e-4)
    assert np.abs(scaled(1.0)).max() > 0.01


def test_whole_episodes_have_monte_carlo_returns_up_to_the_end_of_the_task():
    # Both episodes earn 1 a step, discount ½. The first terminates: returns 1.75, 1.5, 1. The second is cut by a time
    # limit, after which V of the final observation, 4, stands for what would have followed: 1 + ½ · 4 = 3, then 2.5.
    def episodes(learner):
        last = np.array([[False, False], [False, True], [True, False]])
        rollout = rollout_on(
            learner, [[0, 0], [1, 1], [2, 0]], np.ones((3, 2)), np.ones((3, 2)), terminated=last & [True, False],
            truncated=last & [False, True], valid=[[True, True], [True, True], [True, False]],
        )  # fmt: skip
        next_value = rollout.next_value.numpy()
        next_value[1, 1] = 4.0
        return rollout._replace(next_value=next_value)

    values = np.array([0.5, -1.0, 2.0])
    batch = A2C(rollout_length=None, discount=0.5).prepare(episodes(tabular_learner(np.zeros((3, 2)), values)))
    np.testing.assert_allclose(batch.value_target[:, 0], [1.75, 1.5, 1.0])
    np.testing.assert_allclose(batch.value_target[:2, 1], [2.5, 3.0])
    np.testing.assert_allclose(batch.advantage[:, 0], [1.75, 1.5, 1.0] - values)
    np.testing.assert_allclose(batch.advantage[:2, 1], [2.5, 3.0] - values[:2])


def test_the_policy_gradients_figures_are_those_of_the_policys_loss_alone():
    # As in the step by hand: the policy's gradient is (±0.125, ±0.25); the critic's and the entropy's do not count.
    plain = A2C(discount=0.5, gae_lambda=1.0, value_coef=0.5, entropy_coef=0.3, max_gradient_norm=None)
    measured = dataclasses.replace(plain, policy_gradient_metrics=True)
    logits, values, metrics = updated(measured, np.zeros((2, 2)), [1.0, 2.0], two_steps)
    gradient = np.array([0.125, -0.125, -0.25, 0.25])
    assert metrics["policy_gradient_rms"] == pytest.approx(np.sqrt(np.mean(gradient**2)))
    assert metrics["policy_gradient_max"] == pytest.approx(0.25)
    assert metrics["policy_gradient_variance"] == pytest.approx(gradient.var())
    assert metrics["advantage_mean"] == pytest.approx((0.5 - 1.0) / 2)
    assert metrics["value_mean"] == pytest.approx((1.0 + 2.0) / 2)
    assert metrics["value_target_mean"] == pytest.approx((1.5 + 1.0) / 2)

    same_logits, same_values, fewer = updated(plain, np.zeros((2, 2)), [1.0, 2.0], two_steps)
    np.testing.assert_array_equal(logits, same_logits)  # measuring changes nothing
    np.testing.assert_array_equal(values, same_values)
    assert not any(name.startswith("policy_gradient") for name in fewer)


def test_measuring_moves_no_average_of_a_batch_either():
    def trained(**more):
        layers = [keras.layers.Dense(4, kernel_initializer="ones"), keras.layers.BatchNormalization()]
        return krl.fit_agent(
            "CartPole-v1", A2C(rollout_length=4, **more), model=keras.Sequential(layers), steps=16, num_envs=2,
            jit_compile=False, verbose=0,
        )  # fmt: skip

    for weight, same in zip(
        trained().model.get_weights(), trained(policy_gradient_metrics=True).model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, same)
