import functools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrl_pg.algorithms import A2C, PPO
from kerasrl_pg.learner import Learner
from kerasrl_pg.types import Rollout
from tests.algorithms.tabular import random_rollout, rollout_on, tabular_learner, updated

LOGITS = np.array([[0.5, -0.3], [0.1, 0.9], [0.0, 0.2]])
VALUES = np.array([0.5, -1.0, 2.0])
PLAIN = {
    "epochs": 1, "num_minibatches": 1, "normalize_advantage": False, "entropy_coef": 0.0, "max_gradient_norm": None,
}  # fmt: skip
"""The surrogate alone, one step of it."""
FOUR_STEPS = {**PLAIN, "rollout_length": 8, "epochs": 2, "num_minibatches": 2}
"""In an update: a count of updates is no count of gradient steps."""


def four_ratios(learner):
    """Four one-step episodes at π = ½, ratios 0.5, 1.5, 0.5, 1.5 and advantages 1, 1, -1, -1."""
    rollout = rollout_on(learner, [[0]] * 4, [[0]] * 4, [[1.0], [1.0], [-1.0], [-1.0]], terminated=[[True]] * 4)
    old_probability = 0.5 / np.array([[0.5], [1.5], [0.5], [1.5]])
    return rollout._replace(log_prob=tf.constant(np.log(old_probability), tf.float32))


def a_good_action(learner):
    """One step, which ends the episode with a reward of 1."""
    return rollout_on(learner, [[0]], [[0]], [[1.0]], terminated=[[True]])


def test_the_loss_by_hand():
    # min(r A, clip(r) A) = 0.5, 1.2, -0.8, -1.5. The values are 0, so the advantage is the reward.
    logits, values, metrics = updated(PPO(**PLAIN, clip_epsilon=0.2), np.zeros((1, 2)), [0.0], four_ratios)
    assert metrics["policy_loss"] == pytest.approx(-(0.5 + 1.2 - 0.8 - 1.5) / 4)
    assert metrics["value_loss"] == pytest.approx(1.0)
    assert metrics["clip_fraction"] == pytest.approx(1.0)
    assert metrics["approx_kl"] == pytest.approx((-0.5 - np.log(0.5) + 0.5 - np.log(1.5)) / 2)
    # Samples 2 and 3 are clipped. The others: ∂(r A)/∂logit = r A (1 - π) for the action taken.
    np.testing.assert_allclose(logits, [[(0.5 - 1.5) * 0.5 / 4, (1.5 - 0.5) * 0.5 / 4]], rtol=1e-5)
    np.testing.assert_allclose(values, [0.0], atol=1e-6)  # the targets 1, 1, -1, -1 pull both ways


@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_the_first_step_is_a2cs(normalize_advantage):
    same = {"discount": 0.9, "gae_lambda": 0.8, "value_coef": 0.3, "entropy_coef": 0.02, "max_gradient_norm": 0.5}
    same["normalize_advantage"] = normalize_advantage
    ours = updated(PPO(epochs=1, num_minibatches=1, **same), LOGITS, VALUES, random_rollout)
    theirs = updated(A2C(**same), LOGITS, VALUES, random_rollout)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5)


def test_later_epochs_stop_pushing_where_the_clip_is_reached():
    settings = {**PLAIN, "epochs": 50, "value_coef": 0.0}
    optimizer = keras.optimizers.SGD(0.1)
    logits, _, metrics = updated(PPO(**settings, clip_epsilon=0.2), np.zeros((1, 2)), [0.0], a_good_action, optimizer)
    probability = 1 / (1 + np.exp(logits[0, 1] - logits[0, 0]))
    assert 1.2 <= probability / 0.5 < 1.25  # just past the clip: the step that crossed it was the last that moved
    assert metrics["clip_fraction"] > 0.5


@pytest.mark.parametrize(("clip_value", "value_loss"), [(None, 0.0), (0.5, 0.25), (2.0, 0.0)])
def test_values_are_clipped_if_asked(clip_value, value_loss):
    # V was 0 when acting, is 1 now, the target is 1: with the clip at ½ it counts as ½.
    def rollout_of(learner):
        return a_good_action(learner)._replace(value=tf.zeros([1, 1]))

    _, _, metrics = updated(PPO(**PLAIN, clip_value=clip_value), np.zeros((1, 2)), [1.0], rollout_of)
    assert metrics["value_loss"] == pytest.approx(value_loss)


