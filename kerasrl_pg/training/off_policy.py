"""Off-policy updates: some steps into a replay, some gradient steps on what is drawn from it."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kerasrl_pg import ops, seeding
from kerasrl_pg.agent import Agent
from kerasrl_pg.collect.episode_counter import EpisodeCounter
from kerasrl_pg.collect.graph_replay import GraphReplay, ReplayState
from kerasrl_pg.collect.replay import Replay
from kerasrl_pg.collect.replay_checks import check_room
from kerasrl_pg.collect.samplers import PrioritizedSampler, UniformSampler
from kerasrl_pg.collect.tensor_collector import Carry
from kerasrl_pg.direct_calls import compiled
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.metrics import MOST_METRICS, pack_metrics, unpack_metrics
from kerasrl_pg.shared_memory import as_tensor, shared_tensor
from kerasrl_pg.spaces import map_observation, map_space, tensor_dtype
from kerasrl_pg.training.graph_engine import SEED, Report
from kerasrl_pg.types import Episodes, Metrics, TensorEnv, Transitions


class QCarry(NamedTuple):
    """What one update hands to the next."""

    environment: Carry
    replay: ReplayState


class OffPolicyProgram:
    """An update in a graph environment, the replay in the graph as well; see `graph_engine.Program`.

    Args:
        agent: the agent.
        environment: N copies of an environment as graphs.
    """

    def __init__(self, agent: Agent, environment: TensorEnv):
        algorithm = agent.algorithm
        self.environment = environment
        self.length = algorithm.rollout_length
        self._agent = agent
        self._steps_per_update = _steps_per_update(agent, environment.num_envs)
        self._before = agent.steps, agent.updates  # of which some may have been with more environments, or fewer
        rows = math.ceil(algorithm.batch_size / environment.num_envs) + algorithm.n_step - 1  # of a whole batch
        self.updates_before_learning = max(
            math.ceil(algorithm.learning_starts / self._steps_per_update), math.ceil(rows / self.length) - 1
        )
        self._replay = GraphReplay(
            environment.observation_space,
            environment.num_envs,
            algorithm.replay_size,
            n_step=algorithm.n_step,
            discount=algorithm.discount,
            prioritized=algorithm.sampler and (algorithm.sampler.exponent, algorithm.sampler.offset),
        )
        check_room(algorithm.replay_size, self._replay.most, algorithm.batch_size)

    def start(self, seed: tf.Tensor) -> QCarry:
        """Environments at the start of their episodes, and an empty replay."""
        state, observation = self.environment.reset(seed)
        num_envs = self.environment.num_envs
        environment = Carry(state, observation, tf.zeros([num_envs]), tf.zeros([num_envs], tf.int32))
        return QCarry(environment, self._replay.empty())

    def collect(self, carry: QCarry, number: tf.Tensor, seed: tf.Tensor) -> tuple[QCarry, Any, Episodes, tf.Tensor]:
        """T steps of N environments, ε-greedily, into the replay."""
        seeds = seeding.seeds_of_steps(seed, [self.length, 2])  # [T, (act, step), 2]
        epsilon = self._agent.learner.scheduled(self._agent.algorithm.epsilon, self._steps_at(number))
        shape = [self.environment.num_envs]
        rows = [tf.TensorArray(dtype, self.length, element_shape=shape) for dtype in (tf.bool, tf.float32, tf.int32)]

        def step(t, carry, rows):
            carry, ended = self._step(carry, epsilon, seeds[t])
            return t + 1, carry, [array.write(t, row) for array, row in zip(rows, ended, strict=True)]

        _, carry, rows = tf.while_loop(lambda t, *_: t < self.length, step, (0, carry, rows))
        steps = tf.constant(float(self._steps_per_update))
        return carry, (), Episodes(*(array.stack() for array in rows)), steps

    def learn(self, carry: QCarry, experience: Any, number: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Metrics]:
        """Gradient steps, each on a batch of its own; only the priorities of what is carried change."""
        algorithm, names = self._agent.algorithm, list[str]()
        self._agent.learner.policy.reseed(seed)
        importance = _importance_exponent(self._agent, self._steps_at(number))

        def gradient_step(i, changed, total):
            replay = self.learned(carry, changed).replay
            batch = self._replay.sample(replay, algorithm.batch_size, seeding.fold_in(seed, i), importance)
            metrics, error = algorithm.update(self._agent.q_learner, batch)
            replay = self._replay.update_priorities(replay, batch.index, error)
            return i + 1, self.unchanged(carry._replace(replay=replay)), total + pack_metrics(metrics, names)

        _, changed, total = tf.while_loop(
            lambda i, *_: i < algorithm.gradient_steps,
            gradient_step,
            (0, self.unchanged(carry), tf.zeros([MOST_METRICS])),
        )
        metrics = unpack_metrics(total / algorithm.gradient_steps, names)
        return changed, _with_settings(self._agent, metrics, self._steps_at(number))

    def learned(self, carry: QCarry, changed: Any) -> QCarry:
        """The carry with other priorities."""
        tree, max_priority = changed
        return carry._replace(replay=carry.replay._replace(tree=tree, max_priority=max_priority))

    def unchanged(self, carry: QCarry) -> Any:
        """The priorities."""
        return carry.replay.tree, carry.replay.max_priority

    def rounds(self, ended: np.ndarray) -> int:
        """T for each update."""
        return len(ended) * self.length

    def _steps_at(self, number: tf.Tensor) -> tf.Tensor:
        """Environment steps before update `number`."""
        steps, updates = self._before
        return steps + (number - updates) * self._steps_per_update

    def _step(self, carry: QCarry, epsilon: tf.Tensor, seeds: tf.Tensor) -> tuple[QCarry, Episodes]:
        now = carry.environment
        action_values = self._agent.learner.policy.action_values(now.observation)
        action = ops.EpsilonGreedy(action_values, epsilon).sample(seeds[0])
        env_action = ops.to_environment(self.environment.action_space, action)
        state, step = self.environment.step(now.state, env_action, seeds[1])
        replay = self._replay.add(carry.replay, now.observation, action, step)
        following, episodes = now.after(state, step)
        return QCarry(following, replay), episodes


class OffPolicyEngine:
    """Steps Gymnasium and ALE vector environments in a Python loop around a compiled network, and learns in one call.

    Args:
        agent: the agent.
        environment: N environments outside the graph.
        clip_reward: learn from the sign of the reward.
        stack: frames of which an observation's first axis is a stack, so that each is stored once; None for no stack.
        jit_compile: compile with XLA; the update cannot be, under a strategy.
    """

    def __init__(
        self, agent: Agent, environment: VectorAdapter, clip_reward: bool, stack: int | None, jit_compile: bool
    ):
        self.agent = agent
        self.environment = environment
        self._clip_reward = clip_reward
        self._stack = stack
        self._observation: Any = None
        self._counter = EpisodeCounter(environment.num_envs)
        self._steps_per_update = _steps_per_update(agent, environment.num_envs)
        _check_workers_start_together(agent, environment.num_envs)
        self._names: list[str] = []
        observation = map_space(
            lambda leaf: tf.TensorSpec([environment.num_envs, *leaf.shape], tensor_dtype(leaf)),
            agent.observation_space,
        )
        count = tf.TensorSpec([], tf.int32)
        self._act = compiled(self._act_in_graph, observation, SEED, count, jit_compile=jit_compile)
        self._learn = compiled(
            self._learn_in_graph,
            self._batches_spec(),
            SEED,
            count,
            jit_compile=jit_compile and agent.strategy is None,
        )
        self._importance_exponent = compiled(lambda steps: _importance_exponent(agent, steps), count, jit_compile=False)
        self.restart()

    def restart(self) -> None:
        """Begin new episodes, seeded by the agent's seed, with the agent's replay or an empty one."""
        seed = seeding.integers(self.agent.seed, 2)[1]
        self._seed = self.agent.learner.worker_seed(seeding.make_seed(seed)).numpy()
        self._env_seed = self.agent.environment_seed()
        self._resets_before = self.environment.resets  # of earlier trainings on the same object
        begins = self.agent.replay is None
        self._replay_begun_at = (self.agent.steps, self.agent.updates) if begins else self.agent.replay_begun_at
        self._replay: Any = None  # its memory is free before another is taken
        self._replay = self._make_replay()
        self._begin_anew(self._env_seed)

    def most_updates(self, steps: int) -> int:
        """One update a call."""
        return 1

    def run(self, updates: int) -> Report:
        """The next update."""
        agent, steps = self.agent, self.agent.steps
        seconds = {"environment": 0.0, "acting": 0.0, "storing": 0.0, "copying": 0.0}
        rng = np.random.default_rng([*self._seed, agent.updates])
        if self.environment.resets != self._resets:
            # An evaluation on the same object ended our episodes, and seeded it with a seed of its own.
            resets = self.environment.resets - self._resets_before
            self._begin_anew(self._env_seed + self.environment.num_envs * resets)
        rows = [self._step(rng, tf.constant(steps), seconds) for _ in range(agent.algorithm.rollout_length)]
        *columns, valid = (np.stack(column)[None] for column in zip(*rows, strict=True))  # [1, T, N]
        filled = len(self._replay) >= agent.algorithm.batch_size
        learning = filled and steps - self._replay_begun_at[0] >= agent.algorithm.learning_starts
        started = time.perf_counter()
        packed = self._learn_from_replay(rng, steps, seconds) if learning else np.zeros(MOST_METRICS, np.float32)
        agent.replay, agent.replay_begun_at = self._replay, self._replay_begun_at
        agent.environment_state = None  # of a training in the graph, with the replay that it had
        seconds["learning"] = time.perf_counter() - started - seconds["copying"]
        # Workers must agree on the number of steps, so that all stop together: there, those that only reset count.
        collected = np.array([valid.sum() if agent.learner.num_workers == 1 else self._steps_per_update])
        return Report(unpack_metrics(packed[None], self._names), collected, Episodes(*columns), seconds, learning)

    def _step(
        self, rng: np.random.Generator, steps: tf.Tensor, seconds: dict[str, float]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The fields of `Episodes` and `valid`, [N] each."""
        started = time.perf_counter()
        seed = _draw_seed(rng)
        observation = map_observation(as_tensor, self._observation)
        action, env_action = (x.numpy() for x in self._act(observation, seed, steps))
        acted = time.perf_counter()
        step, valid = self.environment.step(env_action)
        stepped = time.perf_counter()
        stored = step._replace(reward=np.sign(step.reward)) if self._clip_reward else step
        self._replay.add(action, stored, valid)
        self._observation = step.observation
        row = *self._counter.count(step, valid), valid
        seconds["acting"] += acted - started
        seconds["environment"] += stepped - acted
        seconds["storing"] += time.perf_counter() - stepped
        return row

    def _learn_from_replay(self, rng: np.random.Generator, steps: int, seconds: dict[str, float]) -> np.ndarray:
        """All batches of an update are drawn at once, and their new priorities told at once."""
        started = time.perf_counter()
        algorithm = self.agent.algorithm
        importance = 0.0 if algorithm.sampler is None else float(self._importance_exponent(tf.constant(steps)))
        drawn = self._replay.sample(algorithm.gradient_steps * algorithm.batch_size, rng, importance)
        batches = tf.nest.map_structure(
            lambda x: x.reshape(algorithm.gradient_steps, algorithm.batch_size, *x.shape[1:]), drawn
        )
        # The largest weight of each batch is 1, not that of all together.
        batches = batches._replace(weight=batches.weight / batches.weight.max(axis=1, keepdims=True))
        batches = batches._replace(
            observation=map_observation(shared_tensor, batches.observation),
            next_observation=map_observation(shared_tensor, batches.next_observation),
        )
        batches = tf.nest.map_structure(tf.constant, batches)
        seconds["copying"] += time.perf_counter() - started
        packed, error = (x.numpy() for x in self._learn(batches, _draw_seed(rng), tf.constant(steps)))
        if np.isfinite(error).all():  # of a network that diverged there are none; its loss tells the callbacks
            self._replay.update_priorities(drawn.index, error.ravel())
        return packed

    def _act_in_graph(self, observation: Any, seed: tf.Tensor, steps: tf.Tensor):
        epsilon = self.agent.learner.scheduled(self.agent.algorithm.epsilon, steps)
        action = ops.EpsilonGreedy(self.agent.learner.policy.action_values(observation), epsilon).sample(seed)
        return action, ops.to_environment(self.agent.action_space, action)

    def _learn_in_graph(self, batches: Transitions, seed: tf.Tensor, steps: tf.Tensor):
        algorithm, names = self.agent.algorithm, list[str]()
        self.agent.learner.policy.reseed(seed)
        errors = tf.TensorArray(tf.float32, algorithm.gradient_steps, element_shape=[algorithm.batch_size])

        def gradient_step(i, total, errors):
            batch = tf.nest.map_structure(lambda x: x[i], batches)
            metrics, error = algorithm.update(self.agent.q_learner, batch)
            return i + 1, total + pack_metrics(metrics, names), errors.write(i, error)

        _, total, errors = tf.while_loop(
            lambda i, *_: i < algorithm.gradient_steps, gradient_step, (0, tf.zeros([MOST_METRICS]), errors)
        )
        metrics = unpack_metrics(total / algorithm.gradient_steps, names)
        return pack_metrics(_with_settings(self.agent, metrics, steps), self._names), errors.stack()

    def _batches_spec(self) -> Transitions:
        algorithm = self.agent.algorithm
        spec = lambda shape, dtype: tf.TensorSpec(  # noqa: E731
            [algorithm.gradient_steps, algorithm.batch_size, *shape], dtype
        )
        observation = map_space(lambda leaf: spec(leaf.shape, tensor_dtype(leaf)), self.agent.observation_space)
        numbers = {name: spec([], tf.float32) for name in ("reward", "discount", "weight")}
        integers = {name: spec([], tf.int32) for name in ("action", "index")}
        return Transitions(observation=observation, next_observation=observation, **numbers, **integers)

    def _make_replay(self) -> Replay:
        algorithm = self.agent.algorithm
        size = algorithm.replay_size
        stored = self.agent.replay
        if isinstance(stored, Replay) and stored.num_envs == self.environment.num_envs:
            return stored  # of a training in this process: a copy would need its memory twice
        if algorithm.sampler is None:
            sampler: Any = UniformSampler(size)
        else:
            sampler = PrioritizedSampler(size, algorithm.sampler.exponent, algorithm.sampler.offset)
        replay = Replay(
            self.agent.observation_space,
            self.environment.num_envs,
            size,
            sampler=sampler,
            n_step=algorithm.n_step,
            discount=algorithm.discount,
            stack=self._stack,
        )
        check_room(size, replay.most, algorithm.batch_size)
        if stored is not None:
            replay.restore(stored.arrays())
        return replay

    def _begin_anew(self, seed: int) -> None:
        self._observation = self.environment.reset(seed=seed)
        self._resets = self.environment.resets
        self._counter.begin_anew()
        self._replay.start(self._observation)


