"""An exported policy acts as the agent does, wherever it is loaded."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg import ops
from kerasrl_pg.export import _is_tie, export_policy
from kerasrl_pg.exported_policy import load_policy, named_leaves
from kerasrl_pg.models import PolicyModel, actor_critic

pytestmark = pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning")

FORMATS = ("saved_model", "litert", "onnx")
VECTOR = spaces.Box(-1, 1, (4,))
IMAGE = spaces.Box(0, 255, (36, 36, 2), np.uint8)
NESTED = spaces.Dict(
    {
        "Position": spaces.Box(-1, 1, (3,)),
        "action": spaces.Discrete(4),
        "goal": spaces.Tuple([spaces.Discrete(3, start=2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)]),
        "small image": spaces.Box(0, 255, (12, 12, 3), np.uint8),
    }
)
BOUNDED = spaces.Box(np.array([-2, 0, -np.inf], np.float32), np.array([2, np.inf, np.inf], np.float32))
CASES = {
    "vector, Discrete": (VECTOR, spaces.Discrete(3)),
    "vector, Discrete from 5": (VECTOR, spaces.Discrete(3, start=5)),
    "image, Discrete": (IMAGE, spaces.Discrete(4)),
    "Dict, Discrete": (NESTED, spaces.Discrete(3)),
    "Tuple, MultiDiscrete": (
        spaces.Tuple([VECTOR, spaces.Discrete(3)]),
        spaces.MultiDiscrete([[2, 3], [1, 4]]),
    ),
    "vector, MultiBinary": (VECTOR, spaces.MultiBinary([2, 2])),
    "vector, Box": (VECTOR, BOUNDED),
}


def make_policy(observation_space, action_space, **settings):
    """A policy with opinions: the weights of a new one hardly tell the actions apart."""
    model = actor_critic(observation_space, action_space, **settings)
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign_add(random.normal(0, 0.2, weight.shape))
    return PolicyModel(model, observation_space, action_space)


def some_observations(space, number):
    space.seed(0)
    return tf.nest.map_structure(lambda *parts: np.stack(parts), *[space.sample() for _ in range(number)])


def row(batch, index):
    return tf.nest.map_structure(lambda part: part[index], batch)


def agent_actions(policy, observations):
    """Greedy actions as an agent computes them, without a line of the exporter's."""
    batch = tf.nest.map_structure(lambda spec, part: tf.cast(part, spec.dtype), policy.model.input, observations)
    action = policy(batch).distribution.mode()
    return ops.to_environment(policy.action_space, action).numpy()


def export(policy, path, format="saved_model", **metadata):
    observations = some_observations(policy.observation_space, 8)
    return export_policy(policy, path, observations=observations, metadata=metadata, format=format)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Every case in every format: its policy, its observations and the paths."""
    root = tmp_path_factory.mktemp("exports")
    cases = {}
    for number, (name, (observation_space, action_space)) in enumerate(CASES.items()):
        policy = make_policy(observation_space, action_space)
        paths = {format: export(policy, root / f"{number}-{format}", format) for format in FORMATS}
        cases[name] = policy, some_observations(observation_space, 7), paths
    return cases


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_an_export_acts_as_the_agent_on_a_batch_and_on_one_observation(exported, case, format):
    policy, observations, paths = exported[case]
    loaded = load_policy(paths[format])
    wanted = agent_actions(policy, observations)
    actions = loaded.act(observations)
    np.testing.assert_allclose(actions, wanted, rtol=1e-4, atol=1e-4)
    assert all(policy.action_space.contains(action) for action in actions)
    action = loaded.act(row(observations, 3))
    assert loaded.action_space == policy.action_space
    assert loaded.action_space.contains(action)
    np.testing.assert_allclose(action, wanted[3], rtol=1e-4, atol=1e-4)


WITHOUT_PACKAGE = """
import json, sys
import numpy as np
for name in ("kerasrl_pg", "tensorflow_probability", "gymnasium"):
    sys.modules[name] = None          # importing it raises ImportError, wherever it is installed
import tensorflow as tf
try:
    import kerasrl_pg
except ImportError:
    pass
else:
    raise AssertionError("this process can import kerasrl_pg")

def part(observation, path):
    for key in path:
        observation = observation[key]
    return observation

