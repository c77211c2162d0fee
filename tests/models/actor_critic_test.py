"""A trunk and two heads, for every kind of observation and action; a user's own models; saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg.models import PolicyModel, actor_critic, default_model, mlp_trunk, q_network
from kerasrl_pg.models.actor_critic import has_heads
from kerasrl_pg.models.precision import dtype_policy
from kerasrl_pg.spaces import as_batch, map_space

VECTOR = spaces.Box(-1, 1, (4,))
UINT8 = {"low": 0, "high": 255, "dtype": np.uint8}
OBSERVATIONS = {
    "vector": VECTOR,
    "number": spaces.Box(-1, 1, ()),
    "matrix": spaces.Box(-1, 1, (3, 5)),
    "discrete": spaces.Discrete(5, start=2),
    "multi discrete": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "multi binary": spaces.MultiBinary((2, 3)),
    "Atari": spaces.Box(shape=(4, 84, 84), **UINT8),
    "small image": spaces.Box(shape=(8, 9, 3), **UINT8),
    "gray image": spaces.Box(shape=(40, 40), **UINT8),
    "stack of images": spaces.Box(shape=(2, 8, 8, 3), **UINT8),
    "dict": spaces.Dict({"b": spaces.Box(shape=(8, 8, 3), **UINT8), "a": spaces.Discrete(3)}),
    "tuple": spaces.Tuple([VECTOR, spaces.Dict({"x": spaces.MultiBinary(2), "y": spaces.Box(-1, 1, (2, 2))})]),
}
ACTIONS = {
    "discrete": (spaces.Discrete(3, start=-1), 3, ()),
    "multi discrete": (spaces.MultiDiscrete([2, 3]), 5, (2,)),
    "multi binary": (spaces.MultiBinary(4), 4, (4,)),
    "box": (spaces.Box(-2, 2, (3,)), 6, (3,)),
}


def samples(space: spaces.Space, count: int):
    """A batch of random observations as the model reads them."""
    space.seed(0)
    rows = [as_batch(space, space.sample())[0] for _ in range(count)]
    return tf.nest.map_structure(lambda *leaves: tf.constant(np.concatenate(leaves)), *rows)


@pytest.mark.parametrize("space", OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_every_observation_leads_to_a_policy_and_a_value(space):
    policy = PolicyModel(default_model(space, spaces.Discrete(2)), space, spaces.Discrete(2))
    output = policy(samples(space, 3))
    assert output.distribution.logits.shape == (3, 2)
    assert output.value.shape == (3,)
    assert np.ptp(output.value) > 0  # the observation does arrive


def test_heads_have_hidden_layers_of_their_own_on_a_shared_trunk():
    trunk = mlp_trunk((16,), activation="relu")
    model = actor_critic(VECTOR, spaces.Discrete(3), trunk=trunk, head_units=(8, 4))
    shapes = sorted(tuple(weight.shape) for weight in model.trainable_variables if len(weight.shape) == 2)
    assert shapes == sorted([(4, 16), (16, 8), (16, 8), (8, 4), (8, 4), (4, 3), (4, 1)])
    policy = PolicyModel(model, VECTOR, spaces.Discrete(3))
    with tf.GradientTape(persistent=True) as tape:
        output = policy(tf.ones([2, 4]))
    weights = model.trainable_variables
    of_policy = {i for i, g in enumerate(tape.gradient(output.distribution.logits, weights)) if g is not None}
    of_value = {i for i, g in enumerate(tape.gradient(output.value, weights)) if g is not None}
    assert of_policy | of_value == set(range(len(weights)))
    shared = {weights[i].path for i in of_policy & of_value}
    assert shared == {weight.path for weight in trunk.trainable_variables}


def test_hidden_layers_of_the_heads_start_apart_and_follow_the_seed():
    def kernels(seed):
        model = actor_critic(VECTOR, spaces.Discrete(2), trunk=mlp_trunk((16,)), head_units=(8,), seed=seed)
        return [weight.numpy() for weight in model.trainable_variables if weight.shape == (16, 8)]

    one, other = kernels(0)
    assert np.abs(one - other).max() > 0.1
    np.testing.assert_array_equal(one, kernels(0)[0])
    assert np.abs(one - kernels(1)[0]).max() > 0.1


def test_what_layers_draw_while_learning_follows_the_seed():
    model = actor_critic(VECTOR, spaces.Discrete(2), trunk=mlp_trunk((16, 16), dropout=0.5))
    policy = PolicyModel(model, VECTOR, spaces.Discrete(2))

    @tf.function(autograph=False)
    def logits(seed):
        policy.reseed(seed)
        return [policy(tf.ones([3, 4]), training=True).value for _ in range(2)]

    first, second = logits(tf.constant([1, 2]))
    assert np.abs(first - second).max() > 0  # new masks every time
    again = logits(tf.constant([1, 2]))
    np.testing.assert_array_equal(again, [first, second])
    assert np.abs(logits(tf.constant([1, 3]))[0] - first).max() > 0
    acting = [policy(tf.ones([3, 4])).value for _ in range(2)]
    np.testing.assert_array_equal(*acting)  # without dropout


def test_exploring_drops_by_its_seed_and_changes_nothing():
    model = actor_critic(VECTOR, spaces.Discrete(2), trunk=mlp_trunk((16, 16), dropout=0.5))
    policy = PolicyModel(model, VECTOR, spaces.Discrete(2))
    before = [variable.numpy() for variable in model.variables]
    values = [policy.explore(tf.ones([3, 4]), tf.constant(seed)).value.numpy() for seed in ([1, 2], [1, 2], [1, 3])]
    np.testing.assert_array_equal(values[0], values[1])
    assert np.abs(values[2] - values[0]).max() > 0
    assert np.ptp(values[0]) > 0  # a mask for each row
    for variable, same in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, same)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning")
def test_keys_may_be_what_no_keras_layer_can_be_called():
    nested = spaces.Dict({"b": VECTOR})  # "a.b" as well
    space = spaces.Dict(
        {"policy": VECTOR, "my value/scaled": VECTOR, "7": spaces.Discrete(2), "a.b": VECTOR, "a": nested}
    )
    policy = PolicyModel(default_model(space, spaces.Discrete(2)), space, spaces.Discrete(2))
    assert policy(samples(space, 3)).value.shape == (3,)


@pytest.mark.parametrize(("space", "size", "action_shape"), ACTIONS.values(), ids=ACTIONS)
def test_every_action_space_gets_a_policy_head_of_its_size(space, size, action_shape):
    model = default_model(VECTOR, space)
    assert tuple(model.output["policy"].shape) == (None, size)
    distribution = PolicyModel(model, VECTOR, space)(samples(VECTOR, 5)).distribution
    action = distribution.sample(seed=(0, 1))
    assert action.shape == (5, *action_shape)
    assert distribution.log_prob(action).shape == distribution.entropy().shape == (5,)


def test_a_box_policy_starts_with_standard_deviation_one_whatever_it_sees():
    policy = PolicyModel(default_model(VECTOR, spaces.Box(-2, 2, (3,))), VECTOR, spaces.Box(-2, 2, (3,)))
    np.testing.assert_allclose(policy(samples(VECTOR, 5)).distribution.stddev(), np.ones((5, 3)))


def test_a_second_trunk_costs_its_own_weights():
    trunk, heads = 4 * 64 + 64 + 64 * 64 + 64, (64 * 2 + 2) + (64 + 1)
    assert actor_critic(VECTOR, spaces.Discrete(2)).count_params() == trunk + heads
    separate = actor_critic(VECTOR, spaces.Discrete(2), trunk=mlp_trunk(), critic_trunk=mlp_trunk(seed=1))
    assert separate.count_params() == 2 * trunk + heads


def test_vectors_get_two_trunks_and_images_share_one():
    def trunks(space):
        return sum(isinstance(layer, keras.Sequential) for layer in default_model(space, spaces.Discrete(2)).layers)

    assert trunks(VECTOR) == 2
    assert trunks(OBSERVATIONS["Atari"]) == trunks(OBSERVATIONS["small image"]) == 1


def test_with_two_trunks_the_policy_does_not_move_the_values():
    model = default_model(VECTOR, spaces.Discrete(2))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(samples(VECTOR, 3))["value"])
    gradients = tape.gradient(loss, model.trainable_variables)
    assert sum(gradient is None for gradient in gradients) == 6  # policy trunk and head: three kernels and biases


def test_a_model_follows_from_its_seed():
    first, again, other = (default_model(VECTOR, spaces.Discrete(2), seed=seed).get_weights() for seed in (3, 3, 4))
    assert all(np.array_equal(one, same) for one, same in zip(first, again, strict=True))
    assert not any(np.array_equal(one, two) for one, two in zip(first, other, strict=True) if one.ndim == 2)


@pytest.mark.parametrize("name", ["vector", "small image"])
@pytest.mark.parametrize("normalize_value", [True, False])
def test_heads_answer_in_float32_however_the_trunk_computes(name, normalize_value):
    space = OBSERVATIONS[name]
    with dtype_policy("mixed_bfloat16"):
        model = actor_critic(space, spaces.Box(-1, 1, (2,)), normalize_value=normalize_value)
    assert {name: output.dtype for name, output in model.output.items()} == {"policy": "float32", "value": "float32"}
    assert {variable.dtype for variable in model.variables} == {"float32"}
    trunk = next(layer for layer in model.layers if isinstance(layer, keras.Sequential))
    assert trunk.layers[-1].compute_dtype == "bfloat16"


def test_the_dtype_policy_is_put_back_even_after_an_error():
    before = keras.config.dtype_policy().name
    with pytest.raises(RuntimeError), dtype_policy("mixed_bfloat16"):
        raise RuntimeError
    assert keras.config.dtype_policy().name == before


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("vector", "box"),
        ("multi discrete", "discrete"),
        ("small image", "box"),
        ("stack of images", "discrete"),
        ("dict", "box"),
        ("tuple", "discrete"),
    ],
)
def test_a_saved_model_answers_as_before(name, action, tmp_path):
    space = OBSERVATIONS[name]
    model = actor_critic(space, ACTIONS[action][0], normalize_observation=True, normalize_value=True)
    for i, variable in enumerate(model.non_trainable_variables):
        variable.assign(keras.ops.full(variable.shape, 0.5 + 0.1 * i))  # as if statistics had been taken
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    observation = samples(space, 3)
    for key, output in model(observation).items():
        np.testing.assert_array_equal(output, loaded(observation)[key])


def head_model(outputs, space: spaces.Space = VECTOR) -> keras.Model:
    """A model whose outputs are dense layers of the given sizes, in the given structure."""
    inputs = keras.Input(space.shape)
    return keras.Model(inputs, keras.tree.map_structure(lambda units: keras.layers.Dense(units)(inputs), outputs))


@pytest.mark.parametrize("outputs", [{"policy": 2, "value": 1}, (2, 1), [2, 1]])
def test_a_model_may_name_its_outputs_or_put_them_in_order(outputs):
    policy = PolicyModel(head_model(outputs), VECTOR, spaces.Discrete(2))
    output = policy(samples(VECTOR, 5))
    assert policy.has_value
    assert (output.distribution.logits.shape, output.value.shape) == ((5, 2), (5,))


def test_values_may_come_without_a_column():
    inputs = keras.Input((4,))
    value = keras.layers.Reshape(())(keras.layers.Dense(1)(inputs))  # [B, 1] -> [B]
    model = keras.Model(inputs, {"policy": keras.layers.Dense(2)(inputs), "value": value})
    assert PolicyModel(model, VECTOR, spaces.Discrete(2))(samples(VECTOR, 5)).value.shape == (5,)


def test_without_a_value_output_values_are_zero():
    policy = PolicyModel(head_model({"policy": 2}), VECTOR, spaces.Discrete(2))
    assert not policy.has_value
    np.testing.assert_array_equal(policy(samples(VECTOR, 5)).value, np.zeros(5))


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        ({"policy": 3, "value": 1}, r"'policy': \(2, 3\)"),
        ({"policy": 2, "value": 2}, r"'value': \(2, 2\)"),
        ({"value": 1}, r"\{'value': \(2, 1\)\}"),
        ({"policy": 2, "critic": 1}, r"'critic': \(2, 1\)"),
        ((2, 1, 1), r"\(2, 2\), \(2, 1\), \(2, 1\)"),
        ((1, 2), r"\(2, 1\), \(2, 2\)"),
    ],
)
def test_wrong_outputs_are_an_error_that_shows_them_and_the_right_ones(outputs, found):
    with pytest.raises(ValueError, match=found) as error:
        PolicyModel(head_model(outputs), VECTOR, spaces.Discrete(2))
    assert '{"policy": [B, 2], "value": [B, 1]}' in str(error.value)


@pytest.mark.parametrize(
    ("model", "found"),
    [(mlp_trunk((2,)), "is a Sequential, which has one output"), (head_model(2), r"returns shapes \(None, 2\)")],
)
def test_a_model_of_one_output_is_no_policy(model, found):
    with pytest.raises(ValueError, match=rf"outputs must be .* {found}"):
        PolicyModel(model, VECTOR, spaces.Discrete(2))


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    """A policy written the way a Keras user subclasses a model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(8, "relu")
        self.policy_head = keras.layers.Dense(2)
        self.value_head = keras.layers.Dense(1)

    def call(self, inputs):
        hidden = self.hidden(inputs)
        return {"policy": self.policy_head(hidden), "value": self.value_head(hidden)}


