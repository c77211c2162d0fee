"""On-policy updates: collect a rollout with the current policy, learn from it, forget it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tensorflow as tf

from kerasrl_pg import ops, seeding
from kerasrl_pg.agent import Agent
from kerasrl_pg.collect import TensorCollector, VectorCollector
from kerasrl_pg.collect.memory import check_rollout_memory
from kerasrl_pg.collect.tensor_collector import Carry
from kerasrl_pg.direct_calls import compiled
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.metrics import pack_metrics, unpack_metrics
from kerasrl_pg.shared_memory import shared_tensor
from kerasrl_pg.spaces import map_observation, map_space, tensor_dtype
from kerasrl_pg.training.graph_engine import SEED, Report
from kerasrl_pg.types import Episodes, Metrics, PolicyAct, PolicyValue, Rollout, TensorEnv


class OnPolicyProgram:
    """An update in a graph environment; see `graph_engine.Program`.

    Args:
        agent: the agent.
        environment: N copies of an environment as graphs.
        jit_compile: compile the collection with XLA; the update cannot be, under a strategy.
    """

    updates_before_learning = 0

    def __init__(self, agent: Agent, environment: TensorEnv, jit_compile: bool):
        self.environment = environment
        self._agent = agent
        self._collector = TensorCollector(environment, agent.algorithm.rollout_length)
        self.length = self._collector.length
        self._act, self._value = _policy_functions(agent)
        self._collect = tf.function(self._collector.collect, jit_compile=jit_compile, autograph=False)

    def start(self, seed: tf.Tensor) -> Carry:
        """Environments at the start of their episodes."""
        return self._collector.start(seed)

    def collect(self, carry: Carry, number: tf.Tensor, seed: tf.Tensor) -> tuple[Carry, Rollout, Episodes, tf.Tensor]:
        """A rollout."""
        carry, rollout, episodes = self._collect(carry, self._act, self._value, seed)
        return carry, rollout, episodes, self._agent.learner.count_steps(rollout)

    def learn(self, carry: Carry, rollout: Rollout, number: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Metrics]:
        """The algorithm's update; what is carried does not change."""
        return (), _update(self._agent, rollout, seed)

    def learned(self, carry: Carry, changed: Any) -> Carry:
        """The carry itself."""
        return carry

    def unchanged(self, carry: Carry) -> Any:
        """Nothing."""
        return ()

    def rounds(self, ended: np.ndarray) -> int:
        """T for each update; whole episodes end with the longest."""
        updates, length, _ = ended.shape
        if not self._collector.whole_episodes:
            return updates * length
        any_ended = np.any(ended, axis=2)  # [updates, T]
        return int((length - any_ended[:, ::-1].argmax(axis=1)).sum())


class OnPolicyEngine:
    """Collects in a Python loop around a compiled policy, then learns in one compiled call.

    Args:
        agent: the agent.
        environment: N environments outside the graph.
        clip_reward: learn from the sign of the reward.
        jit_compile: compile with XLA; the update cannot be, under a strategy.
    """

    def __init__(self, agent: Agent, environment: VectorAdapter, clip_reward: bool, jit_compile: bool):
        self.agent = agent
        self._environment = environment
        self._clip_reward = clip_reward
        act, value = _policy_functions(agent)

        def act_in_environment(observation, seed):
            action, log_prob, observation_value = act(observation, seed)
            return action, ops.to_environment(agent.action_space, action), log_prob, observation_value

        self._names: list[str] = []

        def update(rollout, seed):
            return pack_metrics(_update(agent, rollout, seed), self._names), agent.learner.count_steps(rollout)

        # Whole episodes differ in length from one rollout to the next: one trace serves them all, XLA would not.
        length = agent.algorithm.rollout_length
        fuse = jit_compile and length is not None and agent.strategy is None
        rollout = _rollout_spec(agent, length, environment.num_envs)
        if length is not None:
            nbytes = sum(spec.shape.num_elements() * spec.dtype.size for spec in tf.nest.flatten(rollout))
            check_rollout_memory(nbytes, length, environment.num_envs)
        observation = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape[1:], x.dtype), rollout.observation)
        self._update = compiled(update, rollout, SEED, jit_compile=fuse)
        self._act = compiled(act_in_environment, observation, SEED, jit_compile=jit_compile)
        self._value = value and compiled(value, observation, jit_compile=jit_compile)
        self.restart()

    def restart(self) -> None:
        """Begin new episodes, seeded by the agent's seed."""
        self._seed = seeding.make_seed(seeding.integers(self.agent.seed, 2)[1])
        length = self.agent.algorithm.rollout_length
        seed = self.agent.environment_seed()
        self.collector = VectorCollector(self._environment, length, self._act, self._value, seed)

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
        rollout = rollout._replace(observation=map_observation(shared_tensor, rollout.observation))
        rollout = tf.nest.map_structure(tf.constant, rollout)
        copied = time.perf_counter()
        packed, steps = (x.numpy() for x in self._update(rollout, update_seed))
        seconds = {name: self.collector.seconds[name] - before[name] for name in before}
        seconds["copying"] += copied - started
        seconds["learning"] = time.perf_counter() - copied
        episodes = Episodes(*(x[None] for x in episodes))
        metrics = unpack_metrics(packed[None], self._names)
        return Report(metrics, steps[None].astype(int), episodes, seconds)


def _policy_functions(agent: Agent) -> tuple[PolicyAct, PolicyValue | None]:
    policy = agent.learner.policy
    with_dropout = getattr(agent.algorithm, "dropout_while_acting", False)

    def act(observation, seed):
        distribution, value = policy.explore(observation, seed) if with_dropout else policy(observation)
        action = ops.sample(agent.action_space, distribution, seed)
        return action, distribution.log_prob(action), value

    def value(observation):
        return policy(observation).value

    return act, value if policy.has_value else None


def _update(agent: Agent, rollout: Rollout, seed: tf.Tensor) -> Metrics:
    agent.learner.policy.reseed(seed)
    metrics = agent.algorithm.update(agent.learner, rollout, seed)
    agent.learner.update_observation_statistics(rollout)
    return {**metrics, "learning_rate": agent.learner.learning_rate()}


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
