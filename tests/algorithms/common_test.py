"""What all algorithms have in common."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kerasrl_pg.algorithms import A2C, ALGORITHMS, DQN, NFQ, PPO, CrossEntropy, PolicyGradient, Reinforce
from kerasrl_pg.learner import Learner
from kerasrl_pg.models import PolicyModel, actor_critic, mlp_trunk
from kerasrl_pg.types import Batch
from tests.algorithms.tabular import random_rollout, rollout_on, softmax, tables, tabular_learner, updated
from tests.algorithms.tabular_q import ACTIONS, STATES, random_transitions, table_policy

ONE_STEP = [
    Reinforce(),
    PolicyGradient(),
    A2C(),
    PPO(rollout_length=8, epochs=1, num_minibatches=1),
    CrossEntropy(elite_share=0.5),
]
"""One of each, PPO with a single gradient step, the cross-entropy method with the better half as its elite."""

POLICY_GRADIENTS = [A2C, PPO, PolicyGradient, Reinforce]

LOGITS = np.array([[0.5, -0.3], [0.1, 0.9], [0.0, 0.2]])
VALUES = np.array([0.5, -1.0, 2.0])

INFINITE = float("inf")
COUNTS = st.one_of(st.integers(max_value=0), st.floats(), st.booleans(), st.none(), st.text())
NO_SWITCHES = st.one_of(st.text(), st.integers(), st.none())
NO_NUMBERS = st.one_of(st.just(float("nan")), st.text(), st.booleans(), st.lists(st.floats()))
OUTSIDE_0_TO_1 = st.one_of(st.floats(max_value=-1e-9), st.floats(min_value=1.0001), NO_NUMBERS, st.none())
NEGATIVE = st.one_of(st.floats(max_value=-1e-9), st.just(INFINITE), NO_NUMBERS, st.none())
NOT_POSITIVE = st.one_of(st.floats(max_value=0.0), st.just(INFINITE), NO_NUMBERS)

OUT_OF_RANGE = {
    "rollout_length": COUNTS,
    "epochs": COUNTS,
    "num_minibatches": COUNTS,
    "discount": OUTSIDE_0_TO_1,
    "gae_lambda": OUTSIDE_0_TO_1,
    "value_coef": NEGATIVE,
    "entropy_coef": NEGATIVE,
    "entropy_values": st.one_of(
        st.text(), st.floats(), st.booleans(), st.tuples(st.floats()), st.tuples(st.just(0.0), NOT_POSITIVE)
    ),
    "clip_epsilon": st.one_of(NOT_POSITIVE, st.none()),
    "clip_value": NOT_POSITIVE,
    "max_gradient_norm": NOT_POSITIVE,
    "target_kl": NOT_POSITIVE,
    "adaptive_kl": NOT_POSITIVE,
    "normalize_advantage": NO_SWITCHES,
    "reward_ends_return": NO_SWITCHES,
    "standardize_returns": NO_SWITCHES,
    "dropout_while_acting": NO_SWITCHES,
    "max_gradient_value": NOT_POSITIVE,
    "policy_gradient_metrics": NO_SWITCHES,
    "gradient_step_per": st.one_of(st.text(), st.none(), st.integers()),
    "elite_share": st.one_of(NOT_POSITIVE, st.floats(min_value=1.0001), st.none()),
    "baseline": st.one_of(st.text(), st.none(), st.integers()),
    "gradient_steps": COUNTS,
    "batch_size": COUNTS,
    "n_step": COUNTS,
    "replay_size": COUNTS,
    "learning_starts": COUNTS,
    "target_every": COUNTS.filter(lambda value: value is not None),
    "double": NO_SWITCHES,
    "sampler": st.one_of(st.text(), st.integers(), st.booleans()),
    "epsilon": OUTSIDE_0_TO_1,
    "huber_delta": NOT_POSITIVE,
}
"""For each hyperparameter, values that it may not have."""

FIELDS = [(cls, field.name) for cls in ALGORITHMS.values() for field in dataclasses.fields(cls)]


@pytest.mark.parametrize(("algorithm", "field"), FIELDS)
@settings(max_examples=25)
@given(data=st.data())
def test_a_hyperparameter_out_of_range_is_a_value_error_that_names_it(algorithm, field, data):
    value = data.draw(OUT_OF_RANGE[field])
    # None plays whole episodes.
    assume(not (value is None and (algorithm, field) == (A2C, "rollout_length")))
    with pytest.raises(ValueError, match=f"^{algorithm.__name__}: {field} must be ") as error:
        algorithm(**{field: value})
    assert f"got {value!r}" in str(error.value)


@pytest.mark.parametrize("algorithm", POLICY_GRADIENTS)
def test_a_schedule_is_for_the_clip_the_entropy_bonus_and_the_adaptive_kl_only(algorithm):
    schedule = keras.optimizers.schedules.PolynomialDecay(0.2, 10)
    for name in ("clip_epsilon", "entropy_coef", "adaptive_kl"):
        assert getattr(PPO(**{name: schedule}), name) is schedule
        with pytest.raises(ValueError, match=rf"{name} must stay in .* got -0\.07 at step 9 from"):
            PPO(**{name: keras.optimizers.schedules.PolynomialDecay(0.2, 10, -0.1)})
    with pytest.raises(ValueError, match="discount must be"):
        algorithm(discount=schedule)


def test_a_schedule_may_be_without_a_configuration():
    class Falling(keras.optimizers.schedules.LearningRateSchedule):
        def __init__(self, first):
            self.first = first

        def __call__(self, step):
            return self.first / (1 + step)

    schedule = Falling(0.5)
    assert DQN(epsilon=schedule).epsilon is schedule
    with pytest.raises(ValueError, match=r"DQN: epsilon must stay in \[0, 1\], got 2 at step 0 from <.*Falling"):
        DQN(epsilon=Falling(2.0))


@pytest.mark.parametrize("algorithm", POLICY_GRADIENTS)
def test_settings_are_named_and_do_not_change(algorithm):
    with pytest.raises(TypeError):
        algorithm(0.99)
    with pytest.raises(dataclasses.FrozenInstanceError):
        algorithm().discount = 0.5
    assert dataclasses.replace(algorithm(), discount=0.5).discount == 0.5


def test_limits_of_a_range_are_allowed():
    edges = PPO(discount=1.0, gae_lambda=0, value_coef=0.0, entropy_coef=0, max_gradient_norm=None, clip_value=None)
    assert edges.discount == 1.0


@pytest.mark.parametrize("algorithm", ONE_STEP, ids=lambda algorithm: type(algorithm).__name__)
def test_a_good_action_becomes_more_likely(algorithm):
    def rewards_action_1(learner):
        return rollout_on(learner, [[0, 0]], [[1, 0]], [[1.0, 0.0]], terminated=[[True, True]])

    logits, _, _ = updated(algorithm, [[0.0, 0.0]], [0.0], rewards_action_1)
    assert softmax(logits)[0, 1] > 0.51


@pytest.mark.parametrize("cls", POLICY_GRADIENTS)
def test_the_entropy_bonus_makes_the_policy_less_certain(cls):
    def nothing_to_learn(learner):
        return rollout_on(learner, [[0]] * 8, [[0]] * 8, [[0.0]] * 8)

    certain = np.array([[2.0, 0.0]])
    few_steps = {"epochs": 1, "num_minibatches": 1} if cls is PPO else {}
    logits, _, metrics = updated(cls(entropy_coef=0.5, **few_steps), certain, [0.0], nothing_to_learn)
    assert 0 < logits[0, 0] - logits[0, 1] < 2.0
    p = softmax(certain)
    np.testing.assert_allclose(metrics["entropy"], -(p * np.log(p)).sum(), rtol=1e-5)
    unmoved, _, _ = updated(cls(entropy_coef=0.0, **few_steps), certain, [0.0], nothing_to_learn)
    np.testing.assert_allclose(unmoved, certain, atol=1e-7)


@pytest.mark.parametrize("algorithm", ONE_STEP, ids=lambda algorithm: type(algorithm).__name__)
def test_gradient_flows_to_the_model_and_not_to_the_data(algorithm):
    learner = tabular_learner(LOGITS, VALUES)
    batch = algorithm.prepare(random_rollout(learner))
    flat = Batch(*(tf.reshape(field, [-1]) for field in batch))  # [T, N] -> [B]
    data = (flat.advantage, flat.value, flat.value_target, flat.log_prob, flat.weight)
    more = {"clip_epsilon": 0.2, "entropy_coef": 0.01} if isinstance(algorithm, PPO) else {}
    with tf.GradientTape() as tape:
        tape.watch(data)
        loss, _ = algorithm.loss(learner.policy, flat, **more)
    by_data, by_model = tape.gradient(loss, [data, learner.policy.model.trainable_variables])
    assert by_data == (None,) * len(data)
    assert by_model[0] is not None


@pytest.mark.parametrize("cls", [A2C, PPO, PolicyGradient])
def test_the_policys_loss_leaves_the_critic_alone_and_the_critics_the_policy(cls):
    more = {"epochs": 1, "num_minibatches": 1} if cls is PPO else {}
    logits, values, _ = updated(cls(value_coef=0.0, **more), LOGITS, VALUES, random_rollout)
    np.testing.assert_array_equal(values, np.float32(VALUES))
    assert not np.allclose(logits, LOGITS)

    def no_advantage(learner):
        rollout = rollout_on(learner, [[1]] * 8, [[0]] * 8, [[0.0]] * 8)
        return rollout._replace(value=tf.zeros([8, 1]), next_value=tf.zeros([8, 1]))

    logits, values, _ = updated(cls(entropy_coef=0.0, **more), LOGITS, VALUES, no_advantage)
    np.testing.assert_array_equal(logits, np.float32(LOGITS))
    assert -1.0 < values[1] <= 0.0  # from -1 towards its target of 0


WITH_OPTIONS = {
    "A2C with its options": A2C(normalize_advantage=True, policy_gradient_metrics=True),
    "PPO with its options": PPO(
        rollout_length=4, epochs=1, num_minibatches=1, clip_value=0.5, entropy_values=(-1.0, 3.0)
    ),
}


@pytest.mark.parametrize(
    "algorithm",
    [*ONE_STEP, *WITH_OPTIONS.values()],
    ids=[*(type(algorithm).__name__ for algorithm in ONE_STEP), *WITH_OPTIONS],
)
def test_what_a_reset_step_holds_does_not_matter(algorithm):
    """Row 2 only resets (NEXT_STEP): neither its action nor its reward nor its observation teach anything."""

    def rollout(junk_state, junk_action, junk_reward, junk_log_prob):
        def make(learner):
            made = rollout_on(
                learner,
                [[0], [1], [junk_state], [0]],
                [[1], [0], [junk_action], [1]],
                [[1.0], [0.5], [junk_reward], [-1.0]],
                terminated=[[False], [True], [False], [False]],
                valid=[[True], [True], [False], [True]],
            )
            # As after some gradient steps: every ratio is another than 1.
            return made._replace(log_prob=tf.where(made.valid, made.log_prob - 0.1, junk_log_prob))

        return make

    junk = (0, 0, 0.0, -0.5), (2, 1, 1e3, -4.0)
    one, other = (updated(algorithm, LOGITS, VALUES, rollout(*each)) for each in junk)
    np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-6)
    for name in one[2]:
        np.testing.assert_allclose(one[2][name], other[2][name], rtol=1e-5, err_msg=name)


WITH_A_CRITIC = {
    "A2C": A2C(),
    "PolicyGradient": PolicyGradient(),
    "PPO": PPO(rollout_length=8, epochs=1, num_minibatches=1),
    "PPO with a clipped value": PPO(rollout_length=8, epochs=1, num_minibatches=1, clip_value=0.5),
}


@pytest.mark.parametrize("algorithm", WITH_A_CRITIC.values(), ids=WITH_A_CRITIC)
def test_the_loss_of_normalised_values_does_not_depend_on_the_rewards_unit(algorithm):
    def value_loss(unit):
        its_spaces = spaces.Discrete(3), spaces.Discrete(2)
        model = actor_critic(*its_spaces, trunk=mlp_trunk((8,), seed=1), normalize_value=True, seed=2)
        learner = Learner(PolicyModel(model, *its_spaces), keras.optimizers.SGD(0.0))
        rollout = random_rollout(tabular_learner(LOGITS, VALUES))
        in_unit = {name: unit * getattr(rollout, name) for name in ("reward", "value", "next_value")}
        for _ in range(2):  # statistics may be taken after the step
            metrics = algorithm.update(learner, rollout._replace(**in_unit), tf.constant([0, 1]))
        return float(metrics["value_loss"])

    assert value_loss(1.0) == pytest.approx(value_loss(100.0), rel=1e-4)


class Recording:
    """A policy, or its action values, with a memory of which calls were in training mode."""

    def __init__(self, called):
        self._called, self.training = called, []

    def __call__(self, observation, training=False):
        self.training.append(training)
        return self._called(observation, training=training)

    def __getattr__(self, name):
        return getattr(self._called, name)


@pytest.mark.parametrize("algorithm", ONE_STEP, ids=lambda algorithm: type(algorithm).__name__)
def test_a_gradient_step_is_in_training_mode(algorithm):
    learner = tabular_learner(LOGITS, VALUES)
    learner.policy = Recording(learner.policy)
    algorithm.update(learner, random_rollout(learner), tf.constant([0, 1]))
    assert learner.policy.training == [True]


@pytest.mark.parametrize("algorithm", [DQN(), DQN(double=True), NFQ()], ids=["DQN", "double DQN", "NFQ"])
def test_of_action_values_only_those_that_learn_are_in_training_mode(algorithm):
    """Targets, and the choice of the next action, are without dropout; losses that layers add are of the last call."""
    policy = table_policy(np.zeros((STATES, ACTIONS)))
    online, target = Recording(policy.action_values), Recording(policy.action_values)
    algorithm.loss(online, target, random_transitions())
    chooses = getattr(algorithm, "double", False)
    assert online.training == [False] * chooses + [True]
    assert target.training == [False]


@pytest.mark.parametrize("cls", POLICY_GRADIENTS)
def test_the_gradient_norm_is_bounded_and_told_before_it_is(cls):
    more = {"epochs": 1, "num_minibatches": 1} if cls is PPO else {}
    free_logits, free_values, free = updated(cls(max_gradient_norm=None, **more), LOGITS, VALUES, random_rollout)
    logits, values, bounded = updated(cls(max_gradient_norm=0.01, **more), LOGITS, VALUES, random_rollout)
    free_change = np.concatenate([(free_logits - LOGITS).ravel(), free_values - VALUES])
    change = np.concatenate([(logits - LOGITS).ravel(), values - VALUES])
    np.testing.assert_allclose(np.linalg.norm(free_change), free["gradient_norm"], rtol=1e-4)
    np.testing.assert_allclose(change, free_change * 0.01 / free["gradient_norm"], atol=1e-6)
    np.testing.assert_allclose(bounded["gradient_norm"], free["gradient_norm"], rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize(
    "algorithm",
    [*ONE_STEP, PPO(rollout_length=8, epochs=2, num_minibatches=4)],
    ids=[*(type(algorithm).__name__ for algorithm in ONE_STEP), "PPO of eight steps"],
)
def test_an_update_is_the_same_compiled(algorithm, jit_compile):
    logits, values, metrics = updated(algorithm, LOGITS, VALUES, random_rollout)
    learner = tabular_learner(LOGITS, VALUES)
    compiled = tf.function(algorithm.update, autograph=False, jit_compile=jit_compile)
    again = compiled(learner, random_rollout(learner), tf.constant([0, 1]))
    np.testing.assert_allclose(tables(learner)[0], logits, rtol=1e-5)
    np.testing.assert_allclose(tables(learner)[1], values, rtol=1e-5)
    assert metrics == pytest.approx({name: float(value) for name, value in again.items()}, rel=1e-4, abs=1e-6)