for path, file in json.load(sys.stdin):
    observation = np.load(file, allow_pickle=True).item()["observation"]
    inputs = {
        entry["name"]: tf.constant(part(observation, entry["path"]), entry["dtype"])
        for entry in json.load(open(path + "/metadata.json"))["inputs"]
    }
    outputs = tf.saved_model.load(path).signatures["serving_default"](**inputs)
    np.save(file + ".action.npy", outputs["action"].numpy())
"""


def test_a_saved_model_acts_the_same_in_a_process_that_has_no_package(exported, tmp_path):
    jobs = []
    for number, (_, observations, paths) in enumerate(exported.values()):
        jobs.append((str(paths["saved_model"]), str(tmp_path / f"{number}.npy")))
        np.save(jobs[-1][1], np.array({"observation": observations}))
    command = [sys.executable, "-I", "-c", WITHOUT_PACKAGE]
    subprocess.run(command, input=json.dumps(jobs), text=True, cwd=tmp_path, check=True)
    for (policy, observations, _), (_, file) in zip(exported.values(), jobs, strict=True):
        actions = np.load(file + ".action.npy")
        np.testing.assert_allclose(actions, agent_actions(policy, observations), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_the_batch_size_is_free(exported, format):
    _, observations, paths = exported["image, Discrete"]
    loaded = load_policy(paths[format])
    all_actions = loaded.act(observations)
    for size in (1, 7, 2):
        np.testing.assert_array_equal(loaded.act(observations[:size]), all_actions[:size])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("case", "outputs"),
    [
        ("vector, Discrete", {"action": (7,), "probabilities": (7, 3), "value": (7,)}),
        ("Tuple, MultiDiscrete", {"action": (7, 2, 2), "probabilities": (7, 2, 2, 4), "value": (7,)}),
        ("vector, MultiBinary", {"action": (7, 2, 2), "probabilities": (7, 2, 2), "value": (7,)}),
        ("vector, Box", {"action": (7, 3), "mean": (7, 3), "std": (7, 3), "value": (7,)}),
    ],
)
def test_outputs_are_named_and_metadata_says_so(exported, case, outputs, format):
    _, observations, paths = exported[case]
    loaded = load_policy(paths[format])
    names = [entry["name"] for entry in loaded.metadata["inputs"]]
    parts = [part.astype(entry["dtype"]) for part, entry in
             zip(tf.nest.flatten(observations), loaded.metadata["inputs"], strict=True)]  # fmt: skip
    got = loaded.run(dict(zip(names, parts, strict=True)), None)
    assert {name: output.shape for name, output in got.items()} == outputs
    listed = {entry["name"]: (entry["dtype"], entry["shape"]) for entry in loaded.metadata["outputs"]}
    assert listed == {name: (output.dtype.name, [None, *output.shape[1:]]) for name, output in got.items()}


def test_inputs_are_named_by_their_path(exported):
    paths = exported["Dict, Discrete"][2]
    listed = {entry["name"]: entry["path"] for entry in load_policy(paths["onnx"]).metadata["inputs"]}
    assert listed == {
        "Position": ["Position"],
        "observation_action": ["action"],  # an output has that name already
        "goal_0": ["goal", 0],
        "goal_1": ["goal", 1],
        "goal_2": ["goal", 2],
        "small_image": ["small image"],
    }
    signature = tf.saved_model.load(paths["saved_model"]).signatures["serving_default"]
    assert set(signature.structured_input_signature[1]) == set(listed)
    tuple_metadata = load_policy(exported["Tuple, MultiDiscrete"][2]["litert"]).metadata
    assert [entry["name"] for entry in tuple_metadata["inputs"]] == ["observation_0", "observation_1"]


def test_probabilities_and_values_are_the_models(exported):
    policy, observations, paths = exported["vector, Discrete"]
    output = policy(observations)
    for format in FORMATS:
        got = load_policy(paths[format]).run({"observation": observations}, None)
        np.testing.assert_allclose(got["probabilities"], output.distribution.probs_parameter(), atol=1e-5)
        np.testing.assert_allclose(got["value"], output.value, atol=1e-5)


def test_sampling_follows_the_probabilities_and_the_seed(exported):
    _, observations, paths = exported["vector, Discrete from 5"]
    loaded = load_policy(paths["saved_model"])
    many = np.repeat(observations[:1], 4000, axis=0)
    probabilities = loaded.run({"observation": observations}, None)["probabilities"][0]
    actions = loaded.act(many, sample=True, seed=1)
    frequencies = np.bincount(actions - 5, minlength=3) / len(actions)
    np.testing.assert_allclose(frequencies, probabilities, atol=0.03)  # four standard errors
    np.testing.assert_array_equal(actions, loaded.act(many, sample=True, seed=1))
    assert (actions != loaded.act(many, sample=True, seed=2)).any()
    assert (actions != loaded.act(many, sample=True)).any()


def test_sampled_box_actions_have_the_mean_and_std_that_the_export_names(tmp_path):
    policy = make_policy(VECTOR, spaces.Box(-10, 30, (2,)))
    policy.model.get_layer("policy").log_std.assign([-3.0, -2.0])  # narrow, so that nothing is clipped
    loaded = load_policy(export(policy, tmp_path / "policy"))
    observations = np.zeros((4000, 4), np.float32)
    named = loaded.run({"observation": observations[:1]}, None)
    samples = loaded.act(observations, sample=True, seed=0)
    np.testing.assert_allclose(samples.mean(axis=0), named["mean"][0], atol=0.3)
    np.testing.assert_allclose(samples.std(axis=0), named["std"][0], rtol=0.1)
    np.testing.assert_allclose(named["std"][0], 20 * np.exp([-3.0, -2.0]), rtol=1e-5)  # half of -10 to 30 is 20


@pytest.mark.parametrize("format", FORMATS)
def test_box_actions_stay_within_their_bounds(tmp_path, format):
    policy = make_policy(VECTOR, BOUNDED)
    policy.model.get_layer("policy_mean").bias.assign([50.0, -50.0, -50.0])
    loaded = load_policy(export(policy, tmp_path / "policy", format))
    action = loaded.act(np.zeros(4))
    assert action[:2].tolist() == [2.0, 0.0]
    assert action[2] < -40  # no bound on that side
    assert BOUNDED.contains(action)


def test_only_a_saved_model_can_sample(exported):
    with pytest.raises(ValueError, match="sample needs the format 'saved_model'; this is 'onnx'"):
        load_policy(exported["vector, Discrete"][2]["onnx"]).act(np.zeros(4), sample=True)


def test_an_observation_of_another_shape_is_refused(exported):
    with pytest.raises(ValueError, match=r"\[4\].*\[B, 4\].*got \[5\]"):
        load_policy(exported["vector, Discrete"][2]["saved_model"]).act(np.zeros(5))


def test_metadata_holds_the_callers_and_what_export_knows(tmp_path):
    policy = make_policy(VECTOR, spaces.Discrete(3))
    metadata = load_policy(export(policy, tmp_path / "policy", environment="CartPole-v1", steps=7)).metadata
    assert metadata["environment"] == "CartPole-v1"
    assert metadata["steps"] == 7
    assert metadata["format"] == "saved_model"
    assert metadata["inputs"] == [{"name": "observation", "path": [], "dtype": "float32", "shape": [None, 4]}]
    assert set(metadata["versions"]) == {"kerasrl_pg", "tensorflow", "keras", "numpy", "python"}
    assert metadata == json.loads((tmp_path / "policy" / "metadata.json").read_text())


@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_actions_that_only_rounding_tells_apart_do_not_stop_an_export(tmp_path, format):
    space = spaces.Box(-1, 1, (64,))
    observation = keras.Input(space.shape)
    forth = keras.layers.Dense(1, use_bias=False, name="forth")
    back = keras.layers.Dense(1, use_bias=False, name="back")
    # The same sum, added up in the opposite order: each runtime rounds it in its own way.
    logits = [forth(observation), back(keras.ops.flip(observation, axis=-1))]
    model = keras.Model(observation, {"policy": keras.layers.Concatenate()(logits)})
    back.kernel.assign(forth.kernel[::-1])
    policy = PolicyModel(model, space, spaces.Discrete(2))
    observations = some_observations(space, 500)
    export_policy(policy, tmp_path / "policy", observations=observations, metadata={}, format=format)


@pytest.mark.parametrize("format", FORMATS)
def test_a_bfloat16_model_is_exported_in_float32(tmp_path, format):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        policy = make_policy(VECTOR, spaces.Discrete(4), normalize_observation=True)
    finally:
        keras.config.set_dtype_policy("float32")
    loaded = load_policy(export(policy, tmp_path / "policy", format))
    observations = some_observations(VECTOR, 32)
    got = loaded.run({"observation": observations}, None)
    assert got["probabilities"].dtype == got["value"].dtype == np.float32
    np.testing.assert_allclose(got["probabilities"], policy(observations).distribution.probs_parameter(), atol=0.05)
    assert "bfloat16" in {layer.compute_dtype for layer in policy.model.layers}  # the agent's is left as it was


class Square(keras.layers.Layer):
    """Of the user's, and not registered."""

    def call(self, inputs):
        return inputs * inputs


