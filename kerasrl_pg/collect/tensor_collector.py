"""Rollouts of an environment that is itself a graph: the whole unroll is one compiled loop."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from kerasrl_pg import ops, seeding
from kerasrl_pg.types import Episodes, PolicyAct, PolicyValue, Rollout, Step, TensorEnv


class Carry(NamedTuple):
    """What one rollout hands to the next."""

    state: Any
    """The environment's state."""
    observation: Any
    """[N, *observation] from which the next action is chosen."""
    episode_return: tf.Tensor
    """[N] sum of rewards since each episode began."""
    episode_length: tf.Tensor
    """[N] int32 steps since each episode began."""

    def after(self, state: Any, step: Step) -> tuple[Carry, Episodes]:
        """The carry after a step that led to `state`, and what the step says of episodes, `[N]` each."""
        ended = step.terminated | step.truncated  # [N]
        episode_return, episode_length = self.episode_return + step.reward, self.episode_length + 1
        carry = Carry(state, step.observation, tf.where(ended, 0.0, episode_return), tf.where(ended, 0, episode_length))
        return carry, Episodes(ended, episode_return, episode_length)


class TensorCollector:
    """Fills a `Rollout` from a `TensorEnv`. Pure: to be called inside a `tf.function`, compiled by XLA or not.

    Args:
        environment: N copies of an environment.
        rollout_length: T; None collects whole episodes, one per environment, T being the environment's time limit.

    Raises:
        ValueError: whole episodes of an environment that has no time limit.
    """

    def __init__(self, environment: TensorEnv, rollout_length: int | None):
        length = rollout_length or environment.max_episode_steps
        if length is None:
            raise ValueError(
                f"whole episodes need an environment with a time limit; max_episode_steps of {environment} is None"
            )
        self.environment = environment
        self.length = length
        self.whole_episodes = rollout_length is None

    def start(self, seed: tf.Tensor) -> Carry:
        """The carry before the first rollout; `seed` is [2] int32."""
        state, observation = self.environment.reset(seed)
        num_envs = self.environment.num_envs
        return Carry(state, observation, tf.zeros([num_envs]), tf.zeros([num_envs], tf.int32))

    def collect(
        self, carry: Carry, act: PolicyAct, value: PolicyValue | None, seed: tf.Tensor
    ) -> tuple[Carry, Rollout, Episodes]:
        """T steps of N environments.

        Args:
            carry: from `start` or the last `collect`; whole episodes begin anew and do not read it.
            act: chooses actions.
            value: values final observations; None where the algorithm learns no values.
            seed: [2] int32, of this rollout.

        Returns:
            `(carry, rollout, episodes)`.
        """
        length = self.length
        reset_seed, seed = seeding.split(seed, 2)
        if self.whole_episodes:
            carry = self.start(reset_seed)
        seeds = seeding.seeds_of_steps(seed, [length, 2])  # [T, (act, step), 2]
        alive = tf.ones([self.environment.num_envs], tf.bool)  # [N]

        def step(t, carry, alive, arrays):
            next_carry, ended, row = self._step(carry, alive, act, value, seeds[t])
            arrays = [array.write(t, leaf) for array, leaf in zip(arrays, tf.nest.flatten(row), strict=True)]
            return t + 1, next_carry, alive & ~ended if self.whole_episodes else alive, arrays

        row_spec = self._row_spec(carry)
        arrays = [tf.TensorArray(spec.dtype, length, element_shape=spec.shape) for spec in tf.nest.flatten(row_spec)]
        _, carry, _, arrays = tf.while_loop(
            lambda t, _carry, alive, _arrays: (t < length) & tf.reduce_any(alive),
            step,
            (0, carry, alive, arrays),
        )
        rows = tf.nest.pack_sequence_as(row_spec, [array.stack() for array in arrays])  # [T, N, ...]
        return carry, *self._assemble(rows, carry, value)

    def _step(self, carry: Carry, alive: tf.Tensor, act: PolicyAct, value: PolicyValue | None, seeds: tf.Tensor):
        action, log_prob, observation_value = act(carry.observation, seeds[0])
        env_action = ops.to_environment(self.environment.action_space, action)
        state, step = self.environment.step(carry.state, env_action, seeds[1])
        next_carry, episodes = carry.after(state, step)
        bootstrap = step.truncated & ~step.terminated  # [N]
        if value is None:
            final_value = tf.zeros_like(step.reward)
        else:
            # Most steps truncate nothing, and the critic's forward pass is then not run.
            final_value = tf.cond(
                tf.reduce_any(bootstrap),
                lambda: value(step.final_observation),
                lambda: tf.zeros_like(step.reward),
            )
        row = (
            Rollout(
                carry.observation, action, log_prob, observation_value, step.reward, step.terminated, step.truncated,
                final_value, alive,
            ),
            episodes._replace(ended=episodes.ended & alive),
        )  # fmt: skip
        return next_carry, episodes.ended, row

    def _assemble(self, rows: tuple[Rollout, Episodes], carry: Carry, value: PolicyValue | None):
        rollout, episodes = rows
        if value is not None:
            last_value = value(carry.observation)[None]  # [1, N]
            following = tf.concat([rollout.value[1:], last_value], axis=0)  # [T, N]
            next_value = tf.where(rollout.truncated, rollout.next_value, following)
            rollout = rollout._replace(next_value=tf.where(rollout.terminated, 0.0, next_value))
        return rollout, episodes

    def _row_spec(self, carry: Carry):
        """Shapes and types of one row, which a compiled loop needs beforehand."""
        num_envs = self.environment.num_envs
        action = ops.action_spec(self.environment.action_space, num_envs)
        spec = lambda dtype: tf.TensorSpec([num_envs], dtype)  # noqa: E731
        observation = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), carry.observation)
        return (
            Rollout(
                observation, action, spec(tf.float32), spec(tf.float32), spec(tf.float32), spec(tf.bool),
                spec(tf.bool), spec(tf.float32), spec(tf.bool),
            ),
            Episodes(spec(tf.bool), spec(tf.float32), spec(tf.int32)),
        )  # fmt: skip
