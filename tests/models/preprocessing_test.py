"""From an observation to what a trunk reads: one-hot vectors, images channels last, running statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg.learner import Learner
from kerasrl_pg.models import PolicyModel, RunningNormalizer, ValueDenormalizer, actor_critic, mlp_trunk
from kerasrl_pg.models.actor_critic import layers_of
from kerasrl_pg.models.precision import dtype_policy
from kerasrl_pg.models.preprocessing import OneHot, encode_leaf, image_shape, is_image
from kerasrl_pg.types import Batch, Rollout

RNG = np.random.default_rng(0)
UINT8 = {"low": 0, "high": 255, "dtype": np.uint8}
BOX = spaces.Box(-np.inf, np.inf, (2,))


def encoded(space: spaces.Space, batch: np.ndarray) -> np.ndarray:
    """`batch` as `encode_leaf` hands it to the trunk."""
    inputs = keras.Input(space.shape, dtype=batch.dtype.name)
    return keras.Model(inputs, encode_leaf(space, inputs))(batch).numpy()


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def test_one_hot_counts_from_each_start():
    hot = OneHot([3, 2], [-1, 5])(np.array([[-1, 6], [1, 5]]))
    np.testing.assert_array_equal(hot, [[1, 0, 0, 0, 1], [0, 0, 1, 1, 0]])


def test_discrete_and_multi_discrete_become_one_hot():
    np.testing.assert_array_equal(encoded(spaces.Discrete(3, start=2), np.array([2, 4], np.int32)), np.eye(3)[[0, 2]])
    grid = spaces.MultiDiscrete([[2, 3], [2, 2]])
    hot = encoded(grid, np.array([[[1, 2], [0, 1]]], np.int32))
    np.testing.assert_array_equal(hot, [[0, 1, 0, 0, 1, 1, 0, 0, 1]])
    np.testing.assert_array_equal(encoded(spaces.MultiBinary(3), np.array([[1, 0, 1]], np.uint8)), [[1.0, 0.0, 1.0]])


def test_pixels_become_zero_to_one_and_floats_stay():
    image = pixels(2, 8, 8, 3)
    np.testing.assert_allclose(encoded(spaces.Box(shape=(8, 8, 3), **UINT8), image), image / 255.0, atol=1e-6)
    floats = RNG.normal(size=(2, 9, 9, 1)).astype(np.float32)
    np.testing.assert_array_equal(encoded(spaces.Box(-np.inf, np.inf, (9, 9, 1)), floats), floats)


def test_channels_first_is_transposed_to_channels_last():
    image = pixels(2, 4, 12, 10)
    expected = np.transpose(image, (0, 2, 3, 1)) / 255.0  # [B, C, H, W] -> [B, H, W, C]
    np.testing.assert_allclose(encoded(spaces.Box(shape=(4, 12, 10), **UINT8), image), expected, atol=1e-6)


def test_a_gray_image_gets_a_channel():
    image = pixels(2, 12, 10)
    np.testing.assert_allclose(encoded(spaces.Box(shape=(12, 10), **UINT8), image), image[..., None] / 255.0, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((4, 84, 84), (84, 84)), ((84, 84, 4), (84, 84)), ((10, 10, 16), (10, 10)), ((9, 9, 17), (9, 9)),
     ((8, 8, 119), (8, 8)), ((3, 16, 18), (16, 18)), ((9, 10, 3), (9, 10))],
)  # fmt: skip
def test_a_board_with_more_channels_than_rows_is_told_from_an_image_with_its_channels_first(shape, size):
    assert image_shape(spaces.Box(0, 1, shape)) == size


@pytest.mark.parametrize("wrap", [lambda box: spaces.Dict({"pixels": box}), lambda box: spaces.Tuple([box])])
def test_an_image_that_is_all_of_a_dict_or_a_tuple_is_an_image(wrap):
    assert image_shape(wrap(spaces.Box(0, 255, (84, 84, 3), np.uint8))) == (84, 84)
    assert image_shape(wrap(spaces.Box(-1, 1, (3,)))) is None


def test_a_stack_of_images_becomes_channels_the_oldest_first():
    stack = pixels(2, 4, 12, 10, 3)
    expected = np.concatenate([stack[:, i] for i in range(4)], axis=-1) / 255.0  # [B, H, W, 4 · C]
    np.testing.assert_allclose(encoded(spaces.Box(shape=(4, 12, 10, 3), **UINT8), stack), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(7, 7, 3), (3, 100), (2, 2, 2, 2), (5,), ()])
def test_what_is_too_small_for_an_image_is_read_as_a_vector(shape):
    space = spaces.Box(-1, 1, shape)
    assert not is_image(space)
    batch = RNG.uniform(-1, 1, (3, *shape)).astype(np.float32)
    np.testing.assert_array_equal(encoded(space, batch), batch.reshape(3, -1))


def rollout_of(observation: np.ndarray, valid: np.ndarray | None = None) -> Rollout:
    """A [T, N] rollout in which only the observations and `valid` matter."""
    zeros = tf.zeros(observation.shape[:2])
    no = tf.zeros(observation.shape[:2], tf.bool)
    mask = ~no if valid is None else tf.constant(valid)
    return Rollout(tf.constant(observation), tf.cast(zeros, tf.int32), zeros, zeros, zeros, no, no, zeros, mask)


def learner_of(model: keras.Model, observation_space: spaces.Space) -> Learner:
    return Learner(PolicyModel(model, observation_space, spaces.Discrete(2)), keras.optimizers.SGD(0.1))


def normalizing_learner() -> tuple[Learner, RunningNormalizer]:
    model = actor_critic(BOX, spaces.Discrete(2), trunk=mlp_trunk((4,)), normalize_observation=True)
    return learner_of(model, BOX), layers_of(model, RunningNormalizer)[0]


def test_the_normalizers_statistics_are_those_of_all_observations_so_far():
    learner, normalizer = normalizing_learner()
    rollouts = [RNG.normal(5.0, 3.0, (7, 4, 2)).astype(np.float32) + i for i in range(5)]
    for observation in rollouts:
        learner.update_observation_statistics(rollout_of(observation))
    everything = np.concatenate(rollouts).reshape(-1, 2)
    np.testing.assert_allclose(normalizer.mean.numpy(), everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(normalizer.variance.numpy(), everything.var(0), rtol=1e-5)
    assert float(normalizer.count.numpy()) == len(everything)


def test_observations_of_reset_steps_do_not_count():
    learner, normalizer = normalizing_learner()
    observation = RNG.normal(size=(6, 3, 2)).astype(np.float32)
    valid = RNG.uniform(size=(6, 3)) < 0.5
    learner.update_observation_statistics(rollout_of(np.where(valid[..., None], observation, 1e6), valid))
    np.testing.assert_allclose(normalizer.mean.numpy(), observation[valid].mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(normalizer.variance.numpy(), observation[valid].var(0), rtol=1e-4)
    assert float(normalizer.count.numpy()) == valid.sum()


def test_the_normalizer_standardises_and_clips():
    normalizer = RunningNormalizer(clip=2.0)
    normalizer.build((None, 2))
    normalizer.mean.assign([10.0, 0.0])
    normalizer.variance.assign([4.0, 0.0])
    np.testing.assert_allclose(normalizer(np.array([[12.0, 0.0], [0.0, 1.0]], np.float32)), [[1.0, 0.0], [-2.0, 2.0]])


def test_the_normalizer_stays_as_it_is_while_the_model_learns():
    learner, normalizer = normalizing_learner()
    learner.policy(tf.ones([8, 2]) * 100.0, training=True)
    assert float(normalizer.count.numpy()) == 0.0
    assert normalizer.mean.numpy().tolist() == [0.0, 0.0]
    assert not {id(v) for v in learner.policy.model.trainable_variables} & {id(v) for v in normalizer.variables}


def test_every_continuous_part_of_a_dict_has_its_own_statistics_and_no_other():
    space = spaces.Dict({"camera": spaces.Box(shape=(8, 8, 1), **UINT8), "mode": spaces.Discrete(3), "speed": BOX})
    model = actor_critic(space, spaces.Discrete(2), normalize_observation=True)
    shapes = [tuple(layer.mean.shape) for layer in layers_of(model, RunningNormalizer)]
    assert shapes == [(8, 8, 1), (2,)]
    learner = learner_of(model, space)
    observation = {
        "camera": pixels(3, 4, 8, 8, 1),
        "mode": RNG.integers(0, 3, (3, 4), np.int32),
        "speed": RNG.normal(50.0, 2.0, (3, 4, 2)).astype(np.float32),
    }
    rollout = rollout_of(observation["speed"])
    learner.update_observation_statistics(rollout._replace(observation=tf.nest.map_structure(tf.constant, observation)))
    camera, speed = layers_of(model, RunningNormalizer)
    np.testing.assert_allclose(camera.mean.numpy(), observation["camera"].mean((0, 1)) / 255.0, atol=1e-5)
    np.testing.assert_allclose(speed.mean.numpy(), observation["speed"].mean((0, 1)), rtol=1e-5)


def test_half_precision_does_not_round_observations_before_they_are_standardised():
    # bfloat16 has 8 binary digits: around 1000 it counts in steps of 4, and a spread of 0.5 would vanish.
    with dtype_policy("mixed_bfloat16"):
        model = actor_critic(BOX, spaces.Discrete(2), trunk=mlp_trunk((4,)), normalize_observation=True)
    normalizer = layers_of(model, RunningNormalizer)[0]
    normalizer.mean.assign([1000.0, 1000.0])
    normalizer.variance.assign([0.25, 0.25])
    standardised = keras.Model(model.input, normalizer.output)(np.array([[1000.5, 999.75]], np.float32))
    np.testing.assert_allclose(keras.ops.cast(standardised, "float32"), [[1.0, -0.5]])


def test_half_precision_does_not_round_pixels_before_they_are_standardised():
    # Between 1/4 and 1/2 bfloat16 counts in steps of 1/512, half of what one grey level is.
    image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    with dtype_policy("mixed_bfloat16"):
        model = actor_critic(image, spaces.Discrete(2), normalize_observation=True)
    normalizer = layers_of(model, RunningNormalizer)[0]
    normalizer.mean.assign(np.full((36, 36, 1), 100 / 255))
    normalizer.variance.assign(np.full((36, 36, 1), 1 / 255**2))
    pixels = np.full((1, 36, 36, 1), 100, np.uint8)
    pixels[0, :2, 0, 0] = 99, 101
    standardised = keras.ops.cast(keras.Model(model.input, normalizer.output)(pixels), "float32")
    np.testing.assert_allclose(standardised[0, :3, 0, 0], [-1.0, 1.0, 0.0], atol=1e-4)


def batch_of_targets(value_target: np.ndarray) -> Batch:
    zeros = tf.zeros(value_target.shape)
    observation = tf.zeros([*value_target.shape, 2])
    action = tf.cast(zeros, tf.int32)
    return Batch(observation, action, zeros, zeros, zeros, tf.constant(value_target), tf.ones(value_target.shape))


def test_a_critic_of_standardised_targets_answers_in_units_of_return():
    model = actor_critic(BOX, spaces.Discrete(2), trunk=mlp_trunk((4,)), normalize_value=True)
    learner, observation = learner_of(model, BOX), tf.constant([[0.3, -0.2]])
    before = learner.policy(observation).value.numpy()
    assert float(learner.policy.value_scale) == 1.0
    targets = [RNG.normal(100.0, 20.0, (5, 4)).astype(np.float32) for _ in range(3)]
    for target in targets:
        learner.update_value_statistics(batch_of_targets(target))
    mean, std = np.mean(targets), np.std(targets)
    np.testing.assert_allclose(float(learner.policy.value_scale), std, rtol=1e-5)
    np.testing.assert_allclose(learner.policy(observation).value, mean + std * before, rtol=1e-5)


def test_the_scale_of_values_is_one_for_a_model_that_does_not_standardise_them():
    model = actor_critic(BOX, spaces.Discrete(2), trunk=mlp_trunk((4,)))
    assert learner_of(model, BOX).policy.value_scale == 1.0
    assert layers_of(model, ValueDenormalizer) == []


@pytest.mark.parametrize(
    ("low", "high", "observation", "encoded"),
    [
        ([0, 0], [1000, 1], [[500, 1], [1000, 0]], [[0.5, 1.0], [1.0, 0.0]]),
        ([-10, 5], [10, 5], [[0, 5]], [[0.5, 0.0]]),
        ([0, -1], [2**31 - 1, 1], [[7, 1]], [[7.0, 1.0]]),
    ],
    ids=["a flag beside a count", "a constant", "a count without a bound"],
)
def test_each_integer_is_scaled_by_its_own_bounds(low, high, observation, encoded):
    """By the widest range a flag beside a large count would be as good as gone."""
    space = spaces.Box(np.array(low), np.array(high), dtype=np.int32)
    inputs = keras.Input((2,), dtype="int32")
    model = keras.Model(inputs, encode_leaf(space, inputs))
    np.testing.assert_allclose(model(np.array(observation, np.int32)), encoded, rtol=1e-6)
    again = keras.Model.from_config(model.get_config())
    np.testing.assert_allclose(again(np.array(observation, np.int32)), encoded, rtol=1e-6)