def functional_with_a_layer_of_the_users():
    inputs = keras.Input((4,))
    hidden = Square(dtype="mixed_bfloat16")(keras.layers.Dense(4, dtype="mixed_bfloat16")(inputs))
    outputs = {
        name: keras.layers.Dense(units, dtype="float32")(hidden) for name, units in (("policy", 3), ("value", 1))
    }
    return keras.Model(inputs, outputs)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(4, dtype=self.dtype_policy)
        self.policy = keras.layers.Dense(3, dtype="float32")
        self.value = keras.layers.Dense(1, dtype="float32")

    def call(self, observation):
        hidden = self.hidden(observation)
        return {"policy": self.policy(hidden), "value": self.value(hidden)}


class TakesNothing(Subclassed):
    def __init__(self):
        super().__init__(dtype="mixed_bfloat16")


@pytest.mark.parametrize("make", [functional_with_a_layer_of_the_users, lambda: Subclassed(dtype="mixed_bfloat16")])
def test_a_model_of_the_users_in_bfloat16_is_exported_in_float32(make, tmp_path):
    policy = PolicyModel(make(), VECTOR, spaces.Discrete(3))
    export(policy, tmp_path / "policy")
    observations = some_observations(VECTOR, 20)
    got = load_policy(tmp_path / "policy").run({"observation": observations}, None)
    np.testing.assert_allclose(got["value"], policy(observations).value, rtol=0.02, atol=0.02)


