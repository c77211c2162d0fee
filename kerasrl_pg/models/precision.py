"""In which precision models compute."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import keras
import tensorflow as tf


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Build layers under a Keras dtype policy, then put the global one back.

    Example:
        >>> with dtype_policy("mixed_bfloat16"):
        ...     keras.layers.Dense(1).compute_dtype
        'bfloat16'
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def mixed_precision_policy(name: str | None) -> contextlib.AbstractContextManager[None]:
    """A context in which models are built as `fit_agent(mixed_precision=name)` has them.

    Raises:
        ValueError: a name that is none of those.

    Example:
        >>> with mixed_precision_policy("bfloat16"):
        ...     keras.layers.Dense(1).compute_dtype
        'bfloat16'
    """
    if name == "auto":
        name = "bfloat16" if has_fast_bfloat16() else None
    if name not in (None, "float32", "bfloat16"):
        raise ValueError(f'mixed_precision must be None, "auto", "bfloat16" or "float32", got {name!r}')
    return dtype_policy("mixed_bfloat16" if name == "bfloat16" else "float32")


def has_fast_bfloat16() -> bool:
    """Whether the processor (or a GPU) multiplies bfloat16 natively; elsewhere it is emulated, many times slower."""
    if tf.config.list_physical_devices("GPU"):
        return True
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def clone_for_inference(model: keras.Model) -> keras.Model:
    """A clone to compute with and not to train: each layer keeps its weights in the precision that it computes in.

    In mixed precision a layer casts its float32 weights at every call, which for the million weights behind an image
    takes as long as some images' convolutions. The clone's outputs are the same, bit for bit, once `copy_weights` was
    called, as it has to be whenever the weights of `model` change.

    Args:
        model: any model that Keras can clone.

    Returns:
        The clone. Its weights are not those of `model` yet; if it is subclassed it has to be built first.

    Example:
        >>> with dtype_policy("mixed_bfloat16"):
        ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> [weight.dtype for weight in clone_for_inference(model).weights]
        ['bfloat16', 'bfloat16']
    """
    try:
        return keras.models.clone_model(model, clone_function=_in_compute_precision, recursive=True)
    except ValueError:  # subclassed: Keras makes it anew as a whole
        with dtype_policy(model.dtype_policy.name):
            return keras.models.clone_model(model)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Give a clone the weights of the model that it was made of, in a compiled function or out of one.

    Raises:
        ValueError: the models have weights of different numbers or shapes.
    """
    for old, new in zip(target.weights, source.weights, strict=True):
        old.assign(tf.cast(tf.convert_to_tensor(new), old.dtype))


def is_mixed(model: keras.Model) -> bool:
    """Whether a layer of `model` keeps its weights in another precision than it computes in."""
    return any(layer.compute_dtype != layer.variable_dtype for layer in model._flatten_layers(include_self=False))


def _in_compute_precision(layer: keras.layers.Layer) -> keras.layers.Layer:
    config = layer.get_config()
    if layer.compute_dtype != layer.variable_dtype and "dtype" in config:
        config["dtype"] = layer.compute_dtype
        # Some initializers know no bfloat16, and all weights are overwritten.
        config |= {key: "zeros" for key in config if key.endswith("_initializer")}
    with dtype_policy(layer.dtype_policy.name):  # of layers whose configuration does not say it
        return type(layer).from_config(config)
