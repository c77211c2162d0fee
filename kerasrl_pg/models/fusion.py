"""Preprocessing as one XLA program in front of a network whose convolutions XLA would slow down.

Operation by operation, a batch of pixels passes through memory a dozen times before the first convolution sees it:
cast, scale, transpose, standardise, clip, cast. XLA does all of it in one pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerasrl_pg.models.actor_critic import layers_of
from kerasrl_pg.models.preprocessing import CropAndResize, RunningNormalizer

PREPROCESSING = (
    keras.layers.Rescaling,
    keras.layers.Permute,
    keras.layers.Reshape,
    CropAndResize,
    RunningNormalizer,
)
"""Layers without weights to learn that are the same in training and out of it."""

KNOWN_TO_XLA = (*PREPROCESSING, keras.layers.InputLayer, keras.layers.Flatten, keras.layers.Concatenate)
"""Layers in front of a `RunningNormalizer`; those of a user's own may do what XLA cannot."""


def fuse_preprocessing(model: keras.Model) -> Callable[..., Any]:
    """`model` as a function `(observation, training) -> outputs` that does its preprocessing in one XLA program.

    Only for training: each size of a batch is compiled on its own, and what is exported must run without XLA.

    Args:
        model: any model; one that is not functional, or does not begin with preprocessing, or of whose observation a
            part needs none (as a vector beside a screen), is returned as it is.

    Example:
        >>> inputs = keras.Input((84, 84, 4), dtype="uint8")
        >>> model = keras.Model(inputs, keras.layers.Conv2D(8, 8)(keras.layers.Rescaling(1 / 255)(inputs)))
        >>> fuse_preprocessing(model)(tf.zeros((2, 84, 84, 4), tf.uint8)).shape
        TensorShape([2, 77, 77, 8])
    """
    parts = split_preprocessing(model)
    if parts is None:
        return model
    front, rest = parts
    fused = by_xla(front)

    def network(observation: Any, training: bool = False) -> Any:
        return rest(fused(observation), training=training)

    return network


def for_training(policy: Any) -> Any:
    """`policy`, a `PolicyModel` or `QPolicy`, as training calls it: the same network, its preprocessing fused."""
    trained = copy.copy(policy)
    trained.network = fuse_preprocessing(policy.model)
    return trained


def split_preprocessing(model: keras.Model) -> tuple[keras.Model, keras.Model] | None:
    """`model` in two, which share its layers: `observation -> [encoded leaves] -> outputs`."""
    try:
        inputs, outputs = model.inputs, model.output
    except (AttributeError, ValueError):  # not functional: subclassed or Sequential
        return None
    layers = [layer for layer in model.layers if isinstance(layer, PREPROCESSING)]
    encoded = [_end_of_preprocessing(tensor, layers) for tensor in inputs]
    if any(end is start for end, start in zip(encoded, inputs, strict=True)):
        return None  # a part that is read as it is: Keras would change its place in the graph of `model`
    try:
        return keras.Model(model.input, encoded), keras.Model(encoded, outputs)
    except ValueError:  # something else reads what is not yet preprocessed
        return None


def encoders_of_normalizers(model: keras.Model) -> list[tuple[RunningNormalizer, keras.Model]]:
    """Each `RunningNormalizer`, for every place where it stands, with the model from observations to its input there.

    Raises:
        ValueError: one stands where no path leads to from the observation: in a subclassed model, or a nested one.
    """
    found = []
    for layer in layers_of(model, RunningNormalizer):
        encoders = [_encoder(model, node.input_tensors[0]) for node in layer._inbound_nodes]
        known = [encoder for encoder in encoders if encoder is not None]
        if not known:
            raise ValueError(
                f"RunningNormalizer {layer.name!r} must stand in the functional model itself, not in a trunk, a nested "
                f"or a subclassed model, where its input is not known; it does not in {model.name!r}: see "
                "actor_critic(..., normalize_observation=True)"
            )
        found += [(layer, encoder) for encoder in known]
    return found


def is_known_to_xla(model: keras.Model) -> bool:
    """Whether XLA can compile all its layers."""
    return all(isinstance(layer, KNOWN_TO_XLA) for layer in model.layers)


def _encoder(model: keras.Model, end: keras.KerasTensor) -> keras.Model | None:
    try:
        return keras.Model(model.input, end)
    except (AttributeError, ValueError):  # subclassed; no path from the inputs to there
        return None


def _end_of_preprocessing(tensor: keras.KerasTensor, layers: list[keras.Layer]) -> keras.KerasTensor:
    readers = [layer for layer in layers if len(layer._inbound_nodes) == 1 and layer.input is tensor]
    return _end_of_preprocessing(readers[0].output, layers) if len(readers) == 1 else tensor


def by_xla(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled by XLA inside of other compiled functions, where all shapes are known; else as it is.

    XLA would compile whole episodes anew for every length of theirs.
    """
    compiled = tf.function(function, autograph=False, jit_compile=True)

    def call(*arguments: Any) -> Any:
        known = all(tensor.shape.is_fully_defined() for tensor in tf.nest.flatten(arguments))
        return compiled(*arguments) if known and not tf.executing_eagerly() else function(*arguments)

    return call