def test_a_model_that_cannot_be_copied_to_float32_is_refused_and_leaves_nothing(tmp_path):
    policy = PolicyModel(TakesNothing(), VECTOR, spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"an export computes in float32, and '.*' cannot be copied to it"):
        export(policy, tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


def test_a_model_made_under_a_strategy_is_exported(two_replicas, tmp_path):
    with two_replicas.scope():
        policy = make_policy(VECTOR, spaces.Discrete(3), normalize_observation=True, normalize_value=True)
    observations = some_observations(VECTOR, 16)
    for format in FORMATS:
        loaded = load_policy(export(policy, tmp_path / format, format))
        np.testing.assert_array_equal(loaded.act(observations), agent_actions(policy, observations))


def test_a_model_without_a_value_exports_none(tmp_path):
    observation = keras.Input((4,))
    hidden = keras.layers.Dropout(0.5)(keras.layers.Dense(8)(observation))
    model = keras.Model(observation, {"policy": keras.layers.Dense(3)(hidden)})
    loaded = load_policy(export(PolicyModel(model, VECTOR, spaces.Discrete(3)), tmp_path / "policy"))
    assert [entry["name"] for entry in loaded.metadata["outputs"]] == ["action", "probabilities"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_part_of_the_observation_that_the_model_ignores_is_an_input_still(tmp_path, format):
    space = spaces.Dict({"seen": VECTOR, "unseen": spaces.Discrete(3)})
    inputs = {"seen": keras.Input((4,), name="seen"), "unseen": keras.Input((), name="unseen", dtype="int32")}
    model = keras.Model(inputs, {"policy": keras.layers.Dense(3)(inputs["seen"])})
    policy = PolicyModel(model, space, spaces.Discrete(3))
    observations = some_observations(space, 5)
    loaded = load_policy(export(policy, tmp_path / "policy", format))
    np.testing.assert_array_equal(loaded.act(observations), agent_actions(policy, observations))


class Noise(keras.layers.Layer):
    """Gives something else each time: no export of it can be checked."""

    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs))


