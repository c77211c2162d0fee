"""A model with its preprocessing fused is the same function, with the same gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import kerasrl_pg as krl
from kerasrl_pg.models import RunningNormalizer, actor_critic, default_model, nature_conv_trunk, q_network
from kerasrl_pg.models.actor_critic import layers_of
from kerasrl_pg.models.fusion import by_xla, encoders_of_normalizers, fuse_preprocessing, split_preprocessing
from kerasrl_pg.spaces import map_space

ACTIONS = spaces.Discrete(3)
PIXELS = spaces.Box(0, 255, (4, 40, 40), np.uint8)
RGB = spaces.Box(0, 255, (2, 36, 36, 3), np.uint8)
GREY = spaces.Box(0, 255, (40, 40), np.uint8)
SCREEN_AND_VECTOR = spaces.Dict({"screen": PIXELS, "ammunition": spaces.Box(0, 26, (2,))})
TWO_SCREENS = spaces.Dict({"screen": PIXELS, "map": GREY})


def standardized(space, actions):
    return actor_critic(space, actions, trunk=nature_conv_trunk(), normalize_observation=True)


MODELS = {
    "frames first": (default_model, PIXELS),
    "standardised": (standardized, PIXELS),
    "colour": (default_model, RGB),
    "grey": (default_model, GREY),
    "action values": (q_network, PIXELS),
    "two screens": (default_model, TWO_SCREENS),
}


def batch_of(space, size=5, seed=0):
    rng = np.random.default_rng(seed)

    def leaf(box):
        return tf.constant(rng.uniform(box.low, box.high, (size, *box.shape)).astype(box.dtype))

    return map_space(leaf, space)


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model_and_space(request):
    build, space = request.param
    model = build(space, ACTIONS)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Layer) and layer.name.startswith("running_normalizer"):
            layer.mean.assign(np.random.default_rng(1).uniform(0, 1, layer.mean.shape))
            layer.variance.assign(np.random.default_rng(2).uniform(0.01, 0.1, layer.variance.shape))
    return model, space


def outputs_and_gradients(network, model, observation):
    with tf.GradientTape() as tape:
        outputs = tf.nest.flatten(network(observation, training=True))
        loss = tf.add_n([tf.reduce_sum(tf.square(output)) for output in outputs])
    return outputs, tape.gradient(loss, model.trainable_variables)


def test_outputs_and_gradients_are_those_of_the_model(model_and_space):
    model, space = model_and_space
    fused = fuse_preprocessing(model)
    assert fused is not model
    observation = batch_of(space)
    found, expected = (
        tf.function(outputs_and_gradients, autograph=False)(network, model, observation) for network in (fused, model)
    )
    for ours, theirs in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_eagerly_and_under_xla_it_is_the_model_as_well(model_and_space):
    model, space = model_and_space
    fused, observation = fuse_preprocessing(model), batch_of(space)
    expected = tf.nest.flatten(model(observation))
    for run in (fused, tf.function(fused, autograph=False, jit_compile=True)):
        for ours, theirs in zip(tf.nest.flatten(run(observation)), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_inputs_in_another_order_than_the_observations_parts_are_not_confused():
    """Parts come by name, ascending or not; here of equal shapes, where nothing else would tell."""
    space = spaces.Dict({"pos": spaces.Box(0, 9, (3,)), "goal": spaces.Box(0, 9, (3,))})
    inputs = {name: keras.Input((3,), name=name) for name in ("pos", "goal")}
    scaled = [keras.layers.Rescaling(scale)(inputs[name]) for name, scale in (("pos", 1.0), ("goal", 0.1))]
    features = keras.layers.Dense(4)(keras.layers.Concatenate()(scaled))
    for model in (keras.Model(inputs, features), keras.Model(list(inputs.values()), features)):
        fused, observation = fuse_preprocessing(model), batch_of(space)
        assert fused is not model
        np.testing.assert_allclose(fused(observation), model(observation), rtol=1e-6)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"self": spaces.Dict({"speed": spaces.Box(0, 9, (2,)), "x": spaces.Box(0, 9, (2,))}),
                     "goal": spaces.Box(0, 9, (2,))}),
        spaces.Tuple([spaces.Box(0, 9, (2,)), spaces.Dict({"b": spaces.Box(0, 9, (2,))})]),
    ],
    ids=["nested", "within a Tuple"],
)  # fmt: skip
def test_what_a_normalizer_sees_is_found_from_observations_of_any_structure(space):
    model = actor_critic(space, ACTIONS, normalize_observation=True)
    found = {}
    for layer, encoder in encoders_of_normalizers(model):
        found[layer.name] = encoder(batch_of(space)).numpy()
    parts = tf.nest.flatten(batch_of(space))
    assert len(found) == len(parts)
    for values in found.values():
        assert sum(np.array_equal(values, part) for part in parts) == 1


def test_preprocessing_leaves_zero_positive():
    """An offset of -0.0 would stay in TensorFlow's cache of scalars, in the place of 0.0."""
    default_model(PIXELS, ACTIONS)(batch_of(PIXELS))
    assert not np.signbit(tf.constant(0.0).numpy())