class WithoutArguments(keras.Model):
    """The shortest form: Keras' own arguments, which its config has, cannot be passed."""

    def __init__(self):
        super().__init__()
        self.policy_head, self.value_head = keras.layers.Dense(2), keras.layers.Dense(1)

    def call(self, inputs):
        return self.policy_head(inputs), self.value_head(inputs)


@pytest.mark.parametrize(
    "model", [head_model({"policy": 2, "value": 1}), head_model((2, 1)), Subclassed(), WithoutArguments()]
)
def test_a_model_with_heads_is_known_for_a_whole_policy(model):
    assert has_heads(model, VECTOR)
    assert PolicyModel(model, VECTOR, spaces.Discrete(2))(samples(VECTOR, 5)).value.shape == (5,)


@pytest.mark.parametrize("build", [default_model, q_network])
def test_an_image_that_is_all_of_a_dict_goes_through_the_same_network_as_alone(build):
    image = spaces.Box(**UINT8, shape=(40, 40, 3))
    alone, within = (build(space, spaces.Discrete(2)) for space in (image, spaces.Dict({"pixels": image})))
    assert within.count_params() == alone.count_params()


def test_a_whole_model_whose_inputs_have_other_names_than_the_observations_parts_is_told_them():
    space = spaces.Dict({"pos": VECTOR, "goal": VECTOR})
    inputs = [keras.Input((4,), name=name) for name in ("x", "y")]
    features = keras.layers.Concatenate()(inputs)
    outputs = {"policy": keras.layers.Dense(2)(features), "value": keras.layers.Dense(1)(features)}
    model = keras.Model(inputs, outputs)
    assert has_heads(model, space)
    with pytest.raises(ValueError, match=r"its inputs are \['x', 'y'\], and should be \['goal', 'pos'\]"):
        PolicyModel(model, space, spaces.Discrete(2))


