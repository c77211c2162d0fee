import dataclasses

import numpy as np
import pytest

from kerasrl_pg.algorithms import A2C, PolicyGradient, Reinforce
from tests.algorithms.tabular import random_rollout, rollout_on, tabular_learner, updated

LOGITS = np.array([[0.5, -0.3], [0.1, 0.9], [0.0, 0.2]])
VALUES = np.array([0.5, -1.0, 2.0])


def advantage(baseline, rollout_of=random_rollout):
    learner = tabular_learner(LOGITS, VALUES)
    return PolicyGradient(baseline=baseline, discount=0.9).prepare(rollout_of(learner)).advantage.numpy()


def test_the_loss_by_hand():
    # Q: 1 + 0.5·1 = 1.5, then 1.  Without a baseline, at π = ½: -log ½ · mean(Q).  V is learned all the same.
    def two_steps(learner):
        return rollout_on(learner, [[0], [1]], [[1], [1]], [[1.0], [1.0]], terminated=[[False], [True]])

    algorithm = PolicyGradient(baseline="none", discount=0.5, value_coef=0.5)
    logits, values, metrics = updated(algorithm, np.zeros((2, 2)), [1.0, 2.0], two_steps)
    assert metrics["policy_loss"] == pytest.approx(np.log(2) * 1.25)
    assert metrics["value_loss"] == pytest.approx((0.5**2 + 1.0**2) / 2)
    np.testing.assert_allclose(logits, [[-0.375, 0.375], [-0.25, 0.25]], rtol=1e-6)
    np.testing.assert_allclose(values, [1.25, 1.5], rtol=1e-6)


def test_the_mean_baseline_takes_the_batchs_mean_from_every_q():
    q = advantage("none")
    np.testing.assert_allclose(advantage("mean"), q - q.mean(), rtol=1e-5, atol=1e-6)


def test_the_mean_is_that_of_valid_steps():
    def some_invalid(learner):
        valid = [[True, False, True]] * 8
        rollout = random_rollout(learner)
        return rollout._replace(valid=np.array(valid))

    q = advantage("none", some_invalid)
    np.testing.assert_allclose(advantage("mean", some_invalid), q - q[:, [0, 2]].mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_gradient_norm", [None, 0.5])
def test_with_the_critics_value_it_is_a2c_with_lambda_one(max_gradient_norm):
    same = {"discount": 0.9, "value_coef": 0.3, "entropy_coef": 0.02, "max_gradient_norm": max_gradient_norm}
    ours = updated(PolicyGradient(baseline="value", **same), LOGITS, VALUES, random_rollout)
    theirs = updated(A2C(gae_lambda=1.0, **same), LOGITS, VALUES, random_rollout)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)
    assert ours[2] == pytest.approx(theirs[2])


def test_without_baseline_on_whole_episodes_it_is_reinforce():
    def whole_episodes(learner):
        rng = np.random.default_rng(0)
        state, action, reward = rng.integers(0, 3, (8, 4)), rng.integers(0, 2, (8, 4)), rng.normal(size=(8, 4))
        last = np.repeat(np.arange(8)[:, None] == 7, 4, axis=1)  # [T, N]
        return rollout_on(learner, state, action, reward, terminated=last)

    ours = updated(PolicyGradient(baseline="none", discount=0.9), LOGITS, VALUES, whole_episodes)
    theirs = updated(Reinforce(discount=0.9), LOGITS, VALUES, whole_episodes)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)


def test_the_default_baseline_is_the_critic():
    assert dataclasses.asdict(PolicyGradient())["baseline"] == "value"


@pytest.mark.parametrize("baseline", ["none", "mean", "value"])
def test_a_batch_of_one_environment_by_the_laboratorys_recipe(baseline):
    """32 steps in a row with ends of episodes among them: Q backwards from V of the state after the last one."""

    def steps(learner):
        rng = np.random.default_rng(3)
        state, action, terminated = rng.integers(0, 3, (32, 1)), rng.integers(0, 2, (32, 1)), rng.random((32, 1)) < 0.1
        return rollout_on(learner, state, action, rng.normal(size=(32, 1)), terminated=terminated)

    rollout = steps(tabular_learner(LOGITS, VALUES))
    state, action, reward, terminated = (
        field.numpy()[:, 0] for field in (rollout.observation, rollout.action, rollout.reward, rollout.terminated)
    )
    q, following = np.zeros(32), VALUES[0]  # the state after the last row is state 0
    for step in reversed(range(32)):
        q[step] = following = reward[step] + 0.99 * (1 - terminated[step]) * following
    advantage = q - {"none": 0.0, "mean": q.mean(), "value": VALUES[state]}[baseline]
    logits, values = LOGITS.copy(), VALUES.copy()
    for step in range(32):
        p = np.exp(LOGITS[state[step]]) / np.exp(LOGITS[state[step]]).sum()
        logits[state[step]] += (np.eye(2)[action[step]] - p) * advantage[step] / 32
        values[state[step]] += 0.5 * 2 * (q[step] - VALUES[state[step]]) / 32

    ours = updated(PolicyGradient(baseline=baseline), LOGITS, VALUES, steps)
    np.testing.assert_allclose(ours[0], logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours[1], values, rtol=1e-4, atol=1e-6)
