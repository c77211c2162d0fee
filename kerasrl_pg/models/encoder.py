"""From an observation space to features: what every network of this package begins with."""

from __future__ import annotations

import contextlib

import keras
from gymnasium import spaces

from kerasrl_pg import seeding
from kerasrl_pg.models import preprocessing
from kerasrl_pg.models.precision import dtype_policy
from kerasrl_pg.models.preprocessing import RunningNormalizer
from kerasrl_pg.models.trunks import mlp_trunk, nature_conv_trunk, small_conv_trunk
from kerasrl_pg.spaces import map_space, tensor_dtype

NATURE_IMAGE = 36
"""Pixels: the smallest image that the Nature network's three convolutions leave anything of."""


def encode(space: spaces.Space, inputs, normalize: bool, seed: int):
    """The observation as one tensor; the parts of a Dict or Tuple are encoded each and concatenated."""
    leaves = keras.tree.flatten(map_space(lambda leaf: leaf, space))
    tensors = keras.tree.flatten(inputs)
    encoded = []
    for leaf, tensor, leaf_seed in zip(leaves, tensors, seeding.integers(seed, len(leaves)), strict=True):
        # In float32 whatever the trunk computes in: standardising would magnify what rounding left of a pixel.
        with dtype_policy("float32") if normalize else contextlib.nullcontext():
            features = preprocessing.encode_leaf(leaf, tensor)
        if normalize and not isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            features = RunningNormalizer()(features)
        if len(leaves) > 1 and preprocessing.is_image(leaf):
            features = features_of(default_trunk(leaf, leaf_seed), features)
        encoded.append(features)
    return encoded[0] if len(encoded) == 1 else keras.layers.Concatenate()(encoded)


def default_trunk(space: spaces.Space, seed: int) -> keras.Model:
    """The Nature network for large images, a small one for small ones, a 64-64 tanh perceptron for the rest."""
    size = preprocessing.image_shape(space)
    if size is None:
        return mlp_trunk(seed=seed)
    return nature_conv_trunk(seed=seed) if min(size) >= NATURE_IMAGE else small_conv_trunk(seed=seed)


def features_of(trunk: keras.Model, encoded):
    """`[B, features]` of an encoded observation; ValueError if the trunk cannot read it, or returns something else."""
    try:
        features = trunk(encoded)
    except (TypeError, ValueError) as error:
        shape = ["B", *encoded.shape[1:]]
        raise ValueError(
            f"model: the trunk {trunk.name!r} cannot read encoded observations {shape}: {error}"
        ) from error
    if not isinstance(features, keras.KerasTensor) or len(features.shape) != 2:
        shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), features)
        raise ValueError(
            f"a trunk must return one tensor [B, features]; {trunk.name!r} returns {shapes} "
            "(a model with heads must take observations as they are; these were encoded)"
        )
    return features


def _inputs_of_other_names(model: keras.Model, observation_space: spaces.Space) -> str:
    """How the inputs of a functional model should be called, if not as they are: Keras finds the parts of a Dict so."""
    if not isinstance(observation_space, spaces.Dict):
        return ""
    names = sorted(tensor.name for tensor in getattr(model, "inputs", None) or ())
    wanted = sorted(observation_space)
    return f": its inputs are {names}, and should be {wanted}" if names and names != wanted else ""


def output_spec(model: keras.Model, observation_space: spaces.Space):
    """Shapes of the outputs for a batch of 2; of a functional model without calling it."""
    inputs = map_space(
        lambda leaf: keras.KerasTensor((2, *leaf.shape), tensor_dtype(leaf).name),
        observation_space,
    )
    output = getattr(model, "output", None)  # None until a model is built
    if isinstance(output, keras.KerasTensor):
        return output  # a trunk, which reads encoded observations, not these
    try:
        return model.compute_output_spec(inputs)
    except Exception as error:  # whatever a user's layers raise
        hint = _inputs_of_other_names(model, observation_space)
        raise ValueError(
            f"the model {model.name!r} cannot read observations of {observation_space}{hint} ({error})"
        ) from error
