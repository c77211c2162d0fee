"""Collects and learns in one compiled program: how updates run where the environment is a graph."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf

from kerasrl_pg import ops, seeding
from kerasrl_pg.agent import Agent
from kerasrl_pg.metrics import MOST_METRICS, pack_metrics, unpack_metrics
from kerasrl_pg.models import PatchConv2D
from kerasrl_pg.models.actor_critic import layers_of
from kerasrl_pg.types import Episodes, Metrics, TensorEnv

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
    learning: bool = True
    """False where the updates only filled a replay: `metrics` then mean nothing."""


class Program(Protocol):
    """What one update of a kind of algorithm does, as pure functions of a carry."""

    environment: TensorEnv
    length: int
    """Rows of the `Episodes` of one update (T)."""
    updates_before_learning: int
    """Updates that only collect."""

    def start(self, seed: tf.Tensor) -> Any:
        """The carry before the first update."""
        ...

    def collect(self, carry: Any, number: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Any, Episodes, tf.Tensor]:
        """Experience of update `number`: `(carry, experience, episodes, environment steps of all workers)`."""
        ...

    def learn(self, carry: Any, experience: Any, number: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Metrics]:
        """Learn: `(what changed of the carry, metrics)`."""
        ...

    def learned(self, carry: Any, changed: Any) -> Any:
        """The carry with what `learn` changed."""
        ...

    def unchanged(self, carry: Any) -> Any:
        """What `learn` would change of the carry, as it is."""
        ...

    def rounds(self, ended: np.ndarray) -> int:
        """How often all environments were stepped in updates whose episodes `ended` [updates, T, N]."""
        ...


class GraphEngine:
    """Collects and learns in one compiled program, several updates a call.

    Args:
        agent: the agent.
        program: what an update does.
        updates_per_call: most updates in one call.
        jit_compile: compile with XLA; not under a strategy, where the update cannot be.
    """

    def __init__(self, agent: Agent, program: Program, updates_per_call: int, jit_compile: bool):
        self.agent = agent
        self.program = program
        self.updates_per_call = updates_per_call
        self._names: list[str] = []
        self._jit_compile = jit_compile
        self._iterate = tf.function(
            self._iterations, jit_compile=jit_compile and agent.strategy is None, autograph=False
        )
        self._compiled: Callable | None = None
        self._environment_alone: Future[Callable[[tf.Tensor], tf.Tensor]] | None = None
        self._seconds_per_round: dict[str, float] | None = None
        self.restart()

    def restart(self) -> None:
        """Begin where the agent stands: at its seed or, if it was trained before, where its environments were."""
        start_seed, self._seed = seeding.split(seeding.make_seed(self.agent.seed), 2)
        self.carry = self.program.start(self.agent.learner.worker_seed(start_seed))
        stored = self.agent.environment_state
        # That of another number of environments does not fit: they begin anew, with an empty replay.
        self._replay_begun_at = self.agent.steps, self.agent.updates
        if stored is not None and [x.shape for x in stored] == [x.shape for x in tf.nest.flatten(self.carry)]:
            self.carry = tf.nest.pack_sequence_as(self.carry, [tf.constant(x) for x in stored])
            self._replay_begun_at = self.agent.replay_begun_at

    def most_updates(self, steps: int) -> int:
        """How many updates one `run` may do where `steps` environment steps are left: only the last may pass them."""
        num_envs = self.program.environment.num_envs * self.agent.learner.num_workers
        steps_per_update = self.program.length * num_envs  # whole episodes take fewer
        return min(self.updates_per_call, -(-steps // steps_per_update))

    def run(self, updates: int) -> Report:
        """The next `updates` updates, at most `updates_per_call`; those before learning starts are a run of their own.

        The report may be of fewer updates than were asked for.
        """
        before_learning = self.program.updates_before_learning + self._replay_begun_at[1] - self.agent.updates
        learning = before_learning <= 0
        updates = updates if learning else min(updates, before_learning)
        started = time.perf_counter()
        arguments = (self._seed, tf.constant(self.agent.updates), tf.constant(updates))
        if self._compiled is None:
            self._compiled = self._iterate.get_concrete_function(self.carry, *arguments, tf.constant(True))
            self._environment_alone = _in_background(self._compile_environment)
        carry, packed, steps, episodes = self._compiled(self.carry, *arguments, tf.constant(learning))
        metrics = unpack_metrics(packed.numpy()[:updates], self._names)
        elapsed = time.perf_counter() - started
        episodes = Episodes(*(x.numpy()[:updates] for x in episodes))
        rounds = self.program.rounds(episodes.ended)
        self.carry = carry  # what it was is free now, before the measurement needs as much again
        if self._seconds_per_round is None:
            self._seconds_per_round = self._measure(*arguments)
        self.agent.environment_state = tf.nest.flatten(carry)
        self.agent.replay, self.agent.replay_begun_at = None, self._replay_begun_at
        seconds = {name: rounds * value for name, value in self._seconds_per_round.items()}
        seconds["learning"] = max(0.0, elapsed - sum(seconds.values()))
        seconds = {name: value * elapsed / sum(seconds.values()) for name, value in seconds.items()}
        return Report(metrics, steps.numpy()[:updates].astype(int), episodes, seconds, learning)

    def _measure(self, seed: tf.Tensor, first: tf.Tensor, updates: tf.Tensor) -> dict[str, float]:
        """Seconds per round of the environment and of acting, which one program does not tell apart.

        Timed once, the best of three: the same program without learning, on a tenth of the updates, for a call may hold
        a whole training; then the environment's steps alone.
        """
        assert self._compiled is not None
        assert self._environment_alone is not None
        compiled_iterations, environment_steps = self._compiled, self._environment_alone.result()
        few = updates // 10 + 1
        collect = lambda: compiled_iterations(self.carry, seed, first, few, tf.constant(False))[3]  # noqa: E731
        rounds = self.program.rounds(collect().ended[: int(few)].numpy())
        collecting = _best_seconds(lambda: collect().ended.numpy())
        environment = _best_seconds(lambda: environment_steps(tf.constant(rounds)).numpy())
        return {"environment": environment / rounds, "acting": max(0.0, collecting - environment) / rounds}

    def _compile_environment(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """A function of a number of rounds, which steps the environment as often and does nothing else."""
        environment_steps = tf.function(self._environment_steps, jit_compile=self._jit_compile, autograph=False)
        seed = seeding.make_seed(0)
        state, _ = self.program.environment.reset(seed)
        environment_steps(state, seed, tf.constant(1))
        return functools.partial(environment_steps, state, seed)

    def _environment_steps(self, state: Any, seed: tf.Tensor, rounds: tf.Tensor) -> tf.Tensor:
        environment = self.program.environment
        spec = ops.action_spec(environment.action_space, environment.num_envs)
        action = ops.to_environment(environment.action_space, tf.zeros(spec.shape, spec.dtype))

        def step(i, state, total):
            state, step = environment.step(state, action, seeding.fold_in(seed, i))
            return i + 1, state, total + tf.reduce_sum(step.reward)

        return tf.while_loop(lambda i, *_: i < rounds, step, (0, state, 0.0))[2]

    def _iterations(self, carry: Any, seed: tf.Tensor, first: tf.Tensor, updates: tf.Tensor, learn: tf.Tensor):
        array = lambda dtype, shape: tf.TensorArray(dtype, self.updates_per_call, element_shape=shape)  # noqa: E731
        shape = [self.program.length, self.program.environment.num_envs]
        episodes = Episodes(*(array(dtype, shape) for dtype in (tf.bool, tf.float32, tf.int32)))

        def one(i, carry, metrics, steps, episodes):
            act_seed, update_seed = seeding.split(seeding.fold_in(seed, first + i), 2)
            act_seed = self.agent.learner.worker_seed(act_seed)
            carry, experience, ended, collected = self.program.collect(carry, first + i, act_seed)

            def learning(turn, changed, row):
                changed, metrics = self.program.learn(carry, experience, first + i, update_seed)
                return turn + 1, changed, pack_metrics(metrics, self._names)

            # A loop of one turn or none: of a branch, XLA would copy what is handed through, such as priorities.
            _, changed, row = tf.while_loop(
                lambda turn, *_: turn < tf.cast(learn, tf.int32),
                learning,
                (0, self.program.unchanged(carry), tf.zeros([MOST_METRICS])),
            )
            return (
                i + 1,
                self.program.learned(carry, changed),
                metrics.write(i, row),
                steps.write(i, collected),
                Episodes(*(a.write(i, x) for a, x in zip(episodes, ended, strict=True))),
            )

        rows = array(tf.float32, [MOST_METRICS]), array(tf.float32, [])
        _, carry, metrics, steps, episodes = tf.while_loop(lambda i, *_: i < updates, one, (0, carry, *rows, episodes))
        return carry, metrics.stack(), steps.stack(), Episodes(*(a.stack() for a in episodes))


def uses_xla(model: keras.Model) -> bool:
    """Whether XLA pays: on a CPU it makes products of small matrices faster and convolutions slower."""
    convolutions = layers_of(model, keras.layers.Conv1D | keras.layers.Conv2D | keras.layers.Conv3D)
    only_products = all(isinstance(layer, PatchConv2D) for layer in convolutions)
    return only_products or bool(tf.config.list_logical_devices("GPU"))


def _in_background(function: Callable[[], Any]) -> Future:
    """While the main thread compiles the whole program: XLA leaves a second core idle for most of that."""
    pool = ThreadPoolExecutor(max_workers=1)
    future = pool.submit(function)
    pool.shutdown(wait=False)
    return future


def _best_seconds(call: Callable[[], Any], repeats: int = 3) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