def test_an_export_that_acts_otherwise_is_given_up_and_leaves_nothing(tmp_path):
    observation = keras.Input((4,))
    model = keras.Model(observation, {"policy": Noise()(keras.layers.Dense(3)(observation))})
    with pytest.raises(RuntimeError, match=r"given up: its '.*' differs from the policy's"):
        export(PolicyModel(model, VECTOR, spaces.Discrete(3)), tmp_path / "policy")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("action_space", "probabilities", "tie"),
    [
        (spaces.Discrete(3), [[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.2, 0.41, 0.39]], [False, True, False]),
        (spaces.Discrete(1), [[1.0]], [False]),
        (spaces.MultiDiscrete([2, 2]), [[[0.5, 0.5], [0.9, 0.1]]], [[True, False]]),
        (spaces.MultiBinary(3), [[0.5, 0.51, 0.99]], [[True, False, False]]),
    ],
)
def test_another_action_is_let_through_only_where_two_are_equally_probable(action_space, probabilities, tie):
    """The control: rounding may choose either of two best actions, and never the second best."""
    assert _is_tie(action_space, {"probabilities": np.array(probabilities)}).tolist() == tie


def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    policy = make_policy(VECTOR, spaces.Box(-1, 1, (2,), np.float64))
    with pytest.raises(RuntimeError, match="cannot be exported as 'litert'"):
        export(policy, tmp_path / "policy", "litert")
    assert os.listdir(tmp_path) == []


def test_a_policy_that_has_diverged_is_refused_and_leaves_nothing(tmp_path):
    policy = make_policy(VECTOR, spaces.Discrete(3))
    policy.model.trainable_variables[0].assign(np.full(policy.model.trainable_variables[0].shape, np.nan))
    with pytest.raises(RuntimeError, match="'probabilities' is not finite"):
        export(policy, tmp_path / "policy")
    assert os.listdir(tmp_path) == []


def test_an_existing_path_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "policy"
    path.mkdir()
    (path / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match=f"{path} exists already"):
        export(make_policy(VECTOR, spaces.Discrete(3)), path)
    assert os.listdir(path) == ["mine"]
    assert os.listdir(tmp_path) == ["policy"]


def test_bad_arguments_are_refused_and_leave_nothing(tmp_path):
    policy = make_policy(VECTOR, spaces.Discrete(3))
    path = tmp_path / "policy"
    with pytest.raises(ValueError, match=r"format must be one of .*'litert'.* got 'tflite'"):
        export(policy, path, "tflite")
    with pytest.raises(ValueError, match=r"takes \*, \? and \[ in .* for a pattern"):
        export(policy, tmp_path / "policy[1]")
    with pytest.raises(ValueError, match=r"metadata must not hold \['format', 'inputs'\]"):
        export_policy(policy, path, observations=np.zeros((1, 4)), metadata={"inputs": 1, "format": 2})
    with pytest.raises(TypeError, match="metadata must be what JSON can hold"):
        export(policy, path, strategy=object())
    with pytest.raises(ValueError, match="at least one observation"):
        export_policy(policy, path, observations=np.zeros((0, 4)), metadata={})
    with pytest.raises(ValueError, match=r"got \[2, 5\]"):
        export_policy(policy, path, observations=np.zeros((2, 5)), metadata={})
    assert os.listdir(tmp_path) == []


def test_onnx_without_its_packages_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r'tf2onnx: the extra "onnx" \(from a clone: pip install "\.\[onnx\]"\)'):
        export(make_policy(VECTOR, spaces.Discrete(3)), tmp_path / "policy", "onnx")


def test_what_is_no_export_is_not_loaded(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match="no exported policy at"):
        load_policy(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"it has no metadata\.json"):
        load_policy(tmp_path)
    for text in ("not JSON", "[]", "{}", '{"format": "pickle"}'):
        (tmp_path / "metadata.json").write_text(text)
        with pytest.raises(ValueError, match=r"metadata\.json is another's"):
            load_policy(tmp_path)
    (tmp_path / "metadata.json").write_text((exported["vector, Discrete"][2]["litert"] / "metadata.json").read_text())
    with pytest.raises(ValueError, match=r"it has no policy\.tflite"):
        load_policy(tmp_path)


def test_names_of_inputs_differ_by_more_than_their_case():
    box = spaces.Box(-1, 1, (2,))
    names = list(named_leaves(spaces.Dict({"A": box, "a": box, "VALUE": box, "self": box})))
    assert len({name.lower() for name in names}) == 4
    assert not {"value", "VALUE", "self"} & set(names)
