"""What every operation asks of its inputs: TensorFlow would broadcast [B] and [B, 1] to [B, B] in silence."""

from __future__ import annotations

import itertools
from typing import Any

import tensorflow as tf


def same_shape(**inputs: Any) -> list[tf.Tensor]:
    """The inputs as tensors, in order; raises `ValueError` unless their static shapes agree."""
    tensors = [tf.convert_to_tensor(value) for value in inputs.values()]
    if not all(one.shape.is_compatible_with(other.shape) for one, other in itertools.combinations(tensors, 2)):
        shapes = ", ".join(f"{name} {tensor.shape}" for name, tensor in zip(inputs, tensors, strict=True))
        raise ValueError(f"inputs must all have the same shape, got {shapes}")
    return tensors


def has_rank(rank: int, **inputs: Any) -> None:
    """Raises `ValueError` for an input whose static rank is known and is not `rank`."""
    for name, value in inputs.items():
        shape = tf.convert_to_tensor(value).shape
        if shape.rank not in (None, rank):
            raise ValueError(f"{name} must have rank {rank}, got shape {shape}")


def in_unit_interval(**inputs: float) -> None:
    """Raises `ValueError` for a number outside of 0 to 1."""
    for name, value in inputs.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must be between 0 and 1, got {value}")


def positive(**inputs: float | tf.Tensor) -> None:
    """Raises `ValueError` for a number that is not greater than 0; a tensor is only known when the graph runs."""
    for name, value in inputs.items():
        if not tf.is_tensor(value) and not value > 0:
            raise ValueError(f"{name} must be greater than 0, got {value}")