def test_a_reward_ends_the_return_if_asked():
    def advantages(**settings):
        learner = tabular_learner(LOGITS, VALUES, keras.optimizers.SGD(0.0))
        rollout = rollout_on(learner, [[0]] * 4, [[0]] * 4, [[0.0], [-1.0], [0.0], [1.0]])
        rollout = rollout._replace(value=tf.fill([4, 1], 0.5), next_value=tf.fill([4, 1], 0.5))
        return PPO(discount=0.5, gae_lambda=1.0, **settings).prepare(rollout).advantage.numpy().ravel()

    # With λ = 1 it is the return less the value: two points, each on its own, or all that follows.
    np.testing.assert_allclose(advantages(reward_ends_return=True), [-0.5 - 0.5, -1 - 0.5, 0.5 - 0.5, 1 - 0.5])
    np.testing.assert_allclose(advantages(), [-0.84375, -1.1875, 0.125, 0.75])


def test_where_a_reward_ends_the_return_the_end_of_the_task_still_does():
    learner = tabular_learner(LOGITS, VALUES)
    ends = [[False], [True], [False], [False]]
    rollout = rollout_on(learner, [[0]] * 4, [[0]] * 4, [[0.0], [0.0], [0.0], [1.0]], terminated=ends)
    batch = PPO(discount=1.0, gae_lambda=1.0, reward_ends_return=True).prepare(rollout)
    np.testing.assert_allclose(batch.value_target[:, 0], [0.0, 0.0, 1.0, 1.0], atol=1e-6)


def test_every_epoch_visits_every_minibatch():
    _, _, metrics = updated(PPO(rollout_length=8, epochs=3, num_minibatches=4), LOGITS, VALUES, random_rollout)
    assert metrics["gradient_steps"] == 12


def test_minibatches_must_divide_the_rollout():
    with pytest.raises(ValueError, match=r"num_minibatches must divide rollout_length \(128\), got 5"):
        PPO(num_minibatches=5)


def test_a_clip_schedule_is_read_at_the_number_of_gradient_steps():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.2, 40, 0.0)
    learner = tabular_learner(LOGITS, VALUES, keras.optimizers.SGD(0.0))
    rollout = random_rollout(learner)
    moved = rollout._replace(log_prob=rollout.log_prob - np.log(1.15).astype(np.float32))  # every ratio is 1.15
    algorithm = PPO(**FOUR_STEPS, clip_epsilon=schedule)

    def clip_fraction():
        return float(algorithm.update(learner, moved, tf.constant([0, 0]))["clip_fraction"])

    # ε falls from 0.2 to 0.14 within three updates, below what the ratios are away from 1.
    assert [clip_fraction() for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


def test_an_entropy_schedule_is_read_at_the_number_of_gradient_steps():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.2, 40, 0.0)
    learner = tabular_learner(LOGITS, VALUES, keras.optimizers.SGD(0.0))
    rollout = random_rollout(learner)
    algorithm = PPO(**{**FOUR_STEPS, "entropy_coef": schedule})

    def coefficient():
        metrics = algorithm.update(learner, rollout, tf.constant([0, 0]))
        without_bonus = metrics["policy_loss"] + algorithm.value_coef * metrics["value_loss"]
        return float((without_bonus - metrics["loss"]) / metrics["entropy"])

    assert [coefficient() for _ in range(3)] == pytest.approx([0.2, 0.18, 0.16], rel=1e-4)


@pytest.mark.parametrize(("value", "share"), [(-2.0, 1.0), (-1.0, 1.0), (0.5, 0.25), (1.0, 0.0), (3.0, 0.0)])
def test_the_entropy_bonus_falls_with_the_value(value, share):
    def rollout_of(learner):
        return a_good_action(learner)._replace(value=tf.constant([[value]]))

    settings = {**PLAIN, "entropy_coef": 0.1}
    _, _, metrics = updated(PPO(**settings, entropy_values=(-1, 1)), LOGITS[:1], [0.0], rollout_of)
    probability = np.exp(LOGITS[0]) / np.exp(LOGITS[0]).sum()
    assert metrics["entropy"] == pytest.approx(-(probability * np.log(probability)).sum())  # the whole of it
    bonus = metrics["policy_loss"] + 0.5 * metrics["value_loss"] - metrics["loss"]
    assert bonus == pytest.approx(0.1 * share * metrics["entropy"], abs=1e-6)


def test_a_bonus_for_all_values_is_the_plain_one():
    settings = {**PLAIN, "entropy_coef": 0.1}
    plain, far = (
        updated(PPO(**settings, entropy_values=values), LOGITS, VALUES, random_rollout) for values in (None, (1e6, 2e6))
    )
    np.testing.assert_allclose(plain[0], far[0], rtol=1e-6)


