"""Which view of a model an algorithm learns with: a policy and a value, or action values."""

from __future__ import annotations

from typing import Any

import keras
from gymnasium import spaces

from kerasrl_pg.models.actor_critic import PolicyModel
from kerasrl_pg.models.q_network import QPolicy


def learns_action_values(algorithm: Any) -> bool:
    """Whether an algorithm learns Q from a replay, rather than a policy from rollouts."""
    return getattr(algorithm, "learns_action_values", False)


def policy_of(algorithm: Any, model: keras.Model, observation_space: spaces.Space, action_space: spaces.Space) -> Any:
    """What the algorithm's losses see of the model."""
    if learns_action_values(algorithm):
        epsilon = algorithm.epsilon
        last = epsilon(2**31 - 1) if callable(epsilon) else epsilon
        return QPolicy(model, observation_space, action_space, float(last))
    policy = PolicyModel(model, observation_space, action_space)
    if hasattr(algorithm, "value_coef") and not policy.has_value:
        raise ValueError(
            f'{type(algorithm).__name__} learns values: the model must have an output "value" [B, 1]; '
            f"{model.name!r} has none"
        )
    return policy
