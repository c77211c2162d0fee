import numpy as np
import pytest

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
