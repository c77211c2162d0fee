"""The trunks: their shapes, and initial weights that are orthogonal and follow from a seed."""

import keras
import numpy as np
import pytest
from gymnasium import spaces

from kerasrl_pg.models import actor_critic, default_model, mlp_trunk, nature_conv_trunk, small_conv_trunk

SQUARE_ROOT_OF_2 = 2**0.5


def built(trunk: keras.Model, *shape: int) -> keras.Model:
    trunk(keras.ops.zeros((1, *shape)))
    return trunk


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [weight.numpy() for weight in model.trainable_variables if weight.path.endswith("kernel")]


def gram(kernel: np.ndarray) -> np.ndarray:
    """WᵀW, or WWᵀ of a kernel that has more columns than rows."""
    rows = kernel.reshape(-1, kernel.shape[-1])  # [height, width, in, out] -> [height width in, out]
    return rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T


@pytest.mark.parametrize(
    ("trunk", "shape", "features"),
    [
        (mlp_trunk(), (4,), 64),
        (mlp_trunk((32, 16)), (2, 3), 16),
        (nature_conv_trunk(), (84, 84, 4), 512),
        (nature_conv_trunk(features=64, width=0.5), (36, 36, 1), 64),
        (nature_conv_trunk(features=None), (84, 84, 4), 7 * 7 * 64),
        (small_conv_trunk(), (8, 10, 3), 128),
    ],
)
def test_a_trunk_turns_a_batch_into_features(trunk, shape, features):
    assert tuple(trunk(keras.ops.zeros((5, *shape))).shape) == (5, features)


def test_the_nature_trunk_has_the_papers_convolutions():
    layers = [layer for layer in nature_conv_trunk().layers if isinstance(layer, keras.layers.Conv2D)]
    found = [(layer.filters, layer.kernel_size[0], layer.strides[0]) for layer in layers]
    assert found == [(32, 8, 4), (64, 4, 2), (64, 3, 1)]


@pytest.mark.parametrize(
    ("trunk", "shape"),
    [(mlp_trunk(), (4,)), (nature_conv_trunk(width=0.25, features=32), (40, 40, 2)), (small_conv_trunk(), (8, 8, 3))],
)
def test_hidden_kernels_are_orthogonal_with_gain_root_two(trunk, shape):
    for kernel in kernels(built(trunk, *shape)):
        product = gram(kernel)
        np.testing.assert_allclose(product, 2.0 * np.eye(len(product)), atol=1e-5)


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (3,))])
def test_heads_are_orthogonal_with_gain_one_hundredth_for_the_policy_and_one_for_the_value(action_space):
    model = default_model(spaces.Box(-1, 1, (4,)), action_space)
    heads = {layer.name: layer.kernel.numpy() for layer in model.layers if isinstance(layer, keras.layers.Dense)}
    policy = next(kernel for name, kernel in heads.items() if name.startswith("policy"))
    np.testing.assert_allclose(gram(policy), 0.01**2 * np.eye(3), atol=1e-8)
    np.testing.assert_allclose(gram(heads["value_head"]), [[1.0]], rtol=1e-5)


def test_the_first_policy_is_nearly_uniform():
    model = default_model(spaces.Box(-1, 1, (4,)), spaces.Discrete(3))
    observation = np.random.default_rng(0).uniform(-1, 1, (100, 4)).astype(np.float32)
    probability = keras.ops.softmax(model(observation)["policy"]).numpy()
    np.testing.assert_allclose(probability, 1 / 3, atol=0.02)


@pytest.mark.parametrize("make", [mlp_trunk, small_conv_trunk])
def test_weights_follow_from_the_seed_and_from_nothing_else(make):
    keras.utils.set_random_seed(1)
    first = built(make(seed=7), 8, 8, 3).get_weights()
    keras.utils.set_random_seed(2)
    again = built(make(seed=7), 8, 8, 3).get_weights()
    other = kernels(built(make(seed=8), 8, 8, 3))
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert not any(np.allclose(one, two) for one, two in zip(first[::2], other, strict=True))


def test_no_two_layers_of_a_model_start_alike():
    same_sizes = mlp_trunk((16, 16, 16), seed=3)
    model = actor_critic(spaces.Box(-1, 1, (16,)), spaces.Discrete(2), trunk=same_sizes, critic_trunk=mlp_trunk((16,)))
    square = [kernel for kernel in kernels(model) if kernel.shape == (16, 16)]
    assert len(square) == 4
    assert not any(np.allclose(square[i], square[j]) for i in range(4) for j in range(i))


def test_dropout_drops_while_learning_only():
    trunk = mlp_trunk((64,), dropout=0.5)
    x = keras.ops.ones((1, 4))
    assert np.count_nonzero(trunk(x, training=False).numpy()) == 64
    assert np.count_nonzero(trunk(x, training=True).numpy()) < 64
