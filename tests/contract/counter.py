"""One environment without chance, written twice, and a policy whose exact values are known.

A counter starts at 0. Action 0 adds 1 to it, action 1 adds 2; the reward is half the count before, minus the action.
From `GOAL` on the task is over, and after `LIMIT` steps an episode is cut. Every environment has a *phase*, which
the policy reads, so that episodes end in every way:

| phase | actions | count | ending |
|---|---|---|---|
| 0 | 1 1 1 1 | 2 4 6 8 | terminated after 4 steps |
| 1 | 0 0 0 0 0 | 1 2 3 4 5 | truncated after 5 steps |
| 2 | 1 1 0 0 0 | 2 4 5 6 7 | terminated and truncated, both after 5 steps |

All numbers are sums of few powers of two, which float32 holds exactly.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from kerasrl_pg.collect import TensorCollector, VectorCollector
from kerasrl_pg.envs.tensor_env import auto_reset
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.types import Episodes, Rollout, Step

GOAL, LIMIT, PHASES = 7, 5, 3
DISCOUNT = 0.5
VALUE_OF_THE_END = 99.0
"""What the critic says of a finished task: nobody may ask, and who does gets it wrong by far."""

FLAT = spaces.Box(0, 9, (3,), np.float32)
PARTS = spaces.Dict({"phase": spaces.Discrete(PHASES), "clock": spaces.Box(0, 9, (2,), np.float32)})


def actions_of(phase: int, count: int) -> int:
    """What the policy does."""
    return {0: 1, 1: 0, 2: int(count < 4)}[phase]


def exact_values() -> np.ndarray:
    """[phase, count] discounted return of the policy if no limit cuts the episode."""
    values = np.full((PHASES, GOAL + 2), 0.0, np.float32)
    for phase in range(PHASES):
        for count in reversed(range(GOAL)):
            action = actions_of(phase, count)
            values[phase, count] = 0.5 * count - action + DISCOUNT * values[phase, count + 1 + action]
    values[:, GOAL:] = VALUE_OF_THE_END
    return values


ACTIONS = np.array([[actions_of(phase, count) for count in range(GOAL + 2)] for phase in range(PHASES)], np.int32)
VALUES = exact_values()


class CounterGraph:
    """As a `TensorEnv`, one environment of each phase."""

    action_space: spaces.Space = spaces.Discrete(2)
    num_envs: int = PHASES
    max_episode_steps: int | None = LIMIT
    gymnasium_id: str | None = None

    def __init__(self, observation_space: spaces.Space = FLAT):
        self.observation_space: spaces.Space = observation_space

    def reset(self, seed: tf.Tensor) -> tuple[Any, Any]:
        state = tf.zeros([PHASES], tf.int32), tf.zeros([PHASES], tf.int32)  # (count, elapsed), each [N]
        return state, self._observation(*state)

    def step(self, state: Any, action: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Step]:
        action = tf.cast(action, tf.int32)
        reward = 0.5 * tf.cast(state[0], tf.float32) - tf.cast(action, tf.float32)
        count, elapsed = state[0] + 1 + action, state[1] + 1
        terminated, truncated = count >= GOAL, elapsed >= LIMIT
        final_observation = self._observation(count, elapsed)
        state, observation = auto_reset(terminated | truncated, self.reset(seed), ((count, elapsed), final_observation))
        return state, Step(observation, reward, terminated, truncated, final_observation)

    def _observation(self, count: tf.Tensor, elapsed: tf.Tensor) -> Any:
        phase = tf.range(PHASES)
        clock = tf.cast(tf.stack([count, elapsed], axis=1), tf.float32)  # [N, 2]
        if self.observation_space == FLAT:
            return tf.concat([tf.cast(phase, tf.float32)[:, None], clock], axis=1)  # [N, 3]
        return {"phase": phase, "clock": clock}


class Counter(gymnasium.Env):
    """As a Gymnasium environment, which is also free to write all its observations into one buffer."""

    action_space = spaces.Discrete(2)

    def __init__(self, phase: int, observation_space: spaces.Space = FLAT, reuses_buffer: bool = False):
        self.phase = phase
        self.observation_space = observation_space
        self.reuses_buffer = reuses_buffer
        self.buffer = np.zeros(3, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.count, self.elapsed = 0, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        reward = 0.5 * self.count - float(action)
        self.count += 1 + int(action)
        self.elapsed += 1
        return self._observation(), reward, self.count >= GOAL, self.elapsed >= LIMIT, {}

    def _observation(self) -> Any:
        if self.observation_space == PARTS:
            return {"phase": self.phase, "clock": np.array([self.count, self.elapsed], np.float32)}
        self.buffer[:] = self.phase, self.count, self.elapsed
        return self.buffer if self.reuses_buffer else self.buffer.copy()


def counters(mode: AutoresetMode, observation_space: spaces.Space = FLAT) -> SyncVectorEnv:
    """A Gymnasium vector environment of one counter of each phase."""
    makers = [lambda phase=phase: Counter(phase, observation_space) for phase in range(PHASES)]
    return SyncVectorEnv(makers, autoreset_mode=mode)


def act(observation: Any, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The policy: `(action, log_prob, value)`, each [N]; the log-probability stands in for a real one."""
    phase_and_count = _phase_and_count(observation)
    log_prob = -0.25 * tf.cast(phase_and_count[:, 1], tf.float32)
    return tf.gather_nd(ACTIONS, phase_and_count), log_prob, value(observation)