@pytest.mark.parametrize("space", [PIXELS, TWO_SCREENS, SCREEN_AND_VECTOR], ids=str)
def test_the_model_itself_is_not_changed(space, tmp_path):
    """Cutting a graph in two gives an input that both parts have a second place in it, and Keras cannot save it."""
    model = default_model(space, ACTIONS)
    before = model.get_config()
    fuse_preprocessing(model)
    assert model.get_config() == before
    model.save(tmp_path / "model.keras")


def test_statistics_that_change_are_seen():
    model = standardized(PIXELS, ACTIONS)
    network = tf.function(fuse_preprocessing(model), autograph=False)
    before = network(batch_of(PIXELS))["value"].numpy()
    (normalizer,) = [layer for layer in model.layers if layer.name.startswith("running_normalizer")]
    normalizer.mean.assign(normalizer.mean + 0.5)
    after = network(batch_of(PIXELS))["value"].numpy()
    assert np.abs(after - before).min() > 1e-4
    np.testing.assert_allclose(after, model(batch_of(PIXELS))["value"], rtol=1e-4, atol=1e-5)


def test_everything_before_the_trunk_is_preprocessing_and_the_trunk_is_not():
    front, rest = split_preprocessing(standardized(PIXELS, ACTIONS))
    assert not front.trainable_variables
    assert [variable.shape for variable in front.outputs] == [(None, 40, 40, 4)]
    assert not [layer for layer in rest.layers if isinstance(layer, keras.layers.Rescaling | keras.layers.Permute)]


def reads_its_input_twice():
    inputs = keras.Input((8, 8, 1), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    return keras.Model(inputs, keras.layers.Add()([scaled, keras.layers.Rescaling(2.0)(inputs)]))


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    "model",
    [
        default_model(spaces.Box(-1, 1, (4,)), ACTIONS),
        default_model(SCREEN_AND_VECTOR, ACTIONS),
        reads_its_input_twice(),
        Subclassed(),
        keras.Sequential([keras.layers.Rescaling(0.5)]),
        keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(0.5)]),
    ],
    ids=[
        "a vector",
        "a vector beside a screen",
        "a pixel read twice",
        "subclassed",
        "sequential",
        "sequential with an input",
    ],
)
def test_a_model_without_preprocessing_of_its_own_is_left_alone(model):
    assert fuse_preprocessing(model) is model


