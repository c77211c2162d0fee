"""The policy as rollouts outside of the graph call it, many times between two changes of its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kerasrl_pg.agent import Agent
from kerasrl_pg.models.fusion import for_training
from kerasrl_pg.models.precision import is_mixed


def acting_policy(agent: Agent) -> tuple[Any, Callable[[], None]]:
    """An agent's policy for a rollout, and what to call before each.

    In mixed precision it is a copy whose weights are cast once a rollout, not once a step; it acts the same, bit for
    bit.

    Returns:
        The policy, and a function that brings it up to date.
    """
    own = agent.learner.policy, lambda: None
    if agent.strategy is not None or not is_mixed(agent.model):
        return own
    try:
        policy = agent.policy.copy()
    except Exception:  # whatever the `__init__` of a user's model raises: that model acts itself
        return own
    return for_training(policy), tf.function(lambda: policy.follow(agent.policy), autograph=False)
