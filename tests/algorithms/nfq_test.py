"""NFQ: fitted Q iteration, in which every update regresses on the targets of one frozen copy."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers.schedules import PolynomialDecay

from kerasrl_pg.algorithms import DQN, NFQ
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

RNG = np.random.default_rng(2)
VALUES = RNG.normal(scale=2, size=(STATES, ACTIONS)).astype(np.float32)
TARGET_VALUES = RNG.normal(scale=2, size=(STATES, ACTIONS)).astype(np.float32)


def test_the_loss_is_the_mean_squared_error_of_the_paper(variant):
    batch = random_transitions()
    policy, target = table_policy(VALUES), table_policy(TARGET_VALUES)
    loss, metrics, error = variant(lambda batch: NFQ().loss(policy.action_values, target.action_values, batch))(batch)
    state, action, reward, discount, following, _, _ = (np.array(field) for field in batch)
    wanted = reward + discount * TARGET_VALUES[following].max(axis=1) - VALUES[state, action]
    np.testing.assert_allclose(error, wanted, rtol=1e-5, atol=1e-6)
    assert float(loss) == pytest.approx((wanted**2).mean(), rel=1e-5)
    assert float(metrics["td_error"]) == pytest.approx(np.abs(wanted).mean(), rel=1e-5)
    assert float(metrics["action_value"]) == pytest.approx(VALUES[state].max(axis=1).mean(), rel=1e-5)


def test_gradient_flows_to_the_values_of_what_was_done_and_not_into_the_targets():
    batch = transitions([0, 2], [1, 0], [1.0, 0.0], [0.5, 0.5], [0, 3])
    policy, target = table_policy(VALUES), table_policy(TARGET_VALUES)
    tables = policy.model.weights[0].value, target.model.weights[0].value
    with tf.GradientTape() as tape:
        loss, _, error = NFQ().loss(policy.action_values, target.action_values, batch)
    by_table, by_target = tape.gradient(loss, tables)
    assert by_target is None
    wanted = np.zeros_like(VALUES)
    wanted[0, 1], wanted[2, 0] = -error  # d mean(δ²) / d Q = -2 δ / B, for B = 2
    np.testing.assert_allclose(by_table, wanted, rtol=1e-6)


def test_all_gradient_steps_of_an_update_learn_from_the_targets_at_its_beginning():
    """Rate 1/2 on δ² is one whole step to the target: three steps end where the first one did."""
    algorithm = NFQ(gradient_steps=3)
    learner = table_learner(np.zeros((1, 1)), np.full((1, 1), 7.0), keras.optimizers.SGD(0.5))
    batch = transitions([0], [0], [1.0], [0.5], [0])
    values = []
    for _ in range(9):
        algorithm.update(learner, batch)
        values.append(table_of(learner.learner.policy).item())
    assert values == [1.0] * 3 + [1.5] * 3 + [1.75] * 3  # V ← 1 + V / 2, once every three steps


def test_one_gradient_step_an_update_is_learning_from_the_networks_own_values():
    batch = random_transitions()
    nfq, own = NFQ(gradient_steps=1), DQN(target_every=None, huber_delta=None)
    batch = batch._replace(weight=tf.ones_like(batch.weight))
    one, other = table_learner(VALUES, VALUES, keras.optimizers.SGD(0.1)), table_learner(VALUES)
    other.learner.optimizer.learning_rate.assign(0.2)  # of half the squared error
    for _ in range(5):
        nfq.update(one, batch)
        own.update(other, batch)
    np.testing.assert_allclose(table_of(one.learner.policy), table_of(other.learner.policy), rtol=1e-4, atol=1e-6)


def test_fitted_iteration_is_value_iteration():
    """With steps enough to fit a table exactly, k updates are k sweeps of value iteration from zero."""
    batch = road()
    whole_step = keras.optimizers.SGD(STATES * ACTIONS / 2)  # every entry is in the batch once, and δ² has slope 2 δ
    learner = table_learner(np.zeros((STATES, ACTIONS)), np.zeros((STATES, ACTIONS)), whole_step)
    algorithm = NFQ(gradient_steps=1)
    values = np.zeros((STATES, ACTIONS))
    for _ in range(STATES + 1):  # four places, and once to have stayed at the first
        algorithm.update(learner, batch)
        following = values.max(axis=1)[np.array(batch.next_observation)]
        values = (np.array(batch.reward) + np.array(batch.discount) * following).reshape(STATES, ACTIONS)
        np.testing.assert_allclose(table_of(learner.learner.policy), values, atol=1e-5)
    np.testing.assert_allclose(values, best_values(), atol=1e-5)


def test_a_table_converges_to_the_optimal_action_values_compiled_as_well():
    steps = 3_000
    learner = table_learner(VALUES, TARGET_VALUES, keras.optimizers.Adam(PolynomialDecay(0.05, steps, 0.0)))
    algorithm, batch = NFQ(gradient_steps=5), road()

    @tf.function(jit_compile=True, autograph=False)
    def fit():
        def step(i):
            algorithm.update(learner, batch)
            return (i + 1,)

        tf.while_loop(lambda i: i < steps, step, (0,))

    fit()
    np.testing.assert_allclose(table_of(learner.learner.policy), best_values(), atol=1e-3)


def test_the_gradient_norm_is_bounded_and_told_before_it_is():
    batch = transitions([0], [0], [10.0], [0.0], [0])
    learner = table_learner(np.zeros((2, 2)), np.zeros((2, 2)))
    metrics, _ = NFQ(max_gradient_norm=1.0).update(learner, batch)
    assert float(metrics["gradient_norm"]) == pytest.approx(20.0)
    assert table_of(learner.learner.policy)[0, 0] == pytest.approx(1.0)


def test_settings_are_checked_and_what_others_have_is_not_offered():
    for name in ("replay_size", "learning_starts"):
        with pytest.raises(ValueError, match=rf"^NFQ: {name} must be at least batch_size \(10\), got 9"):
            NFQ(**{name: 9})
    with pytest.raises(ValueError, match=r"^NFQ: epsilon must stay in \[0, 1\], got 2 at step 0"):
        NFQ(epsilon=PolynomialDecay(2.0, 10, 0.1))
    fields = {field.name for field in dataclasses.fields(NFQ)}
    assert not fields & {"double", "sampler", "n_step", "target_every"}
