"""DQN: its loss number by number against NumPy, where its gradient goes, and what it converges to."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from keras.optimizers.schedules import CosineDecay, CosineDecayRestarts, PiecewiseConstantDecay, PolynomialDecay

from kerasrl_pg.algorithms import DQN, Prioritized
from kerasrl_pg.learner import Learner
from kerasrl_pg.models import QPolicy, dueling_q_network, q_network
from kerasrl_pg.q_learner import QLearner
from kerasrl_pg.types import Transitions
from tests.algorithms.tabular_q import (
    ACTIONS,
    STATES,
    best_values,
    random_transitions,
    road,
    table_learner,
    table_of,
    table_policy,
    transitions,
)

RNG = np.random.default_rng(1)
VALUES = RNG.normal(scale=2, size=(STATES, ACTIONS)).astype(np.float32)
TARGET_VALUES = RNG.normal(scale=2, size=(STATES, ACTIONS)).astype(np.float32)

LOSSES = {
    "huber": DQN(),
    "squared": DQN(huber_delta=None),
    "small delta": DQN(huber_delta=0.3),
    "double": DQN(double=True),
    "double, squared": DQN(double=True, huber_delta=None),
}


def reference(algorithm: DQN, values, target_values, batch: Transitions) -> tuple[float, np.ndarray]:
    """`(loss, errors)`, transition by transition, as the papers write them."""
    losses, errors = [], []
    for s, a, r, discount, next_s, weight, _ in zip(*(np.array(field) for field in batch), strict=True):
        if algorithm.double:
            target = r + discount * target_values[next_s][np.argmax(values[next_s])]
        else:
            target = r + discount * max(target_values[next_s])
        error = target - values[s][a]
        delta = algorithm.huber_delta
        if delta is None or abs(error) <= delta:
            losses.append(weight * error**2 / 2)
        else:
            losses.append(weight * delta * (abs(error) - delta / 2))
        errors.append(error)
    return float(np.mean(losses)), np.array(errors)


@pytest.mark.parametrize("algorithm", LOSSES.values(), ids=LOSSES)
def test_the_loss_is_that_of_the_papers(algorithm, variant):
    """Importance weights, terminations (discount 0) and n-step discounts are all in the batch."""
    batch = random_transitions()
    policy, target = table_policy(VALUES), table_policy(TARGET_VALUES)
    loss, metrics, error = variant(lambda batch: algorithm.loss(policy.action_values, target.action_values, batch))(
        batch
    )
    wanted, errors = reference(algorithm, VALUES, TARGET_VALUES, batch)
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(error, errors, rtol=1e-5, atol=1e-6)
    assert float(metrics["td_error"]) == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    of_states = VALUES[batch.observation.numpy()]  # [B, A]
    assert float(metrics["action_value"]) == pytest.approx(of_states.max(axis=1).mean(), rel=1e-5)


def test_the_errors_of_a_small_batch_by_hand():
    """δ = r + γ·max Q⁻ - Q: 1 + 0.5·4 - 2 = 1, and -1 + 0·4 - 0 = -1 where the task ended."""
    batch = transitions([0, 1], [0, 1], [1.0, -1.0], [0.5, 0.0], [1, 1])
    online, target = table_policy([[2.0, 9.0], [9.0, 0.0]]), table_policy([[0.0, 0.0], [3.0, 4.0]])
    loss, _, error = DQN(huber_delta=None).loss(online.action_values, target.action_values, batch)
    assert error.numpy().tolist() == [1.0, -1.0]
    assert float(loss) == 0.5
    # Double: Q chooses action 0 in state 1, Q⁻ says that it is worth 3.
    _, _, error = DQN(double=True).loss(online.action_values, target.action_values, batch)
    assert error.numpy().tolist() == [0.5, -1.0]


@pytest.mark.parametrize("algorithm", LOSSES.values(), ids=LOSSES)
def test_gradient_flows_to_the_values_of_what_was_done_and_nowhere_else(algorithm):
    """Not into the target network, nor through the network's own choice of the next action."""
    batch = random_transitions()
    policy, target = table_policy(VALUES), table_policy(TARGET_VALUES)
    table, target_table = policy.model.weights[0].value, target.model.weights[0].value
    with tf.GradientTape() as tape:
        loss, _, _ = algorithm.loss(policy.action_values, target.action_values, batch)
    by_table, by_target = tape.gradient(loss, [table, target_table])
    assert by_target is None
    _, errors = reference(algorithm, VALUES, TARGET_VALUES, batch)
    clipped = (
        errors if algorithm.huber_delta is None else np.clip(errors, -algorithm.huber_delta, algorithm.huber_delta)
    )
    wanted = np.zeros_like(VALUES)
    np.add.at(wanted, (batch.observation.numpy(), batch.action.numpy()), -batch.weight.numpy() * clipped / len(errors))
    np.testing.assert_allclose(by_table, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("double", [False, True])
def test_without_a_target_network_the_networks_own_values_are_the_targets_and_get_no_gradient(double):
    algorithm = DQN(target_every=None, huber_delta=None, double=double)
    learner = table_learner(VALUES)
    batch = transitions([0], [0], [1.0], [0.5], [1])
    algorithm.update(learner, batch)
    moved = table_of(learner.learner.policy) - VALUES
    error = 1.0 + 0.5 * VALUES[1].max() - VALUES[0, 0]
    np.testing.assert_allclose(moved[0, 0], error, rtol=1e-5)  # gradient descent at rate 1 on error² / 2
    moved[0, 0] = 0
    assert not moved.any()


def test_the_double_targets_are_never_above_the_single_ones():
    batch = random_transitions(200)
    online, target = table_policy(VALUES), table_policy(TARGET_VALUES)
    single, double = (
        DQN(double=double).loss(online.action_values, target.action_values, batch)[2].numpy()
        for double in (False, True)
    )
    assert (double <= single + 1e-6).all()
    assert (double < single - 0.1).any()


def test_a_priority_that_is_drawn_too_often_counts_as_much_less():
    """Weights w make the mean over a batch drawn by p that of a batch in which each occurs alike."""
    errors = [3.0, -1.0]
    batch = transitions([0, 0, 0, 1], [0, 0, 0, 0], [3.0, 3.0, 3.0, -1.0], [0.0] * 4, [0] * 4, [1 / 3, 1 / 3, 1 / 3, 1])
    zero = table_policy(np.zeros((STATES, ACTIONS)))
    loss, _, _ = DQN(huber_delta=None).loss(zero.action_values, zero.action_values, batch)
    assert float(loss) == pytest.approx(sum(0.5 * error**2 for error in errors) / 4)


VARIANTS = {
    "dqn": DQN(target_every=5),
    "squared": DQN(target_every=5, huber_delta=None),
    "no target network": DQN(target_every=None),
    "double": DQN(target_every=5, double=True),
    "clipped gradient": DQN(target_every=5, max_gradient_norm=0.5),
}


STEPS = 2_000


def falling_adam() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(PolynomialDecay(0.05, STEPS, 0.0))


def fitted(algorithm, learner: QLearner) -> np.ndarray:
    """[S, A] values after `STEPS` gradient steps on all transitions of the road."""
    batch = road()

    @tf.function(jit_compile=True, autograph=False)
    def fit():
        def step(i):
            algorithm.update(learner, batch)
            return (i + 1,)

        tf.while_loop(lambda i: i < STEPS, step, (0,))

    fit()
    return learner.learner.policy.action_values(tf.range(STATES)).numpy()


@pytest.mark.parametrize("algorithm", VARIANTS.values(), ids=VARIANTS)
def test_a_table_converges_to_the_optimal_action_values(algorithm):
    learner = table_learner(VALUES, None if algorithm.target_every is None else VALUES, falling_adam())
    np.testing.assert_allclose(fitted(algorithm, learner), best_values(), atol=1e-3)


BUILDERS = {
    "plain": q_network,
    "dueling by the mean": functools.partial(dueling_q_network, baseline="mean"),
    "dueling by the maximum": functools.partial(dueling_q_network, baseline="max"),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_networks_without_a_hidden_layer_are_tables_too(build):
    """One-hot states into linear heads: value and advantages can add up to every table."""
    linear = keras.Sequential([keras.layers.Identity()])
    its_spaces = spaces.Discrete(STATES), spaces.Discrete(ACTIONS)
    policy, target = (QPolicy(build(*its_spaces, trunk=linear), *its_spaces, epsilon=0.0) for _ in range(2))
    optimizer = falling_adam()
    optimizer.build(policy.model.trainable_variables)
    learner = QLearner(Learner(policy, optimizer), target)
    np.testing.assert_allclose(fitted(DQN(target_every=5), learner), best_values(), atol=1e-3)


def test_settings_that_do_not_fit_each_other_are_refused():
    for name in ("replay_size", "learning_starts"):
        with pytest.raises(ValueError, match=rf"^DQN: {name} must be at least batch_size \(64\), got 63"):
            DQN(batch_size=64, **{name: 63})
    assert DQN(batch_size=64, replay_size=64, learning_starts=64).batch_size == 64


@pytest.mark.parametrize(
    ("field", "schedule", "message"),
    [
        ("epsilon", PolynomialDecay(1.5, 10, 0.1), r"DQN: epsilon must stay in \[0, 1\], got 1.5 at step 0 from {'"),
        ("epsilon", PiecewiseConstantDecay([100, 200], [1.0, 1.5, 0.1]), r"got 1.5 at step 101 from"),
        ("epsilon", CosineDecay(0.1, 1000, warmup_target=2.0, warmup_steps=100), r"got [12][.\d]* at step \d+ from"),
        ("epsilon", CosineDecayRestarts(1.0, 900, m_mul=2.0), r"got 2 at step 900 from"),
        ("epsilon", PolynomialDecay(1.0, 10, -0.1), r"DQN: epsilon must stay in \[0, 1\], got -0.1 at step 10 from {"),
    ],
)
def test_an_exploration_schedule_out_of_range_is_refused(field, schedule, message):
    with pytest.raises(ValueError, match=message):
        DQN(**{field: schedule})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"importance_exponent": PolynomialDecay(0.4, 10, 1.2)},
            r"importance_exponent must stay .* got 1.12 at step 9",
        ),
        ({"importance_exponent": -0.1}, r"Prioritized: importance_exponent must be in \[0, 1\], got -0.1"),
        ({"exponent": 1.5}, r"Prioritized: exponent must be in \[0, 1\], got 1.5"),
        ({"offset": 0.0}, r"Prioritized: offset must be in \(0, inf\), got 0.0"),
    ],
)
def test_priorities_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Prioritized(**settings)


def test_a_sampler_is_an_object_and_not_a_name():
    with pytest.raises(ValueError, match=r"DQN: sampler must be Prioritized\(\.\.\.\) or None, got 'prioritized'"):
        DQN(sampler="prioritized")