def _steps_per_update(agent: Agent, num_envs: int) -> int:
    return agent.algorithm.rollout_length * num_envs * agent.learner.num_workers


def _check_workers_start_together(agent: Agent, num_envs: int) -> None:
    """Who learns waits for all others to: each must have a batch by then, though every second step only resets."""
    algorithm, workers = agent.algorithm, agent.learner.num_workers
    least = 2 * workers * (algorithm.batch_size + num_envs * algorithm.n_step)
    if workers > 1 and algorithm.learning_starts < least:
        raise ValueError(
            f"learning_starts must be at least {least} with {workers} workers, got {algorithm.learning_starts}: all "
            "start to learn together, and each needs a batch of its own"
        )


def _draw_seed(rng: np.random.Generator) -> tf.Tensor:
    return tf.constant(rng.integers(2**31, size=2, dtype=np.int32))


def _importance_exponent(agent: Agent, steps: tf.Tensor | int) -> tf.Tensor:
    sampler = agent.algorithm.sampler
    return tf.constant(0.0) if sampler is None else agent.learner.scheduled(sampler.importance_exponent, steps)


def _with_settings(agent: Agent, metrics: Metrics, steps: tf.Tensor) -> Metrics:
    return {
        **metrics,
        "epsilon": agent.learner.scheduled(agent.algorithm.epsilon, steps),
        "learning_rate": agent.learner.learning_rate(),
    }
