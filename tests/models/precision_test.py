"""A clone in the precision that a model computes in gives the same outputs without casting its weights."""

import keras
import numpy as np
import pytest
from gymnasium import spaces

from kerasrl_pg.models import actor_critic, default_model, dueling_q_network
from kerasrl_pg.models.precision import clone_for_inference, copy_weights, is_mixed, mixed_precision_policy

PIXELS = spaces.Box(0, 255, (4, 48, 48), np.uint8)
VECTOR = spaces.Box(-1, 1, (4,))
ACTIONS = spaces.Discrete(3)


def standardized(space, actions):
    return actor_critic(space, actions, normalize_observation=True, normalize_value=True)


class Subclassed(keras.Model):
    """As a user would write it: Keras makes it anew from its configuration."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {"units": self.units}


def mixed(build, *arguments):
    with mixed_precision_policy("bfloat16"):
        return build(*arguments)


def outputs(model, space=PIXELS):
    batch = np.random.default_rng(0).uniform(space.low, space.high, (5, *space.shape)).astype(space.dtype)
    return [np.array(leaf, np.float32) for leaf in keras.tree.flatten(model(batch))]


def assert_same_outputs(model, clone, space=PIXELS):
    for expected, found in zip(outputs(model, space), outputs(clone, space), strict=True):
        np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("build", [default_model, standardized, dueling_q_network])
def test_a_clone_gives_the_same_outputs_bit_for_bit(build):
    model = mixed(build, PIXELS, ACTIONS)
    rng = np.random.default_rng(1)
    model.set_weights([weight + rng.uniform(0, 0.1, weight.shape) for weight in model.get_weights()])
    clone = clone_for_inference(model)
    copy_weights(model, clone)
    assert_same_outputs(model, clone)
    assert not is_mixed(clone)


def test_only_what_computes_in_bfloat16_is_kept_in_it():
    model = mixed(standardized, PIXELS, ACTIONS)
    kept = [weight.dtype for weight in clone_for_inference(model).trainable_weights]
    assert kept == ["bfloat16"] * 8 + ["float32"] * 4  # three convolutions and a dense layer; two heads
    statistics = [weight.dtype for weight in clone_for_inference(model).non_trainable_weights]
    assert statistics == ["float32"] * 6


def test_a_clone_follows_only_when_told():
    model = mixed(default_model, PIXELS, ACTIONS)
    clone = clone_for_inference(model)
    copy_weights(model, clone)
    before = outputs(clone)
    model.set_weights([weight + 0.01 for weight in model.get_weights()])
    for old, found in zip(before, outputs(clone), strict=True):
        np.testing.assert_array_equal(old, found)
    copy_weights(model, clone)
    assert_same_outputs(model, clone)


def test_a_model_in_float32_is_cloned_as_it_is():
    model = default_model(VECTOR, ACTIONS)
    assert not is_mixed(model)
    clone = clone_for_inference(model)
    copy_weights(model, clone)
    assert {weight.dtype for weight in clone.weights} == {"float32"}
    assert_same_outputs(model, clone, VECTOR)


def inside_of_another():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2)(Subclassed()(inputs)))


@pytest.mark.parametrize("build", [Subclassed, inside_of_another])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_subclassed_model_is_made_anew_and_computes_in_the_same_precision(build, precision):
    with mixed_precision_policy(precision):
        model = build()
    model(np.zeros((1, 4), np.float32))
    clone = clone_for_inference(model)
    clone(np.zeros((1, 4), np.float32))
    copy_weights(model, clone)
    assert_same_outputs(model, clone, VECTOR)


def test_weights_of_another_model_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        copy_weights(default_model(VECTOR, ACTIONS), Subclassed())