def functional_trunk() -> keras.Model:
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(8, "relu")(inputs))


def sequential_trunk() -> keras.Model:
    return keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(6)])


def built_trunk() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])


@pytest.mark.parametrize("make", [functional_trunk, sequential_trunk, built_trunk, mlp_trunk])
def test_a_model_without_heads_is_a_trunk_and_gets_them(make):
    trunk = make()
    assert not has_heads(trunk, VECTOR)
    model = actor_critic(VECTOR, spaces.Discrete(2), trunk=trunk)
    assert PolicyModel(model, VECTOR, spaces.Discrete(2))(samples(VECTOR, 5)).value.shape == (5,)
    own = {id(variable) for variable in trunk.trainable_variables}
    assert own <= {id(variable) for variable in model.trainable_variables}


def test_a_trunk_of_a_shape_of_its_own_gets_the_encoded_observation():
    # One-hot vectors of 2 + 3 + 4 + 5, where the raw observation would be a 2x2 matrix of integers.
    trunk = keras.Sequential([keras.Input((14,)), keras.layers.Dense(8)])
    space = OBSERVATIONS["multi discrete"]
    model = actor_critic(space, spaces.Discrete(2), trunk=trunk)
    assert PolicyModel(model, space, spaces.Discrete(2))(samples(space, 3)).value.shape == (3,)


