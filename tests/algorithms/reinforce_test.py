import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

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


def test_a_step_per_episode_by_hand():
    """Two episodes of one and of two steps, in one state, rewards 1, discount ½; plain descent at rate 1."""

    def rollout(learner):
        return rollout_on(
            learner, [[0, 0], [0, 0]], [[0, 1], [0, 1]], [[1.0, 1.0], [1.0, 1.0]],
            terminated=[[True, False], [False, True]], valid=[[True, True], [False, True]],
        )  # fmt: skip

    logits = np.array([[0.2, -0.1]])
    # The first episode: its one action 0, return 1.
    after_one = logits + (np.array([1, 0]) - softmax(logits)) * 1.0
    # The second, with the weights that the first has left: action 1 twice, returns 1 + ½ and 1, summed.
    after_two = after_one + (np.array([0, 1]) - softmax(after_one)) * (1.5 + 1.0)
    algorithm = Reinforce(discount=0.5, gradient_step_per="episode")
    ours, _, metrics = updated(algorithm, logits, [0.0], rollout)
    np.testing.assert_allclose(ours, after_two, rtol=1e-6)
    losses = -np.log(softmax(logits)[0, 0]), -np.log(softmax(after_one)[0, 1]) * 2.5
    assert metrics["loss"] == pytest.approx(np.mean(losses))  # sums over steps, averaged over the two gradient steps
    assert metrics["policy_loss"] == pytest.approx((losses[0] + losses[1] / 2) / 2)  # means over steps


def one_after_the_other(rollout, algorithm: Reinforce, optimizer: keras.optimizers.Optimizer) -> np.ndarray:
    """The logits after a gradient step on each episode, as one would write it for one environment."""
    logits = keras.Variable(LOGITS.astype(np.float32))
    state, action, reward = (x.numpy() for x in (rollout.observation, rollout.action, rollout.reward))
    for environment, length in enumerate(LENGTHS):
        returns, following = np.zeros(length, np.float32), 0.0
        for step in reversed(range(length)):
            returns[step] = following = reward[step, environment] + algorithm.discount * following
        if algorithm.standardize_returns:
            returns = (returns - returns.mean()) / (returns.std() + 1e-8)
        with tf.GradientTape() as tape:
            loss = 0.0
            for step in range(length):
                log_p = tf.nn.log_softmax(logits[state[step, environment]])
                loss -= log_p[action[step, environment]] * returns[step]
                loss += algorithm.entropy_coef * tf.reduce_sum(tf.exp(log_p) * log_p)
        gradient = tape.gradient(loss, logits.value)
        if algorithm.max_gradient_value is not None:
            gradient = tf.clip_by_value(gradient, -algorithm.max_gradient_value, algorithm.max_gradient_value)
        optimizer.apply([gradient], [logits])
    return logits.numpy()


@pytest.mark.parametrize(
    "settings",
    [{}, {"entropy_coef": 0.3}, {"standardize_returns": True, "max_gradient_value": 0.2}],
    ids=lambda settings: " ".join(settings) or "defaults",
)
@pytest.mark.parametrize("junk", [0.0, 1e4])
def test_a_step_per_episode_is_a_loop_over_episodes(settings, junk):
    algorithm = Reinforce(gradient_step_per="episode", discount=0.9, **settings)
    expected = one_after_the_other(
        episodes(tabular_learner(LOGITS, np.zeros(4))), algorithm, keras.optimizers.Adam(0.1)
    )
    ours, _, _ = updated(
        algorithm, LOGITS, np.zeros(4), functools.partial(episodes, junk=junk), keras.optimizers.Adam(0.1)
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_the_entropy_is_the_mean_of_the_steps_entropies_and_not_the_entropy_of_their_mean():
    """Two states, certain of opposite actions: each distribution's entropy is near 0, that of their mean is log 2."""

    def both(learner):
        return rollout_on(learner, [[0], [1]], [[0], [1]], [[0.0], [0.0]], terminated=[[False], [True]])

    _, _, metrics = updated(Reinforce(), [[9.0, 0.0], [0.0, 9.0]], [0.0, 0.0], both)
    p = softmax(np.array([9.0, 0.0]))
    assert metrics["entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-3)
    assert metrics["entropy"] < 0.01


def test_elements_of_the_gradient_are_bounded():
    free, _, metrics = updated(Reinforce(), LOGITS, np.zeros(4), episodes)
    bounded, _, same = updated(Reinforce(max_gradient_value=0.05), LOGITS, np.zeros(4), episodes)
    np.testing.assert_allclose(bounded - LOGITS, np.clip(free - LOGITS, -0.05, 0.05), atol=1e-6)
    assert np.abs(free - LOGITS).max() > 0.05
    assert same["gradient_norm"] == pytest.approx(metrics["gradient_norm"])


def test_a_gradient_is_clipped_in_one_way_only():
    with pytest.raises(ValueError, match="max_gradient_value must be None where max_gradient_norm is set"):
        Reinforce(max_gradient_norm=0.5, max_gradient_value=1.0)
