"""Rollouts of Gymnasium and ALE vector environments: a Python loop around a compiled policy."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tensorflow as tf

from kerasrl_pg.collect.episode_counter import EpisodeCounter
from kerasrl_pg.collect.rollout_buffer import RolloutBuffer
from kerasrl_pg.envs.vector_adapter import LONGEST_EPISODE, VectorAdapter
from kerasrl_pg.shared_memory import aligned_empty, as_tensor
from kerasrl_pg.spaces import map_observation
from kerasrl_pg.types import EnvironmentAct, Episodes, PolicyValue, Rollout


class VectorCollector:
    """Fills the same `Rollout` as `TensorCollector`, of NumPy arrays, from environments that live outside the graph.

    Args:
        environment: the vector environment.
        rollout_length: T; None collects whole episodes, one per environment, T being the longest. One that does not end
            within `LONGEST_EPISODE` steps raises a RuntimeError.
        act: `(observation, seed) -> (action, environment's action, log_prob, value)`, compiled, of tensors.
        value: `observation -> V [N]`, compiled; None where the algorithm learns no values.
        seed: of the environments; environment n is seeded by `seed + n`.
    """

    def __init__(
        self,
        environment: VectorAdapter,
        rollout_length: int | None,
        act: EnvironmentAct,
        value: PolicyValue | None,
        seed: int,
    ):
        self.environment = environment
        self.rollout_length = rollout_length
        self.whole_episodes = rollout_length is None
        self._act = act
        self._value = value
        self._seed = seed
        self._resets_before = environment.resets  # of earlier trainings on the same object
        self._observation = environment.reset(seed=seed)
        self._resets = environment.resets
        self._buffer = RolloutBuffer(self._observation, rollout_length)
        self._counter = EpisodeCounter(environment.num_envs)
        self.seconds = {"environment": 0.0, "acting": 0.0, "copying": 0.0}
        """Time spent so far, by what it was spent on."""

    def collect(self, seed: tf.Tensor) -> tuple[Rollout, Episodes]:
        """The next rollout; `seed` [2] int32 is that of its actions.

        Returns:
            `(rollout, episodes)` as NumPy arrays [T, N, ...]; the next rollout overwrites the observations of this one.
        """
        if self.environment.resets != self._resets:
            # An evaluation on the same object ended our episodes, and seeded it with a seed of its own.
            self._begin_anew(self._seed + self.environment.num_envs * (self.environment.resets - self._resets_before))
        elif self.whole_episodes:
            self._begin_anew()
        rows: list[Rollout] = []
        ends: list[Episodes] = []
        alive = np.ones(self.environment.num_envs, bool)  # [N]
        # One seed for each step: cheaper on the host than in a graph.
        seeds = np.random.default_rng(seed.numpy().view(np.uint32))
        step_seed = aligned_empty((2,), np.dtype(np.int32))
        while alive.any() and len(rows) != self.rollout_length:
            started = time.perf_counter()
            self._buffer.write(len(rows), self._observation)
            self.seconds["copying"] += time.perf_counter() - started
            step_seed[:] = seeds.integers(2**31, size=2, dtype=np.int32)
            row, end = self._step(step_seed, alive)
            rows.append(row)
            ends.append(end)
            if self.whole_episodes:
                alive = alive & ~end.ended
                self._check_end(alive)
        started = time.perf_counter()
        rollout = Rollout(*(_stack(column) for column in zip(*rows, strict=True)))
        rollout = rollout._replace(observation=self._buffer.read(len(rows)))
        episodes = Episodes(*(_stack(column) for column in zip(*ends, strict=True)))
        self.seconds["copying"] += time.perf_counter() - started
        return self._with_following_values(rollout), episodes

    def _check_end(self, alive: np.ndarray) -> None:
        if (self._counter.episode_length[alive] >= LONGEST_EPISODE).any():
            raise RuntimeError(
                f"an episode did not end within {LONGEST_EPISODE:,} steps, and whole episodes are collected: give the "
                "environment a time limit, such as gymnasium.wrappers.TimeLimit"
            )

    def _begin_anew(self, seed: int | None = None) -> None:
        self._observation = self.environment.reset(seed=seed)
        self._resets = self.environment.resets
        self._counter.begin_anew()

    def _step(self, seed: np.ndarray, alive: np.ndarray) -> tuple[Rollout, Episodes]:
        started = time.perf_counter()
        observation = self._observation
        action, env_action, log_prob, value = (x.numpy() for x in self._act(_tensors(observation), as_tensor(seed)))
        acted = time.perf_counter()
        step, valid = self.environment.step(env_action)
        stepped = time.perf_counter()
        bootstrap = step.truncated & ~step.terminated  # [N]
        final_value = np.zeros_like(step.reward)
        if self._value is not None and bootstrap.any():
            final_value = self._value(_tensors(step.final_observation)).numpy()
        self.seconds["environment"] += stepped - acted
        self.seconds["acting"] += acted - started + time.perf_counter() - stepped

        end = self._counter.count(step, valid)
        row = Rollout(
            (),  # the observation is in the buffer
            action,
            log_prob,
            value,
            step.reward,
            step.terminated,
            step.truncated,
            final_value,
            valid & alive,
        )
        self._observation = step.observation
        return row, end._replace(ended=end.ended & alive)

    def _with_following_values(self, rollout: Rollout) -> Rollout:
        if self._value is None:
            return rollout
        started = time.perf_counter()
        last_value = self._value(_tensors(self._observation)).numpy()[None]  # [1, N]
        self.seconds["acting"] += time.perf_counter() - started
        following = np.concatenate([rollout.value[1:], last_value])  # [T, N]
        next_value = np.where(rollout.truncated, rollout.next_value, following)
        return rollout._replace(next_value=np.where(rollout.terminated, np.float32(0), next_value))


def _tensors(observation: Any) -> Any:
    return map_observation(as_tensor, observation)


def _stack(column: Any) -> Any:
    """A list of T structures of [N, ...] arrays as one structure of [T, N, ...] arrays."""
    return map_observation(lambda *leaves: np.stack(leaves), *column)