class SubclassedTrunk(keras.Model):
    """A trunk that is built for whatever it is called on first."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(8, "relu")
        self.flatten = keras.layers.Flatten()

    def call(self, inputs):
        return self.flatten(self.hidden(inputs))


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_a_subclassed_trunk_is_built_for_encoded_observations(name):
    space, trunk = OBSERVATIONS[name], SubclassedTrunk()
    assert not has_heads(trunk, space)
    model = actor_critic(space, spaces.Discrete(2), trunk=trunk)
    assert PolicyModel(model, space, spaces.Discrete(2))(samples(space, 3)).value.shape == (3,)


class Configured(Subclassed):
    """A policy that is none without its argument, which Keras' own `get_config` forgets."""

    def __init__(self, body=None, **kwargs):
        super().__init__(**kwargs)
        self.body = body

    def call(self, inputs):
        return super().call(self.body(inputs))


def test_a_subclassed_policy_may_have_arguments_and_no_config():
    policy = Configured(keras.layers.Embedding(5, 8))
    assert has_heads(policy, spaces.Discrete(5))
    assert len(policy.trainable_variables) == 7  # built: an embedding, three kernels and biases


def test_a_policy_that_cannot_read_the_observation_is_told_what_it_has_to_read():
    assert not has_heads(Subclassed(), spaces.Discrete(5))
    with pytest.raises(ValueError, match=r"'policy': \(None, 2\).*must take observations as they are"):
        actor_critic(spaces.Discrete(5), spaces.Discrete(2), trunk=Subclassed())


