"""How an update is run: as one compiled program for graph environments, or around a Python loop for the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kerasrl_pg import ops, seeding
from kerasrl_pg.agent import Agent
from kerasrl_pg.collect import TensorCollector, VectorCollector
from kerasrl_pg.collect.tensor_collector import Carry
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.learner import MOST_METRICS, layers_of, pack_metrics, unpack_metrics
from kerasrl_pg.spaces import map_space, tensor_dtype
from kerasrl_pg.types import Episodes, Metrics, PolicyAct, PolicyValue, Rollout, TensorEnv

SEED = tf.TensorSpec([2], tf.int32)


class Report(NamedTuple):
    """What some updates did."""

    metrics: dict[str, np.ndarray]
    """[updates] by name."""
    steps: np.ndarray
    """[updates] environment steps that each update learned from."""
    episodes: Episodes
    """[updates, T, N] arrays."""
    seconds: dict[str, float]
    """Wall-clock time by what it was spent on."""


class GraphEngine:
    """Collects and learns in one compiled program, several updates a call.

    Args:
        agent: the agent.
        environment: N copies of an environment as graphs.
        updates_per_call: most updates in one call.
        jit_compile: compile with XLA; not under a strategy, where the update cannot be.
    """

    def __init__(self, agent: Agent, environment: TensorEnv, updates_per_call: int, jit_compile: bool):
        self.agent = agent
        self.updates_per_call = updates_per_call
        self.collector = TensorCollector(environment, agent.algorithm.rollout_length)
        self._names: list[str] = []
        self._act, self._value = _policy_functions(agent)
        self._collect = tf.function(self.collector.collect, jit_compile=jit_compile, autograph=False)
        self._jit_compile = jit_compile
        fused = jit_compile and agent.strategy is None
        self._iterate = tf.function(self._iterations, jit_compile=fused, autograph=False)
        start_seed, self._seed = seeding.split(seeding.make_seed(agent.seed), 2)
        self.carry: Carry = self.collector.start(agent.learner.worker_seed(start_seed))
        stored = agent.environment_state
        # That of another number of environments does not fit: they begin anew.
        if stored is not None and [x.shape for x in stored] == [x.shape for x in tf.nest.flatten(self.carry)]:
            self.carry = tf.nest.pack_sequence_as(self.carry, [tf.constant(x) for x in stored])
        self._program: Callable | None = None
        self._seconds_per_round: dict[str, float] | None = None

    def most_updates(self, steps: int) -> int:
        """How many updates one `run` may do where `steps` environment steps are left: only the last may pass them."""
        num_envs = self.collector.environment.num_envs * self.agent.learner.num_workers
        steps_per_update = self.collector.length * num_envs  # whole episodes take fewer
        return min(self.updates_per_call, -(-steps // steps_per_update))

    def run(self, updates: int) -> Report:
        """The next `updates` updates, at most `updates_per_call`."""
        started = time.perf_counter()
        first, count = tf.constant(self.agent.updates), tf.constant(updates)
        if self._program is None:
            self._program = self._iterate.get_concrete_function(self.carry, first, count, tf.constant(True))
        carry, packed, episodes = self._program(self.carry, first, count, tf.constant(True))
        metrics = unpack_metrics(packed.numpy()[:updates], self._names)
        elapsed = time.perf_counter() - started
        episodes = Episodes(*(x.numpy()[:updates] for x in episodes))
        rounds = self._rounds(episodes)
        if self._seconds_per_round is None:
            self._seconds_per_round = self._measure(first, count, rounds)
        self.carry = carry
        self.agent.environment_state = [x.numpy() for x in tf.nest.flatten(carry)]
        seconds = {name: rounds * value for name, value in self._seconds_per_round.items()}
        seconds["learning"] = max(0.0, elapsed - sum(seconds.values()))
        seconds = {name: value * elapsed / sum(seconds.values()) for name, value in seconds.items()}
        steps = metrics.pop("steps").astype(int)
        return Report(metrics, steps, episodes, seconds)

    def _rounds(self, episodes: Episodes) -> int:
        """How often all environments were stepped; whole episodes end with the longest."""
        updates, length, _ = episodes.ended.shape
        if not self.collector.whole_episodes:
            return updates * length
        ended = episodes.ended.any(axis=2)  # [updates, T]
        return int((length - ended[:, ::-1].argmax(axis=1)).sum())

    def _measure(self, first: tf.Tensor, updates: tf.Tensor, rounds: int) -> dict[str, float]:
        """Seconds per round of the environment and of acting, which one program does not tell apart.

        Timed once, the best of three: the same program on the same updates without learning, then the environment's
        steps alone.
        """
        environment_steps = tf.function(self._environment_steps, jit_compile=self._jit_compile, autograph=False)
        environment_steps(self.carry.state, tf.constant(rounds))  # compiles
        collecting = _best_seconds(lambda: self._iterate(self.carry, first, updates, tf.constant(False))[1].numpy())
        environment = _best_seconds(lambda: environment_steps(self.carry.state, tf.constant(rounds)).numpy())
        return {"environment": environment / rounds, "acting": max(0.0, collecting - environment) / rounds}

    def _environment_steps(self, state: Any, rounds: tf.Tensor) -> tf.Tensor:
        environment = self.collector.environment
        spec = ops.action_spec(environment.action_space, environment.num_envs)
        action = ops.to_environment(environment.action_space, tf.zeros(spec.shape, spec.dtype))

        def step(i, state, total):
            state, step = environment.step(state, action, seeding.fold_in(self._seed, i))
            return i + 1, state, total + tf.reduce_sum(step.reward)

        return tf.while_loop(lambda i, *_: i < rounds, step, (0, state, 0.0))[2]

    def _iterations(self, carry: Carry, first: tf.Tensor, updates: tf.Tensor, learn: tf.Tensor):
        num_envs = self.collector.environment.num_envs
        length = self.collector.length
        array = lambda dtype, shape: tf.TensorArray(dtype, self.updates_per_call, element_shape=shape)  # noqa: E731
        episodes = Episodes(*(array(dtype, [length, num_envs]) for dtype in (tf.bool, tf.float32, tf.int32)))

        def one(i, carry, metrics, episodes):
            act_seed, update_seed = seeding.split(seeding.fold_in(self._seed, first + i), 2)
            act_seed = self.agent.learner.worker_seed(act_seed)
            carry, rollout, ended = self._collect(carry, self._act, self._value, act_seed)
            row = tf.cond(
                learn,
                lambda: pack_metrics(_update(self.agent, rollout, update_seed), self._names),
                lambda: tf.zeros([MOST_METRICS]),
            )
            return (
                i + 1,
                carry,
                metrics.write(i, row),
                Episodes(*(a.write(i, x) for a, x in zip(episodes, ended, strict=True))),
            )

        _, carry, metrics, episodes = tf.while_loop(
            lambda i, *_: i < updates, one, (0, carry, array(tf.float32, [MOST_METRICS]), episodes)
        )
        return carry, metrics.stack(), Episodes(*(a.stack() for a in episodes))


class VectorEngine:
    """Collects in a Python loop around a compiled policy, then learns in one compiled call.

    Args:
        agent: the agent.
        environment: N environments outside the graph.
        clip_reward: learn from the sign of the reward.
        jit_compile: compile the policy and the update with XLA; not under a strategy.
    """

    def __init__(self, agent: Agent, environment: VectorAdapter, clip_reward: bool, jit_compile: bool):
        self.agent = agent
        self._clip_reward = clip_reward
        act, value = _policy_functions(agent)
        env_seed, seed = seeding.integers(agent.seed, 2)
        self._seed = seeding.make_seed(seed)
        env_seed = int(agent.learner.worker_seed(seeding.make_seed(env_seed))[0])

        def act_in_environment(observation, seed):
            action, log_prob, observation_value = act(observation, seed)
            return action, ops.to_environment(agent.action_space, action), log_prob, observation_value

        self._names: list[str] = []

        def update(rollout, seed):
            return pack_metrics(_update(agent, rollout, seed), self._names)

        # Whole episodes differ in length from one rollout to the next: one trace serves them all, XLA would not.
        length = agent.algorithm.rollout_length
        fuse = jit_compile and length is not None and agent.strategy is None
        rollout = _rollout_spec(agent, length, environment.num_envs)
        observation = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape[1:], x.dtype), rollout.observation)
        self._update = _compiled(update, rollout, SEED, jit_compile=fuse)
        self.collector = VectorCollector(
            environment,
            length,
            _compiled(act_in_environment, observation, SEED, jit_compile=jit_compile),
            value and _compiled(value, observation, jit_compile=jit_compile),
            env_seed & 0x3FFFFFFF,
        )

    def most_updates(self, steps: int) -> int:
        """One update a call."""
        return 1

    def run(self, updates: int) -> Report:
        """The next update."""
        before = dict(self.collector.seconds)
        act_seed, update_seed = seeding.split(seeding.fold_in(self._seed, self.agent.updates), 2)
        rollout, episodes = self.collector.collect(self.agent.learner.worker_seed(act_seed))
        started = time.perf_counter()
        if self._clip_reward:
            rollout = rollout._replace(reward=np.sign(rollout.reward))
        rollout = tf.nest.map_structure(tf.constant, rollout)
        packed = self._update(rollout, update_seed).numpy()
        seconds = {name: self.collector.seconds[name] - before[name] for name in before}
        seconds["learning"] = time.perf_counter() - started
        episodes = Episodes(*(x[None] for x in episodes))
        metrics = unpack_metrics(packed[None], self._names)
        steps = metrics.pop("steps").astype(int)
        return Report(metrics, steps, episodes, seconds)


def uses_xla(model: keras.Model) -> bool:
    """Whether XLA pays: on a CPU it makes small perceptrons faster and convolutions slower."""
    convolutions = layers_of(model, keras.layers.Conv1D | keras.layers.Conv2D | keras.layers.Conv3D)
    return not convolutions or bool(tf.config.list_logical_devices("GPU"))


def _compiled(function: Callable, *specs: Any, jit_compile: bool) -> Callable:
    """`function` as its one trace: calling that takes half the time of finding it anew each time."""
    return tf.function(function, autograph=False, jit_compile=jit_compile).get_concrete_function(*specs)


def _zeros(spec: tf.TensorSpec) -> tf.Tensor:
    return tf.zeros(spec.shape, spec.dtype)


def _best_seconds(call: Callable[[], Any], repeats: int = 3) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _policy_functions(agent: Agent) -> tuple[PolicyAct, PolicyValue | None]:
    def act(observation, seed):
        distribution, value = agent.policy(observation)
        action = ops.sample(agent.action_space, distribution, seed)
        return action, distribution.log_prob(action), value

    def value(observation):
        return agent.policy(observation).value

    return act, value if agent.policy.has_value else None


def _update(agent: Agent, rollout: Rollout, seed: tf.Tensor) -> Metrics:
    metrics = agent.algorithm.update(agent.learner, rollout, seed)
    agent.learner.update_observation_statistics(rollout)
    rate = tf.cast(tf.convert_to_tensor(agent.optimizer.learning_rate), tf.float32)
    return {**metrics, "learning_rate": rate, "steps": agent.learner.count_steps(rollout)}


def _rollout_spec(agent: Agent, length: int | None, num_envs: int) -> Rollout:
    spec = lambda dtype: tf.TensorSpec([length, num_envs], dtype)  # noqa: E731
    action = ops.action_spec(agent.action_space, num_envs)
    return Rollout(
        observation=map_space(
            lambda leaf: tf.TensorSpec([length, num_envs, *leaf.shape], tensor_dtype(leaf)),
            agent.observation_space,
        ),
        action=tf.TensorSpec([length, *action.shape], action.dtype),
        log_prob=spec(tf.float32),
        value=spec(tf.float32),
        reward=spec(tf.float32),
        terminated=spec(tf.bool),
        truncated=spec(tf.bool),
        next_value=spec(tf.float32),
        valid=spec(tf.bool),
    )