def value(observation: Any) -> tf.Tensor:
    """The exact value function, [N]."""
    return tf.gather_nd(VALUES, _phase_and_count(observation))


def collect_in_graph(
    length: int | None,
    *,
    rollouts: int = 1,
    critic: Any = value,
    jit_compile: bool = False,
    observation_space: spaces.Space = FLAT,
) -> tuple[Rollout, Episodes]:
    """Consecutive rollouts of `CounterGraph`, as one, of NumPy arrays."""
    collector = TensorCollector(CounterGraph(observation_space), length)
    collect = tf.function(
        lambda carry: collector.collect(carry, act, critic, tf.constant([0, 1])), jit_compile=jit_compile
    )
    carry = collector.start(tf.constant([0, 0]))
    parts = []
    for _ in range(rollouts):
        carry, *part = collect(carry)
        parts.append(tuple(part))
    return joined(tf.nest.map_structure(lambda x: x.numpy(), parts))


def collect_from(
    environment: gymnasium.vector.VectorEnv, length: int | None, *, rollouts: int = 1, critic: Any = value
) -> tuple[Rollout, Episodes]:
    """Consecutive rollouts of a vector environment, as one."""

    def act_in_environment(observation, seed):
        action, log_prob, observation_value = act(observation, seed)
        return action, tf.cast(action, tf.int64), log_prob, observation_value

    collector = VectorCollector(VectorAdapter(environment), length, act_in_environment, critic, seed=0)
    seeds = [tf.constant([0, time]) for time in range(rollouts)]
    return joined([tf.nest.map_structure(np.copy, collector.collect(seed)) for seed in seeds])


def joined(parts: list) -> tuple[Rollout, Episodes]:
    """Rollouts one after the other in time."""
    return tf.nest.map_structure(lambda *leaves: np.concatenate(leaves), *parts)


def rows_of(tree: Any, phase: int, chosen: np.ndarray) -> Any:
    """[T, N, ...] -> [rows, ...]: one environment at the chosen times."""
    return tf.nest.map_structure(lambda leaf: leaf[chosen[:, phase], phase], tree)


def _phase_and_count(observation: Any) -> tf.Tensor:
    """[N, 2] int32."""
    if isinstance(observation, dict):
        columns = [tf.cast(observation["phase"], tf.int32), tf.cast(observation["clock"][:, 0], tf.int32)]
        return tf.stack(columns, axis=1)  # [N, 2]
    return tf.cast(observation[:, :2], tf.int32)
