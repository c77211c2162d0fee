import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from kerasrl_pg.algorithms import CrossEntropy
from kerasrl_pg.algorithms.cross_entropy import elite_threshold
from tests.algorithms.tabular import rollout_on, softmax, tabular_learner, updated

LOGITS = np.random.default_rng(0).normal(size=(4, 3))
LENGTHS = [3, 7, 1, 5, 4]
RETURNS = [6.0, 2.0, 9.0, 6.0, 1.0]
"""Of each environment's episode, all of it earned on the last step."""


def episodes(learner, junk: float = 0.0):
    """One episode per environment; after its end come rows of junk that are not valid."""
    rng = np.random.default_rng(1)
    shape = (max(LENGTHS), len(LENGTHS))
    last = np.arange(shape[0])[:, None] == np.array(LENGTHS) - 1  # [T, N]
    valid = np.arange(shape[0])[:, None] < np.array(LENGTHS)
    reward = np.where(last, RETURNS, np.where(valid, 0.0, junk))
    state, action = rng.integers(0, 4, shape), rng.integers(0, 3, shape)
    return rollout_on(learner, state, action, reward, terminated=last, valid=valid)


def elite_of(share: float, rollout_of=episodes) -> list[int]:
    weight = CrossEntropy(elite_share=share).prepare(rollout_of(tabular_learner(LOGITS, np.zeros(4)))).weight.numpy()
    chosen = weight.max(axis=0) > 0  # [N]
    lengths = weight.sum(axis=0)[chosen]
    assert lengths.tolist() == [LENGTHS[index] for index in np.flatnonzero(chosen)]  # every step of a chosen episode
    return np.flatnonzero(chosen).tolist()


@pytest.mark.parametrize(
    ("share", "elite"),
    [
        (0.01, [2]),
        (0.2, [2]),
        (0.21, [0, 2, 3]),  # two of five are wanted; the second best is met twice
        (0.6, [0, 2, 3]),
        (0.8, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_the_elite_by_hand(share, elite):
    assert elite_of(share) == elite


@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=40),
    st.integers(1, 100),
)
def test_the_elite_is_never_smaller_than_its_share_and_larger_only_by_ties(returns, percent):
    threshold = float(elite_threshold(tf.constant(returns, tf.float32), percent / 100))
    wanted = -(-percent * len(returns) // 100)
    assert sum(value >= threshold for value in returns) >= wanted
    assert sum(value > threshold for value in returns) < wanted


def test_rewards_after_an_episodes_end_do_not_count():
    assert elite_of(0.2, lambda learner: episodes(learner, junk=100.0)) == [2]


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_gradient_is_that_of_a_loop_over_the_elites_steps(share):
    logits, values, metrics = updated(CrossEntropy(elite_share=share), LOGITS, np.zeros(4), episodes)
    rollout = episodes(tabular_learner(LOGITS, np.zeros(4)))
    gradient, losses = np.zeros_like(LOGITS), []
    for environment in elite_of(share):
        for step in range(LENGTHS[environment]):
            state, action = rollout.observation[step, environment].numpy(), rollout.action[step, environment].numpy()
            p = softmax(LOGITS[state])
            gradient[state] -= np.eye(3)[action] - p
            losses.append(-np.log(p[action]))
    np.testing.assert_allclose(LOGITS - logits, gradient / len(losses), rtol=1e-4, atol=1e-6)
    assert metrics["loss"] == metrics["policy_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert values.tolist() == [0.0] * 4


def test_the_elite_is_told():
    _, _, metrics = updated(CrossEntropy(elite_share=0.4), LOGITS, np.zeros(4), episodes)
    assert metrics["elite_return"] == pytest.approx((6 + 9 + 6) / 3)
    assert metrics["elite_fraction"] == pytest.approx(3 / 5)


def test_epochs_are_gradient_steps_on_the_same_elite():
    twice, _, metrics = updated(CrossEntropy(epochs=2), LOGITS, np.zeros(4), episodes)
    learner = tabular_learner(LOGITS, np.zeros(4))
    rollout = episodes(learner)
    for _ in range(2):
        CrossEntropy().update(learner, rollout, tf.constant([0, 1]))
    np.testing.assert_allclose(learner.policy.model.get_layer("logits").kernel, twice, rtol=1e-6)
    assert metrics["gradient_steps"] == 2


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, None, "half"])
def test_a_share_of_nothing_or_of_more_than_all_is_an_error(share):
    with pytest.raises(ValueError, match=r"CrossEntropy: elite_share must be in \(0, 1\], got"):
        CrossEntropy(elite_share=share)
