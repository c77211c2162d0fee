"""Action-value networks: shapes, seeds, the dueling sum, and the policy that is made of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg.models import QPolicy, dueling_q_network, mlp_trunk, q_network
from kerasrl_pg.models.q_network import DuelingAggregation

VECTOR = spaces.Box(-1, 1, (4,))
IMAGE = spaces.Box(0, 255, (36, 36, 2), np.uint8)
SMALL_IMAGE = spaces.Box(0, 255, (12, 12, 3), np.uint8)
DICT = spaces.Dict({"place": spaces.Discrete(5), "speed": VECTOR, "screen": SMALL_IMAGE})
THREE = spaces.Discrete(3)

BUILDERS = {
    "plain": q_network,
    "mean": lambda *spaces_, **more: dueling_q_network(*spaces_, baseline="mean", **more),
    "max": lambda *spaces_, **more: dueling_q_network(*spaces_, baseline="max", **more),
}


def some_observations(space, number=7):
    space.seed(0)
    return tf.nest.map_structure(lambda *parts: tf.stack(parts), *[space.sample() for _ in range(number)])


@pytest.mark.parametrize("space", [VECTOR, IMAGE, SMALL_IMAGE, DICT, spaces.Discrete(6)], ids=str)
@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_any_observation_gives_one_value_per_action(build, space):
    policy = QPolicy(build(space, THREE), space, THREE, epsilon=0.0)
    values = policy.action_values(some_observations(space))
    assert values.shape == (7, 3)
    assert values.dtype == tf.float32
    assert np.isfinite(values).all()


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_weights_follow_the_seed_and_every_part_has_its_own(build):
    one, same, other = (build(VECTOR, THREE, seed=seed).get_weights() for seed in (5, 5, 6))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(one, other, strict=True):
        assert not a.any() or (a != b).all()  # biases begin at 0
    kernels = [kernel for kernel in one if kernel.ndim == 2]
    assert len({kernel.flat[0] for kernel in kernels}) == len(kernels)


def test_first_values_are_near_0_where_returns_are():
    values = q_network(VECTOR, THREE)(np.random.default_rng(0).uniform(-1, 1, (100, 4)))["action_values"]
    assert 0 < np.abs(values).max() < 0.5


def test_the_default_trunk_of_vectors_is_a_relu_perceptron_and_ones_own_is_used_instead():
    [trunk] = [layer for layer in q_network(VECTOR, THREE).layers if isinstance(layer, keras.Sequential)]
    assert [layer.activation.__name__ for layer in trunk.layers if isinstance(layer, keras.layers.Dense)] == [
        "relu"
    ] * 2
    mine = mlp_trunk((5,))
    assert mine in q_network(VECTOR, THREE, trunk=mine).layers
    assert mine in dueling_q_network(VECTOR, THREE, trunk=mine).layers


# Dueling


@pytest.mark.parametrize(
    ("baseline", "wanted"),
    [("mean", [[3.0 - 1.0, 3.0 + 1.0, 3.0], [2.0, 2.0, 2.0]]), ("max", [[3.0 - 2.0, 3.0, 3.0 - 1.0], [2.0, 2.0, 2.0]])],
)
def test_dueling_adds_the_value_to_what_an_action_is_better_than_the_baseline(baseline, wanted):
    """Wang et al. 2016, eqs. 9 and 8, of advantages 1, 3, 2 and of equal ones."""
    value, advantage = np.array([[3.0], [2.0]], np.float32), np.array([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]], np.float32)
    np.testing.assert_allclose(DuelingAggregation(baseline)([value, advantage]), wanted, rtol=1e-6)


@pytest.mark.parametrize("baseline", ["mean", "max"])
def test_what_all_advantages_have_in_common_does_not_count(baseline):
    """The reason for the baseline: without it V and A could move against each other."""
    layer = DuelingAggregation(baseline)
    value, advantage = np.ones((2, 1), np.float32), np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_allclose(layer([value, advantage + 7.0]), layer([value, advantage]), atol=1e-5)


def test_by_the_maximum_the_best_actions_value_is_the_states_and_by_the_mean_the_mean_is():
    value, advantage = np.array([[3.0]], np.float32), np.array([[1.0, 3.0, 2.5]], np.float32)
    assert float(tf.reduce_max(DuelingAggregation("max")([value, advantage]))) == pytest.approx(3.0)
    assert float(tf.reduce_mean(DuelingAggregation("mean")([value, advantage]))) == pytest.approx(3.0)


@pytest.mark.parametrize("baseline", ["mean", "max"])
def test_a_dueling_network_is_saved_with_its_baseline(tmp_path, baseline):
    model = dueling_q_network(VECTOR, THREE, baseline=baseline)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    observations = some_observations(VECTOR)
    np.testing.assert_array_equal(again(observations)["action_values"], model(observations)["action_values"])
    assert again.get_layer("action_values").baseline == baseline


def test_another_baseline_is_refused():
    with pytest.raises(ValueError, match=r"baseline must be one of \['mean', 'max'\], got 'median'"):
        dueling_q_network(VECTOR, THREE, baseline="median")


# The policy


def own_model(outputs_of, observation=(4,)):
    inputs = keras.Input(observation)
    return keras.Model(inputs, outputs_of(keras.layers.Dense(8)(inputs)), name="mine")


def test_a_policy_takes_the_best_action_and_says_what_it_is_worth():
    policy = QPolicy(q_network(VECTOR, THREE), VECTOR, THREE, epsilon=0.3)
    observations = some_observations(VECTOR, 50)
    values = policy.action_values(observations).numpy()
    distribution, value = policy(observations)
    np.testing.assert_array_equal(distribution.mode(), values.argmax(axis=1))
    np.testing.assert_array_equal(value, values.max(axis=1))
    np.testing.assert_allclose(tf.exp(distribution.log_prob(distribution.mode())), 0.7 + 0.3 / 3, rtol=1e-6)


def test_dropout_is_on_only_while_learning():
    policy = QPolicy(q_network(VECTOR, THREE, trunk=mlp_trunk((64,), dropout=0.5)), VECTOR, THREE, epsilon=0.0)
    observations = some_observations(VECTOR)
    np.testing.assert_array_equal(policy.action_values(observations), policy.action_values(observations))
    assert (policy.action_values(observations) != policy.action_values(observations, training=True)).numpy().any()


def test_a_bfloat16_network_has_float32_values():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        models = [build(VECTOR, THREE) for build in BUILDERS.values()]
    finally:
        keras.config.set_dtype_policy("float32")
    for model in models:
        assert "bfloat16" in {layer.compute_dtype for layer in model.layers}
        assert model(some_observations(VECTOR))["action_values"].dtype == tf.float32


@pytest.mark.parametrize(
    ("outputs_of", "shown"),
    [
        (lambda x: {"action_values": keras.layers.Dense(2)(x)}, r"\{'action_values': \(2, 2\)\}"),
        (lambda x: {"policy": keras.layers.Dense(3)(x)}, r"\{'policy': \(2, 3\)\}"),
        (lambda x: (keras.layers.Dense(3)(x), keras.layers.Dense(1)(x)), r"\(2, 3\), \(2, 1\)"),
        (lambda x: keras.layers.Dense(3)(x), r"\(None, 3\)"),
    ],
)
def test_a_model_with_other_outputs_is_refused_with_their_shapes(outputs_of, shown):
    message = rf"output must be {{\"action_values\": \[B, 3\]}}; 'mine' returns shapes .*{shown}.* for B = 2"
    with pytest.raises(ValueError, match=message):
        QPolicy(own_model(outputs_of), VECTOR, THREE, epsilon=0.0)


@pytest.mark.parametrize("action_space", [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)])
def test_other_actions_than_discrete_ones_are_refused(action_space):
    for build in BUILDERS.values():
        with pytest.raises(TypeError, match="action values are for Discrete action spaces, got"):
            build(VECTOR, action_space)
    with pytest.raises(TypeError, match="action values are for Discrete action spaces, got"):
        QPolicy(q_network(VECTOR, THREE), VECTOR, action_space, epsilon=0.0)


def test_an_observation_space_that_is_not_supported_is_refused():
    with pytest.raises(TypeError, match="Text"):
        q_network(spaces.Text(5), THREE)
