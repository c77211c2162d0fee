"""Calls of compiled functions without the binding of arguments, which takes as long as a small network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def compiled(function: Callable, *specs: Any, jit_compile: bool) -> Callable:
    """`function` as its one trace, to be called with tensors in the order and of the types of `specs`."""
    traced = tf.function(function, autograph=False, jit_compile=jit_compile)
    return called_directly(traced.get_concrete_function(*specs))


def called_directly(concrete: Any) -> Callable:
    """A trace (`tf.function(...).get_concrete_function()`) that takes its arguments as they come, unchecked."""
    structure = concrete.structured_outputs
    is_tuple = type(structure) is tuple and not any(map(tf.nest.is_nested, structure))

    def call(*arguments):
        outputs = concrete.inference_fn.call_flat(*tf.nest.flatten(arguments), *concrete.captured_inputs)
        return tuple(outputs) if is_tuple else tf.nest.pack_sequence_as(structure, outputs)  # packing takes 25 µs

    return call
