import functools

import numpy as np
import pytest

from kerasrl_pg.algorithms import Reinforce
from tests.algorithms.tabular import rollout_on, softmax, tables, tabular_learner, updated

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 3))
LENGTHS = [3, 7, 1, 5]
"""Steps of each environment's episode; the rollout is as long as the longest."""


def episodes(learner, junk: float = 0.0):
    """One episode per environment, of different lengths; after its end come rows of junk that are not valid."""
    rng = np.random.default_rng(1)
    shape = (max(LENGTHS), len(LENGTHS))
    valid = np.arange(shape[0])[:, None] < np.array(LENGTHS)  # [T, N]
    last = np.arange(shape[0])[:, None] == np.array(LENGTHS) - 1
    state, action, reward = rng.integers(0, 4, shape), rng.integers(0, 3, shape), rng.normal(size=shape)
    # One of the episodes is cut by a time limit: without a critic that is an end like any other.
    cut = last & (np.arange(shape[1]) == 1)
    return rollout_on(
        learner,
        state,
        action,
        np.where(valid, reward, junk),
        terminated=last & ~cut,
        truncated=cut,
        valid=valid,
    )


def naive_gradient(rollout, discount: float, entropy_coef: float = 0.0, standardize: bool = False) -> np.ndarray:
    """The gradient of the loss, episode by episode and step by step."""
    state, action, reward = (x.numpy() for x in (rollout.observation, rollout.action, rollout.reward))
    samples = []
    for environment, length in enumerate(LENGTHS):
        for start in range(length):
            rest = reward[start:length, environment]
            samples.append(
                (state[start, environment], action[start, environment], rest @ discount ** np.arange(len(rest)))
            )
    returns = np.array([g for _, _, g in samples])
    if standardize:
        returns = (returns - returns.mean()) / returns.std()
    gradient = np.zeros_like(LOGITS)
    for (s, a, _), g in zip(samples, returns, strict=True):
        p = softmax(LOGITS[s])
        entropy = -(p * np.log(p)).sum()
        gradient[s] -= (np.eye(3)[a] - p) * g + entropy_coef * (-p * (np.log(p) + entropy))
    return gradient / len(samples)


@pytest.mark.parametrize(
    "settings",
    [{}, {"discount": 0.7}, {"entropy_coef": 0.3}, {"standardize_returns": True}],
    ids=lambda settings: " ".join(settings) or "defaults",
)
def test_the_gradient_is_that_of_a_loop_over_episodes(settings):
    algorithm = Reinforce(**settings)
    logits, _, _ = updated(algorithm, LOGITS, np.zeros(4), episodes)
    expected = naive_gradient(
        episodes(tabular_learner(LOGITS, np.zeros(4))),
        algorithm.discount,
        algorithm.entropy_coef,
        algorithm.standardize_returns,
    )
    np.testing.assert_allclose(LOGITS - logits, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("standardize_returns", [False, True])
def test_what_comes_after_an_episodes_end_does_not_matter(standardize_returns):
    algorithm = Reinforce(standardize_returns=standardize_returns)
    clean = updated(algorithm, LOGITS, np.zeros(4), episodes)
    junk = updated(algorithm, LOGITS, np.zeros(4), functools.partial(episodes, junk=1e4))
    np.testing.assert_allclose(clean[0], junk[0], rtol=1e-5)


def test_the_loss_by_hand():
    # Rewards 1 and 2, discount ½: returns 2 and 2. At π = ½ the loss is -log ½ · 2.
    def two_steps(learner):
        return rollout_on(learner, [[0], [1]], [[0], [1]], [[1.0], [2.0]], terminated=[[False], [True]])

    logits, _, metrics = updated(Reinforce(discount=0.5), np.zeros((2, 2)), np.zeros(2), two_steps)
    assert metrics["policy_loss"] == pytest.approx(2 * np.log(2))
    np.testing.assert_allclose(logits, [[0.5, -0.5], [-0.5, 0.5]], rtol=1e-6)


def test_a_critic_neither_helps_nor_learns():
    learner = tabular_learner(LOGITS, [5.0, -3.0, 2.0, 1.0])
    logits, values, _ = updated(Reinforce(), LOGITS, [5.0, -3.0, 2.0, 1.0], episodes)
    without, _, _ = updated(Reinforce(), LOGITS, np.zeros(4), episodes)
    np.testing.assert_array_equal(values, tables(learner)[1])
    np.testing.assert_array_equal(logits, without)
