"""One gradient step of Q-learning: when the target network is copied, and how replicas share a batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg.algorithms import DQN
from kerasrl_pg.learner import Learner
from kerasrl_pg.models import QPolicy, q_network
from kerasrl_pg.q_learner import QLearner
from kerasrl_pg.types import Transitions
from tests.algorithms.tabular_q import (
    ACTIONS,
    STATES,
    random_transitions,
    table_learner,
    table_of,
    table_policy,
    transitions,
)

VALUES = np.random.default_rng(3).normal(size=(STATES, ACTIONS)).astype(np.float32)
TARGET_VALUES = np.full((STATES, ACTIONS), 9.0, np.float32)
ONE = transitions([0], [0], [1.0], [0.0], [0])
"""A terminal reward: each step moves Q(0, 0) further, whatever the target network says."""


def history_of(learner: QLearner, every: int | None, steps: int, variant) -> tuple[np.ndarray, np.ndarray]:
    """[steps] Q(0, 0) of the network and of the target network, after each gradient step."""
    algorithm = DQN(target_every=every, huber_delta=None)
    update = variant(lambda: algorithm.update(learner, ONE)[0]["loss"])
    online, target = [], []
    for _ in range(steps):
        update()
        online.append(table_of(learner.learner.policy)[0, 0])
        target.append(np.nan if learner.target is None else table_of(learner.target)[0, 0])
    return np.array(online), np.array(target)


def test_the_target_is_copied_before_every_kth_gradient_step_and_never_between(variant):
    learner = table_learner(VALUES, TARGET_VALUES, keras.optimizers.SGD(0.1))
    online, target = history_of(learner, 3, 7, variant)
    before = np.concatenate([VALUES[:1, 0], online])  # before steps 0, 1, 2, ...
    assert len(set(online.tolist())) == 7  # the network moves all the time
    assert target.tolist() == before[[0, 0, 0, 3, 3, 3, 6]].tolist()


def test_all_of_the_network_is_copied():
    learner = table_learner(VALUES, TARGET_VALUES)
    learner.update_target(every=5)
    np.testing.assert_array_equal(table_of(learner.target), VALUES)


def test_what_no_gradient_moves_is_copied_too():
    its_spaces = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
    trunk = keras.Sequential([keras.layers.Dense(4), keras.layers.BatchNormalization()])
    policy = QPolicy(q_network(*its_spaces, trunk=trunk), *its_spaces, epsilon=0.0)
    learner = QLearner(Learner(policy, keras.optimizers.SGD(0.1)), policy.copy())
    policy.action_values(tf.random.stateless_normal([64, 3], [0, 0]) + 5.0, training=True)  # moves the moving averages
    learner.copy_to_target()
    for frozen, weight in zip(learner.target.model.weights, policy.model.weights, strict=True):
        np.testing.assert_array_equal(frozen, weight)


def test_without_every_or_without_a_target_nothing_is_copied():
    learner = table_learner(VALUES, TARGET_VALUES)
    learner.update_target(every=None)
    np.testing.assert_array_equal(table_of(learner.target), TARGET_VALUES)
    alone = table_learner(VALUES)
    alone.update_target(every=1)
    assert alone.target is None


def test_a_learner_without_a_target_is_its_own():
    learner = table_learner(VALUES)
    seen = []

    def loss(q, target_q, batch):
        seen.append(target_q(batch.observation).numpy())
        value = tf.reduce_sum(q(batch.observation))
        return value, {}, tf.zeros([1])

    learner.descend_transitions(loss, ONE)
    np.testing.assert_array_equal(seen[0], VALUES[:1])


def test_copies_in_a_compiled_loop_are_those_of_single_steps():
    one_by_one, looped = (table_learner(VALUES, TARGET_VALUES, keras.optimizers.SGD(0.1)) for _ in range(2))
    algorithm = DQN(target_every=4, huber_delta=None)
    batch = random_transitions()

    @tf.function(jit_compile=True, autograph=False)
    def ten_steps():
        def step(i):
            algorithm.update(looped, batch)
            return (i + 1,)

        tf.while_loop(lambda i: i < 10, step, (0,))

    ten_steps()
    for _ in range(10):
        algorithm.update(one_by_one, batch)
    np.testing.assert_allclose(table_of(looped.learner.policy), table_of(one_by_one.learner.policy), rtol=1e-5)
    np.testing.assert_allclose(table_of(looped.target), table_of(one_by_one.target), rtol=1e-5)
    assert not np.allclose(table_of(looped.target), table_of(looped.learner.policy))


def test_metrics_are_the_losss_own_with_its_value_and_the_gradients_norm():
    learner = table_learner(np.zeros((STATES, ACTIONS)))
    metrics, error = DQN(target_every=None, max_gradient_norm=0.5).update(learner, ONE)
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {"loss": 0.5, "td_error": 1.0, "action_value": 0.0, "gradient_norm": 1.0}
    )
    assert error.numpy().tolist() == [1.0]
    assert table_of(learner.learner.policy)[0, 0] == pytest.approx(0.5)  # clipped


# Replicas


def replicated(strategy: tf.distribute.Strategy) -> QLearner:
    with strategy.scope():
        policy, target = table_policy(VALUES), table_policy(TARGET_VALUES)
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(policy.model.trainable_variables)
    return QLearner(Learner(policy, optimizer, strategy), target)


def steps_of(learner: QLearner, batches: list[Transitions]) -> list[tuple[dict[str, float], np.ndarray]]:
    algorithm = DQN(target_every=2, max_gradient_norm=0.3, double=True)
    update = tf.function(lambda batch: algorithm.update(learner, batch), autograph=False)
    found = []
    for batch in batches:
        metrics, error = update(batch)
        found.append(({name: float(value) for name, value in metrics.items()}, error.numpy()))
    return found


def test_replicas_learn_their_shares_of_a_batch_as_one_device_learns_all_of_it(two_replicas):
    """Importance weights, clipping and copies to the target network included; errors come in the batch's order."""
    batches = [random_transitions(16, seed) for seed in range(6)]
    alone, together = table_learner(VALUES, TARGET_VALUES, keras.optimizers.SGD(0.1)), replicated(two_replicas)
    for (metrics, error), (shared, shared_error) in zip(
        steps_of(alone, batches), steps_of(together, batches), strict=True
    ):
        np.testing.assert_allclose(shared_error, error, rtol=1e-5, atol=1e-6)
        assert shared == pytest.approx(metrics, rel=1e-5)
    np.testing.assert_allclose(table_of(together.learner.policy), table_of(alone.learner.policy), rtol=1e-5)
    np.testing.assert_allclose(table_of(together.target), table_of(alone.target), rtol=1e-5)


def test_every_replica_has_the_copy(two_replicas):
    learner = replicated(two_replicas)
    compiled = tf.function(lambda: learner.update_target(every=1), autograph=False)
    compiled()
    weight = learner.target.model.weights[0].value
    for copy in two_replicas.experimental_local_results(weight):
        np.testing.assert_array_equal(copy, VALUES)


def test_a_batch_that_replicas_cannot_share_is_refused(two_replicas):
    learner = replicated(two_replicas)
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 2 replicas of a process, got 5"):
        DQN().update(learner, random_transitions(5))