def test_a_rounding_to_bfloat16_is_of_the_standardised_pixel_not_of_the_pixel():
    """A pixel that is 200 or 201: of the difference, bfloat16 would leave nothing if it were rounded first."""
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = standardized(PIXELS, ACTIONS)
    finally:
        keras.mixed_precision.set_global_policy(policy)
    front, _ = split_preprocessing(model)
    (normalizer,) = [layer for layer in model.layers if layer.name.startswith("running_normalizer")]
    normalizer.mean.assign(np.full(normalizer.mean.shape, 200.5 / 255))
    normalizer.variance.assign(np.full(normalizer.variance.shape, (0.5 / 255) ** 2))
    pixels = tf.constant(np.array([200, 201], np.uint8)[:, None, None, None] * np.ones((1, 4, 40, 40), np.uint8))
    for run in (front, tf.function(front, autograph=False, jit_compile=True)):
        (standardised,) = tf.nest.flatten(run(pixels))
        assert standardised.dtype == tf.bfloat16
        np.testing.assert_allclose(tf.cast(standardised, tf.float32)[:, 0, 0, 0], [-1, 1], rtol=0.01)


def test_a_normalizer_is_found_wherever_it_stands():
    inputs = {name: keras.Input((2,), name=name) for name in ("far", "near")}
    shared, other = RunningNormalizer(), RunningNormalizer()
    far, near = shared(keras.layers.Rescaling(0.5)(inputs["far"])), shared(inputs["near"])
    model = keras.Model(inputs, keras.layers.Concatenate()([far, near, other(inputs["near"])]))
    observation = {"far": np.full((1, 2), 8.0, np.float32), "near": np.ones((1, 2), np.float32)}
    found = [(layer, encoder(observation).numpy().tolist()) for layer, encoder in encoders_of_normalizers(model)]
    assert found == [(shared, [[4.0, 4.0]]), (shared, [[1.0, 1.0]]), (other, [[1.0, 1.0]])]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.normalizer = RunningNormalizer()

    def call(self, observation):
        return self.normalizer(observation)


def nested():
    inputs = keras.Input((2,))
    return keras.Model(inputs, keras.Sequential([RunningNormalizer(), keras.layers.Dense(1)])(inputs))


@pytest.mark.parametrize("make", [Subclassed, nested])
def test_a_normalizer_whose_input_is_not_known_is_refused(make):
    with pytest.raises(ValueError, match=r"must stand in the functional model itself.*normalize_observation=True"):
        encoders_of_normalizers(make())


class NotForXla(keras.layers.Layer):
    def call(self, inputs):
        return tf.ensure_shape(tf.numpy_function(lambda x: x, [inputs], tf.float32), inputs.shape)


def test_layers_of_the_users_before_a_normalizer_need_not_be_known_to_xla():
    inputs = keras.Input((4,))
    hidden = RunningNormalizer()(NotForXla()(inputs))
    model = keras.Model(inputs, {"policy": keras.layers.Dense(2)(hidden), "value": keras.layers.Dense(1)(hidden)})
    algorithm = krl.A2C(rollout_length=5)
    agent = krl.fit_agent("CartPole-v1", algorithm, steps=40, model=model, num_envs=2, jit_compile=False, verbose=0)
    assert float(layers_of(agent.model, RunningNormalizer)[0].count.numpy()) == 40


def test_by_xla_compiles_in_a_graph_and_runs_as_it_is_outside_of_one():
    seen = []

    def function(x):
        seen.append(tf.executing_eagerly())
        return x + 1

    compiled = by_xla(function)
    assert compiled(tf.constant(1)).numpy() == 2
    outer = tf.function(lambda x: compiled(x) * 2, autograph=False)
    assert outer(tf.constant(1)).numpy() == 4
    assert seen == [True, False]
    graph = outer.get_concrete_function(tf.constant(1)).graph
    inner = [op for op in graph.get_operations() if op.type.endswith("PartitionedCall")]
    assert len(inner) == 1
    assert inner[0].get_attr("_XlaMustCompile")


def test_by_xla_leaves_alone_what_comes_in_any_length():
    compiled = by_xla(lambda x: x + 1)
    outer = tf.function(lambda x: compiled(x), autograph=False, input_signature=[tf.TensorSpec([None], tf.int32)])
    assert outer(tf.constant([1, 2])).numpy().tolist() == [2, 3]
    graph = outer.get_concrete_function().graph
    assert not [op for op in graph.get_operations() if op.type.endswith("PartitionedCall")]
