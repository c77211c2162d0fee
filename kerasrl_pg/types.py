"""The records that rooms of the package hand to each other. Every field names its shape.

`T` rollout length, `N` environments, `B` flattened batch. An observation may be one tensor or, for `Dict` and
`Tuple` spaces, a structure of tensors; `[T, N, *observation]` then holds for each of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import gymnasium
import tensorflow as tf


class Step(NamedTuple):
    """What one step of N environments returns."""

    observation: Any
    """[N, *observation]: what the next action is chosen from, so after any reset."""
    reward: tf.Tensor
    """[N] float32."""
    terminated: tf.Tensor
    """[N] bool: the task ended, so V(s') = 0."""
    truncated: tf.Tensor
    """[N] bool: a limit cut the episode, so bootstrap from V(final_observation)."""
    final_observation: Any
    """[N, *observation]: s' itself, before any reset."""


class TensorEnv(Protocol):
    """N copies of an environment as TensorFlow graphs.

    Purely functional: there is no `tf.Variable` inside, so a step can be looped, compiled and replicated. `state`
    is any structure of tensors whose first dimension is N; it holds the elapsed steps where there is a time limit.
    """

    observation_space: gymnasium.Space
    """Of ONE environment."""
    action_space: gymnasium.Space
    """Of ONE environment."""
    num_envs: int
    max_episode_steps: int | None
    """The time limit in steps, or None."""
    gymnasium_id: str | None
    """The registered id of what this one reproduces, on which agents are evaluated; None if there is no original."""

    def reset(self, seed: tf.Tensor) -> tuple[Any, Any]:
        """Start N episodes. `seed` is [2] int32. Returns `(state, observation)`."""
        ...

    def step(self, state: Any, action: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Step]:
        """Step N environments, resetting those that ended. `action` is [N, *action]. Returns `(state, Step)`."""
        ...


class Rollout(NamedTuple):
    """A time-major segment of experience: the one record that both collectors fill."""

    observation: Any
    """[T, N, *observation]"""
    action: tf.Tensor
    """[T, N, *action]: as the policy's distribution sampled it (see `ops.distributions`)."""
    log_prob: tf.Tensor
    """[T, N] log π(action | observation) at the time of acting."""
    value: tf.Tensor
    """[T, N] V(observation) at the time of acting; zeros where none is learned (`policy.has_value`)."""
    reward: tf.Tensor
    """[T, N]"""
    terminated: tf.Tensor
    """[T, N] bool"""
    truncated: tf.Tensor
    """[T, N] bool"""
    next_value: tf.Tensor
    """[T, N] V of the true successor: of the final observation after a truncation, 0 after a termination."""
    valid: tf.Tensor
    """[T, N] bool: False on a reset step (NEXT_STEP autoreset) or after an episode's end."""


class Episodes(NamedTuple):
    """The episodes that ended within a rollout."""

    ended: tf.Tensor
    """[T, N] bool: an episode ended at this step; the other fields mean something only where this is True."""
    episode_return: tf.Tensor
    """[T, N] undiscounted sum of rewards, in the environment's own units."""
    episode_length: tf.Tensor
    """[T, N] int32, in environment steps."""


class Batch(NamedTuple):
    """What a policy-gradient loss sees: a rollout with its targets, `[T, N, ...]` or flattened to `[B, ...]`."""

    observation: Any
    """[B, *observation]"""
    action: tf.Tensor
    """[B, *action]: as the policy's distribution sampled it."""
    log_prob: tf.Tensor
    """[B] log π(action | observation) at the time of acting."""
    value: tf.Tensor
    """[B] V(observation) at the time of acting; zeros where none is learned (`policy.has_value`)."""
    advantage: tf.Tensor
    """[B] what weighs the action's log-probability: an advantage or, for some algorithms, a return."""
    value_target: tf.Tensor
    """[B] what V(observation) is to become."""
    weight: tf.Tensor
    """[B] float32, 0 where the rollout is not valid. The learner brings its mean over all replicas' batches to 1."""


class Transitions(NamedTuple):
    """What a Q-learning loss sees: B transitions of n steps each, drawn from a replay."""

    observation: Any
    """[B, *observation]"""
    action: tf.Tensor
    """[B] int."""
    reward: tf.Tensor
    """[B] float32: the discounted sum of the n steps' rewards."""
    discount: tf.Tensor
    """[B] float32: the weight of Q(next_observation): γⁿ, n being smaller where a limit cut the episode within the n
    steps; 0 where the task ended within them."""
    next_observation: Any
    """[B, *observation]: the true successor after the n steps, so the final observation where a limit cut them."""
    weight: tf.Tensor
    """[B] float32 importance weights, the largest of the batch 1; all ones where sampling is uniform."""
    index: tf.Tensor
    """[B] int: places in the replay, by which new priorities are told."""


Metrics = dict[str, tf.Tensor]
"""Scalars by name; the names are the log keys."""


class PolicyAct(Protocol):
    """How a collector asks for actions."""

    def __call__(self, observation: Any, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """`[N, *observation]` and a [2] seed to `(action [N, *action], log_prob [N], value [N])`."""
        ...


class EnvironmentAct(Protocol):
    """How a collector asks for actions where the environment lives outside the graph."""

    def __call__(self, observation: Any, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """As `PolicyAct`, with the action as the environment takes it in second place."""
        ...


class PolicyValue(Protocol):
    """How a collector asks for values."""

    def __call__(self, observation: Any) -> tf.Tensor:
        """`[N, *observation]` to V [N]."""
        ...
