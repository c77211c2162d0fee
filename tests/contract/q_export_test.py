"""An exported network of action values acts as the agent does, and says what it expects of each action."""

import keras
import numpy as np
import pytest
from gymnasium import spaces

import kerasrl_pg as krl
from kerasrl_pg.export import _is_tie, export_policy
from kerasrl_pg.models import QPolicy, dueling_q_network, q_network
from tests.algorithms.tabular_q import table_policy

VECTOR, THREE = spaces.Box(-1, 1, (4,)), spaces.Discrete(3, start=5)

FORMATS = ("saved_model", "litert", "onnx")


def with_opinions(model):
    """The weights of a new one hardly tell the actions apart."""
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign_add(random.normal(0, 0.2, weight.shape))
    return model


def some_observations(number):
    return np.random.default_rng(1).uniform(-1, 1, (number, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def policy():
    return QPolicy(with_opinions(dueling_q_network(VECTOR, THREE)), VECTOR, THREE, epsilon=0.3)


@pytest.fixture(scope="module")
def exported(policy, tmp_path_factory):
    root = tmp_path_factory.mktemp("exports")
    return {
        format: krl.load_policy(
            export_policy(policy, root / format, observations=some_observations(8), metadata={}, format=format)
        )
        for format in FORMATS
    }


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_names_the_action_its_value_and_that_of_every_action(policy, exported, format):
    loaded, observations = exported[format], some_observations(7)
    got = loaded.run({"observation": observations}, None)
    values = policy.action_values(observations).numpy()
    assert set(got) == {"action", "action_values", "value"}
    np.testing.assert_allclose(got["action_values"], values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["value"], values.max(axis=1), rtol=1e-4, atol=1e-5)
    assert got["action"].tolist() == (5 + values.argmax(axis=1)).tolist() == loaded.act(observations).tolist()
    listed = {entry["name"]: entry["shape"] for entry in loaded.metadata["outputs"]}
    assert listed == {"action": [None], "action_values": [None, 3], "value": [None]}


def test_a_saved_model_draws_with_the_policys_exploration_rate(policy, exported):
    loaded = exported["saved_model"]
    many = np.repeat(some_observations(1), 4000, axis=0)
    best = loaded.act(many[0])
    actions = loaded.act(many, sample=True, seed=1)
    frequencies = np.bincount(actions - 5, minlength=3) / len(actions)
    wanted = np.full(3, 0.1)
    wanted[best - 5] += 0.7
    np.testing.assert_allclose(frequencies, wanted, atol=0.03)  # four standard errors
    np.testing.assert_array_equal(actions, loaded.act(many, sample=True, seed=1))


@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_action_values_that_only_rounding_tells_apart_do_not_stop_an_export(tmp_path, format):
    """Hundreds, as returns are: equal to within rounding relative to their size."""
    space = spaces.Box(-1, 1, (64,))
    observation = keras.Input(space.shape)
    forth, back = (keras.layers.Dense(1, use_bias=False) for _ in range(2))
    # The same sum, added up in the opposite order: each runtime rounds it in its own way.
    both = keras.layers.Concatenate()([forth(observation), back(keras.ops.flip(observation, axis=-1))])
    model = keras.Model(observation, {"action_values": both})
    forth.kernel.assign(500 * forth.kernel)
    back.kernel.assign(forth.kernel[::-1])
    policy = QPolicy(model, space, spaces.Discrete(2), epsilon=0.0)
    observations = np.random.default_rng(0).uniform(-1, 1, (500, 64)).astype(np.float32)
    path = export_policy(policy, tmp_path / "policy", observations=observations, metadata={}, format=format)
    assert krl.load_policy(path).act(observations).shape == (500,)


def test_a_policy_that_takes_another_action_is_no_tie():
    """The control: what differs by more than rounding is not let through."""
    values = np.array([[100.0, 100.5], [1.0, 1.0 + 1e-5], [100.0, 100.0 + 1e-3]])
    tie = _is_tie(spaces.Discrete(2), {"action_values": values})
    assert tie.tolist() == [False, True, True]


@pytest.mark.parametrize("format", FORMATS)
def test_a_bfloat16_network_is_exported_in_float32_as_action_values(tmp_path, format):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = with_opinions(q_network(VECTOR, THREE))
    finally:
        keras.config.set_dtype_policy("float32")
    policy = QPolicy(model, VECTOR, THREE, epsilon=0.3)
    path = export_policy(policy, tmp_path / "policy", observations=some_observations(8), metadata={}, format=format)
    got = krl.load_policy(path).run({"observation": some_observations(32)}, None)
    assert got["action_values"].dtype == np.float32
    np.testing.assert_allclose(got["action_values"], policy.action_values(some_observations(32)), atol=0.05)
    assert policy.model is model  # the agent's is left as it was


def test_a_network_that_has_diverged_is_not_exported(tmp_path):
    policy = table_policy(np.full((2, 2), np.nan))
    with pytest.raises(RuntimeError, match="'action_values' is not finite"):
        export_policy(policy, tmp_path / "policy", observations=np.arange(2), metadata={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning")
def test_a_part_of_an_observation_may_have_the_name_of_an_output(tmp_path):
    space = spaces.Dict({"action_values": VECTOR, "value": spaces.Discrete(2)})
    policy = QPolicy(q_network(space, THREE), space, THREE, epsilon=0.0)
    observations = {"action_values": some_observations(3), "value": np.zeros(3, int)}
    path = export_policy(policy, tmp_path / "policy", observations=observations, metadata={}, format="onnx")
    names = [entry["name"] for entry in krl.load_policy(path).metadata["inputs"]]
    assert names == ["observation_action_values", "observation_value"]