@pytest.mark.parametrize(
    ("trunk", "shape"),
    [(keras.Sequential([keras.layers.Reshape((2, 2))]), r"\(None, 2, 2\)"), (head_model((2, 1)), r"\(None, 2\)")],
)
def test_a_trunk_must_return_one_vector(trunk, shape):
    with pytest.raises(ValueError, match=rf"one tensor \[B, features\].*{shape}"):
        actor_critic(VECTOR, spaces.Discrete(2), trunk=trunk)


@pytest.mark.parametrize(
    ("observation", "action", "named"),
    [
        (spaces.Text(5), spaces.Discrete(2), "observation space Text"),
        (spaces.Sequence(VECTOR), spaces.Discrete(2), "observation space Sequence"),
        (VECTOR, spaces.Text(5), "action space Text"),
        (VECTOR, spaces.Dict({"a": spaces.Discrete(2)}), "action space Dict"),
        (VECTOR, spaces.Box(0, 9, (2,), np.int32), "action space Box"),
    ],
)
def test_other_spaces_are_a_type_error_that_says_which_are_supported(observation, action, named):
    with pytest.raises(TypeError, match=rf"unsupported {named}.*supported: "):
        actor_critic(observation, action)


def test_observations_keep_the_structure_of_their_space():
    space = OBSERVATIONS["tuple"]
    inputs = default_model(space, spaces.Discrete(2)).input
    assert keras.tree.map_structure(lambda x: tuple(x.shape[1:]), inputs) == map_space(lambda leaf: leaf.shape, space)
