"""What training asks of an optimizer, whichever it is: a fresh one like it, its learning rate, its settings."""

from __future__ import annotations

import copy
from typing import Any

import keras

EXCLUDED = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")
"""What `exclude_from_weight_decay` leaves in an optimizer; its configuration knows nothing of it."""


def fresh_copy(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Another one of the same settings, that has no variables yet.

    Keras' `from_config(get_config())` alone would refuse learning rates that no file can hold.

    Raises:
        TypeError: its class cannot be made from its configuration.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return type(optimizer)(
            fresh_copy(optimizer.inner_optimizer),
            initial_scale=optimizer.initial_scale,
            dynamic_growth_steps=optimizer.dynamic_growth_steps,
            name=optimizer.name,
        )
    config, rate = _config(optimizer), optimizer._learning_rate
    try:
        # A variable's value is in the configuration.
        fresh = type(optimizer).from_config(
            config if isinstance(rate, keras.Variable) else config | {"learning_rate": rate}
        )
    except TypeError as error:
        raise TypeError(
            f"optimizer: {type(optimizer).__name__} cannot be made from its configuration ({error}): its __init__ must "
            "take what its get_config returns, and **kwargs"
        ) from error
    for name in EXCLUDED:
        if hasattr(optimizer, name):
            setattr(fresh, name, copy.copy(getattr(optimizer, name)))
    return fresh


def check_fits_replicas(optimizer: keras.optimizers.Optimizer, strategy: Any) -> None:
    """Refuse settings that do another thing under several replicas: each applies its share of a gradient.

    Raises:
        ValueError: what it is.
    """
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return
    inner = _within(optimizer)
    clips = [name for name in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(inner, name, None) is not None]
    if clips:
        raise ValueError(
            f"optimizer: {' and '.join(clips)} would clip each replica's share and not the gradient: leave it to the "
            "algorithm's max_gradient_norm"
        )
    refused = {
        "gradient_accumulation_steps": inner.gradient_accumulation_steps,
        "ema_overwrite_frequency": inner.use_ema and inner.ema_overwrite_frequency,
    }
    if any(refused.values()):
        names = " and ".join(name for name, value in refused.items() if value)
        raise ValueError(f"optimizer: Keras has no {names} under a strategy of several replicas")


def learning_rate_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """The variable, schedule or function that the learning rate comes from; of what loss scaling wraps."""
    return _within(optimizer)._learning_rate


def gradients_seen_by(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """How many gradients it was given, as its own schedules count; `iterations` counts those that it gathered, once."""
    return _within(optimizer)._iterations


def described(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Its settings as JSON can hold them; of a learning rate that no file can hold, the name."""
    rate = learning_rate_of(optimizer)
    if has_config(rate):
        return keras.saving.serialize_keras_object(optimizer)["config"]
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return {"name": optimizer.name, "inner_optimizer": described(optimizer.inner_optimizer)}
    return _config(optimizer) | {"learning_rate": getattr(rate, "__name__", type(rate).__name__)}


def check_can_be_saved(optimizer: keras.optimizers.Optimizer) -> None:
    """Refuse one that a file cannot hold, or that would come back from it another.

    Raises:
        ValueError: what it is.
    """
    inner = _within(optimizer)
    if any(getattr(inner, name, None) for name in EXCLUDED):
        raise ValueError(
            "the optimizer cannot be saved: Keras' files do not hold what exclude_from_weight_decay excludes"
        )
    cause = None
    if has_config(inner._learning_rate):
        try:
            keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
            return
        except Exception as error:  # whatever the user's classes raise
            cause = error
    raise ValueError(
        f"the optimizer cannot be saved: its class and its learning rate, {inner._learning_rate!r}, must be Keras' own "
        "or registered with keras.saving.register_keras_serializable, with a get_config"
    ) from cause


def _within(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def has_config(rate: Any) -> bool:
    """Whether a configuration can hold it: numbers, and schedules that say what they are."""
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return type(rate).get_config is not keras.optimizers.schedules.LearningRateSchedule.get_config
    return not callable(rate) or isinstance(rate, keras.Variable)


def _config(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Its configuration, in which the learning rate means something only if it is a number."""
    if isinstance(optimizer._learning_rate, keras.Variable):
        return optimizer.get_config()
    numbered = object.__new__(type(optimizer))
    vars(numbered).update(vars(optimizer), _learning_rate=None)
    return numbered.get_config()