@pytest.mark.parametrize("values", [(1, -1), (1, 1), (0,), "01", (0, None), (0, float("nan")), 1.0, (False, 1)])
def test_the_values_of_the_bonus_are_two_numbers_the_smaller_first(values):
    with pytest.raises(ValueError, match="PPO: entropy_values must be two numbers, the smaller first, or None, got"):
        PPO(entropy_values=values)


def test_a_target_kl_ends_the_update_early():
    settings = {"rollout_length": 8, "epochs": 5, "num_minibatches": 2}
    _, _, free = updated(PPO(**settings), LOGITS, VALUES, random_rollout, keras.optimizers.SGD(5.0))
    _, _, loose = updated(PPO(**settings, target_kl=1e3), LOGITS, VALUES, random_rollout, keras.optimizers.SGD(5.0))
    _, _, tight = updated(PPO(**settings, target_kl=1e-3), LOGITS, VALUES, random_rollout, keras.optimizers.SGD(5.0))
    assert free["gradient_steps"] == loose["gradient_steps"] == 10
    # The first step starts from the policy that acted, at a KL of 0; the second one sees that it was too far.
    assert tight["gradient_steps"] == 2
    assert tight["approx_kl"] > 0.5 * 1.5e-3  # the mean over both steps


def rollout_at(kl: float, learner: Learner) -> Rollout:
    """Eight steps that teach nothing, by a policy from which `approx_kl` of the learner's is `kl`."""
    rollout = rollout_on(learner, [[0]] * 8, [[0]] * 8, [[0.0]] * 8)
    log_ratio = np.linspace(0, 5, 100_001)
    log_ratio = log_ratio[np.argmin(np.abs(np.expm1(log_ratio) - log_ratio - kl))]
    return rollout._replace(log_prob=rollout.log_prob - np.float32(log_ratio))


@pytest.mark.parametrize(("kl", "steps"), [(0.0149, 4), (0.0151, 1)])
def test_an_update_ends_at_one_and_a_half_times_the_target_kl(kl, steps):
    algorithm, rollout_of = PPO(**FOUR_STEPS, target_kl=0.01), functools.partial(rollout_at, kl)
    _, _, metrics = updated(algorithm, np.zeros((1, 2)), [0.0], rollout_of, keras.optimizers.SGD(0.0))
    assert metrics["gradient_steps"] == steps


def learning_rate_after(
    kl: float, *, start: float, target: Any = 0.01, updates: int = 1, settings: dict[str, Any] = PLAIN
) -> float:
    """The learning rate after updates whose `approx_kl` is `kl`."""
    optimizer = keras.optimizers.SGD(start)
    learner = tabular_learner(np.zeros((1, 2)), [0.0], optimizer)
    rollout = rollout_at(kl, learner)
    for _ in range(updates):
        PPO(**settings, adaptive_kl=target).update(learner, rollout, tf.constant([0, 0]))
    return float(optimizer.learning_rate)


@pytest.mark.parametrize(
    ("kl", "factor"), [(0.0, 1.5), (0.0049, 1.5), (0.0051, 1.0), (0.0199, 1.0), (0.0201, 1 / 1.5), (1.0, 1 / 1.5)]
)
def test_an_adaptive_kl_moves_the_learning_rate_by_half(kl, factor):
    assert learning_rate_after(kl, start=1e-3) == pytest.approx(1e-3 * factor, rel=1e-5)


@pytest.mark.parametrize(("updates", "factor"), [(1, 1.5), (2, 1.0)])
def test_an_adaptive_kl_is_read_at_the_number_of_gradient_steps(updates, factor):
    """0.0045 is less than half of 0.01, and more than twice 0.002."""
    falling = keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.01, 0.002])
    rate = learning_rate_after(0.0045, start=1e-3, target=falling, updates=updates, settings=FOUR_STEPS)
    assert rate == pytest.approx(1e-3 * factor, rel=1e-5)


def test_an_adaptive_learning_rate_has_bounds():
    assert learning_rate_after(0.0, start=1e-3, updates=10) == pytest.approx(1e-2)
    assert learning_rate_after(1.0, start=1e-5, updates=10) == pytest.approx(1e-6)


def test_an_adaptive_learning_rate_cannot_follow_a_schedule():
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 100, 0.9)
    learner = tabular_learner(LOGITS, VALUES, keras.optimizers.SGD(schedule))
    with pytest.raises(
        ValueError, match=r"adaptive_kl .* must then be a number; the optimizer's follows .*Exponential"
    ):
        PPO(**PLAIN, adaptive_kl=0.01).update(learner, random_rollout(learner), tf.constant([0, 0]))
