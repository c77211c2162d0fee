"""Which view of a model an algorithm learns with: a policy and a value, or action values."""

from __future__ import annotations

from typing import Any

import keras
from gymnasium import spaces

from kerasrl_pg.models.actor_critic import PolicyModel, layers_of
from kerasrl_pg.models.preprocessing import RunningNormalizer
from kerasrl_pg.models.q_network import QPolicy


def learns_action_values(algorithm: Any) -> bool:
    """Whether an algorithm learns Q from a replay, rather than a policy from rollouts."""
    return getattr(algorithm, "learns_action_values", False)


def policy_of(algorithm: Any, model: keras.Model, observation_space: spaces.Space, action_space: spaces.Space) -> Any:
    """What the algorithm's losses see of the model.

    Raises:
        ValueError: a model that the algorithm cannot learn: without its output, or with statistics that nobody keeps.
    """
    if learns_action_values(algorithm):
        if layers_of(model, RunningNormalizer):
            raise ValueError(
                f"{type(algorithm).__name__} keeps no running statistics of observations: the model must do without "
                "RunningNormalizer, with a layer of fixed scale in its place"
            )
        epsilon = algorithm.epsilon
        last = epsilon(2**31 - 1) if callable(epsilon) else epsilon
        return QPolicy(model, observation_space, action_space, float(last))
    learns_value = hasattr(algorithm, "value_coef")
    policy = PolicyModel(model, observation_space, action_space, learns_value=learns_value)
    if learns_value and not policy.has_value:
        raise ValueError(
            f'{type(algorithm).__name__} learns values: the model must have an output "value" [B, 1]; '
            f"{model.name!r} has none"
        )
    return policy
