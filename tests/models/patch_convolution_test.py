"""`PatchConv2D` is `Conv2D`, computed in another way."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasrl_pg.models import PatchConv2D

KERNELS, STRIDES = st.tuples(*[st.integers(1, 4)] * 2), st.tuples(*[st.integers(1, 3)] * 2)
SIZES = st.tuples(st.integers(4, 9), st.integers(4, 9), st.integers(1, 3))


def images_of(*size):
    return np.random.default_rng(0).normal(size=(3, *size)).astype(np.float32)


def naive_convolution(images, kernel, strides):
    """One output pixel after the other, without padding."""
    rows, columns = kernel.shape[:2]
    height = (images.shape[1] - rows) // strides[0] + 1
    width = (images.shape[2] - columns) // strides[1] + 1
    outputs = np.zeros((len(images), height, width, kernel.shape[-1]))
    for row, column in np.ndindex(height, width):
        top, left = row * strides[0], column * strides[1]
        outputs[:, row, column] = np.tensordot(images[:, top : top + rows, left : left + columns], kernel, 3)
    return outputs


# Not against Keras' layer: with unequal strides and one channel, TensorFlow 2.21's oneDNN convolution can be wrong.
@settings(max_examples=40)
@given(kernel=KERNELS, strides=STRIDES, size=SIZES)
def test_each_pixel_is_its_patch_times_the_kernel(kernel, strides, size):
    layer = PatchConv2D(5, kernel, strides=strides)
    outputs = layer(images_of(*size))
    expected = naive_convolution(images_of(*size), layer.kernel.numpy(), strides)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 1), (3, 1), (4, 2), (3, 2), (2, 3)])
def test_outputs_and_gradients_are_those_of_kerass_own_layer(kernel, stride, padding):
    arguments = {
        "filters": 5, "kernel_size": kernel, "strides": stride, "padding": padding, "activation": "tanh",
        "bias_initializer": "random_normal",
    }  # fmt: skip
    ours, theirs = PatchConv2D(**arguments), keras.layers.Conv2D(**arguments)
    images = tf.constant(images_of(8, 9, 3))
    ours(images), theirs(images)
    theirs.set_weights(ours.get_weights())
    pairs = zip(output_and_gradients(ours, images), output_and_gradients(theirs, images), strict=True)
    for own, other in pairs:
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)


def output_and_gradients(layer, images):
    with tf.GradientTape() as tape:
        tape.watch(images)
        output = layer(images)
        loss = tf.reduce_sum(tf.sin(output))
    return [output, *tape.gradient(loss, [images, *layer.trainable_variables])]


def test_without_a_bias_nothing_is_added():
    assert not PatchConv2D(4, 3, use_bias=False, activation="relu")(np.zeros((1, 5, 5, 2))).numpy().any()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_it_says_the_same(jit_compile):
    layer, images = PatchConv2D(8, 3, strides=2, padding="same"), images_of(9, 10, 3)
    layer(images)
    compiled = tf.function(layer, jit_compile=jit_compile)
    np.testing.assert_allclose(compiled(images), layer(images), rtol=1e-5, atol=1e-6)


def test_it_is_saved_with_a_model(tmp_path):
    model = keras.Sequential([keras.Input((6, 7, 2)), PatchConv2D(4, (3, 2), activation="relu")])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images_of(6, 7, 2)), model(images_of(6, 7, 2)))


@pytest.mark.parametrize(
    "argument",
    [{"data_format": "channels_first"}, {"groups": 2}, {"dilation_rate": 2}],
    ids=lambda one: next(iter(one)),
)
def test_what_it_does_not_know_is_refused(argument):
    with pytest.raises(ValueError, match=r"PatchConv2D knows .* only, got"):
        PatchConv2D(4, 3, **argument)


def test_an_image_of_unknown_size_is_refused():
    with pytest.raises(ValueError, match=r"needs images of a known size, got the shape \(None, None, 9, 3\)"):
        PatchConv2D(4, 3)(keras.Input((None, 9, 3)))
