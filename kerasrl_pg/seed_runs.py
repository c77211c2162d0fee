"""The same training over many seeds, compiled once; and many such trainings side by side."""

from __future__ import annotations

import copy
import csv
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import scipy.stats

from kerasrl_pg.agent import Agent
from kerasrl_pg.building import (
    check_callbacks,
    check_learning_rate_can_move,
    check_numbers,
    check_switches,
    environment_of,
    evaluation,
    find_preset,
    make_engine,
    moves_learning_rate,
    new_agent,
    new_model,
    settings_of,
    updates_of_epoch,
)
from kerasrl_pg.checks import is_integer
from kerasrl_pg.envs.make import EnvLike, GameProtocol
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.episode_log import EpisodeLog
from kerasrl_pg.settings import ModelBuilder
from kerasrl_pg.training.loop import train


@dataclasses.dataclass(frozen=True)
class SeedRun:
    """One training of `fit_seeds`."""

    seed: int
    history: dict[str, list[float]]
    """As in Keras' History: one entry per epoch."""
    episodes: EpisodeLog
    """Every episode of the training."""
    weights: list[np.ndarray]
    """Of the model, at the end."""
    optimizer_variables: list[np.ndarray]
    """At the end."""
    updates: int
    """Of the algorithm."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A statistic of the seeds and its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclasses.dataclass(frozen=True)
class SeedRuns:
    """What `fit_seeds` returns: the trainings, and statistics over them."""

    runs: tuple[SeedRun, ...]
    agent: Agent
    """The agent that all were trained with, as the last training left it."""
    trained_with: dict[str, Any] = dataclasses.field(init=False)
    """The agent's optimizer, environment and number of environments, whatever it is trained further with."""

    def __post_init__(self):
        names = ("optimizer", "environment", "num_envs")
        object.__setattr__(self, "trained_with", {name: getattr(self.agent, name) for name in names})

    def agent_of(self, seed: int) -> Agent:
        """The agent as one seed left it; there is one agent, so the next call changes it.

        Trained further, it begins new episodes, and with an empty replay.

        Raises:
            ValueError: a seed that was not trained.
        """
        found = [run for run in self.runs if run.seed == seed]
        if not found:
            raise ValueError(f"seed must be one of {[run.seed for run in self.runs]}, got {seed!r}")
        run, agent = found[0], self.agent
        agent.replace_optimizer(self.trained_with["optimizer"])
        agent.environment, agent.num_envs = self.trained_with["environment"], self.trained_with["num_envs"]
        agent.restart(seed, run.weights, run.optimizer_variables)
        # Copies, for a further training appends to them.
        agent.history.history, agent.episodes = copy.deepcopy((run.history, run.episodes))
        agent.updates = run.updates
        agent.history.epoch = list(range(len(run.history["steps"])))
        agent.steps = int(run.history["steps"][-1])
        agent.forget_environment()
        return agent

    def curve(self, name: str = "episode_return") -> tuple[np.ndarray, np.ndarray]:
        """A column of the histories: environment steps [E] and values [seeds, E], up to the shortest training.

        Where episodes are whole, an epoch ends at another step for each seed: then the steps are the seeds' mean.

        Raises:
            ValueError: the histories have no such column.
        """
        self._check_name(name)
        epochs = min(len(run.history[name]) for run in self.runs)
        steps, values = (np.array([run.history[each][:epochs] for run in self.runs]) for each in ("steps", name))
        return steps.mean(axis=0), values

    def mean(self, name: str = "episode_return") -> np.ndarray:
        """[E] the mean over the seeds."""
        return self.curve(name)[1].mean(axis=0)

    def std(self, name: str = "episode_return") -> np.ndarray:
        """[E] the standard deviation over the seeds (population)."""
        return self.curve(name)[1].std(axis=0)

    def interquartile_mean(self, name: str = "episode_return", *, confidence: float = 0.95) -> Interval:
        """The mean of the middle half of the seeds' last values, with its percentile bootstrap interval.

        Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
        (arXiv:2108.13264).

        A quarter of the seeds, rounded down, is left out at either end; of fewer than 4, none.

        Raises:
            ValueError: the histories have no such column, or `confidence` is not between 0 and 1.
        """
        self._check_name(name)
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, such as 0.95, got {confidence!r}")
        return interquartile_mean(np.array([run.history[name][-1] for run in self.runs]), confidence)

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write all histories: one row per seed and epoch, the seed in the first column."""
        names = list(dict.fromkeys(name for run in self.runs for name in run.history))  # some callbacks log in one
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["seed", *names])
            for run in self.runs:
                rows = len(run.history["steps"])
                columns = [run.history.get(name, [math.nan] * rows) for name in names]
                writer.writerows(zip([run.seed] * rows, *columns, strict=True))

    def _check_name(self, name: str) -> None:
        known = [each for each in self.runs[0].history if all(each in run.history for run in self.runs)]
        if name not in known:
            raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}")


def fit_seeds(
    env: EnvLike,
    algorithm: Any = "ppo",
    *,
    seeds: int | Sequence[int] = 10,
    steps: int,
    num_envs: int | None = None,
    model: ModelBuilder | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    callbacks: Callable[[int], Sequence[keras.callbacks.Callback]] | None = None,
    stop_return: float | None = None,
    mixed_precision: str | None = None,
    eval_episodes: int = 0,
    eval_sample: bool = False,
    steps_per_epoch: int | None = None,
    in_graph: bool = True,
    jit_compile: bool | None = None,
    protocol: GameProtocol | None = None,
    env_options: Mapping[str, Any] | None = None,
    verbose: int = 1,
) -> SeedRuns:
    """Train the same thing with several seeds. What is compiled is compiled once.

    Each training is the one that `fit_agent` would do with that seed.

    Args:
        env: as in `fit_agent`.
        algorithm: a name, the name of a preset, or an algorithm.
        seeds: how many, from 0; or which.
        steps: environment steps of each training.
        num_envs: as in `fit_agent`.
        model: builds a model, `build(observation_space, action_space, seed=...)`; None for the algorithm's own.
        optimizer: as in `fit_agent`.
        callbacks: from a seed to the callbacks of its training; all are made at the start.
        stop_return: as in `fit_agent`.
        mixed_precision: as in `fit_agent`.
        eval_episodes: as in `fit_agent`.
        eval_sample: as in `fit_agent`.
        steps_per_epoch: as in `fit_agent`.
        in_graph: as in `fit_agent`.
        jit_compile: as in `fit_agent`.
        protocol: as in `fit_agent`.
        env_options: as in `fit_agent`.
        verbose: 0 silent, 1 a line per seed.

    Returns:
        `SeedRuns`.

    Raises:
        ValueError: as `fit_agent` does; or there is no seed, or one twice.
        TypeError: as `fit_agent` does.

    Example:
        >>> runs = fit_seeds("CartPole-v1", "a2c", seeds=2, steps=512, jit_compile=False, verbose=0)
        >>> steps, returns = runs.curve("episode_return")
        >>> returns.shape
        (2, 4)
    """
    chosen: tuple[int, ...] = ()
    if isinstance(seeds, Iterable):
        chosen = tuple(seeds)
    elif is_integer(seeds):
        chosen = tuple(range(seeds))
    check_numbers(steps, chosen, eval_episodes, steps_per_epoch, stop_return, verbose)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds must be a positive number of seeds or different seeds, got {seeds!r}")
    if isinstance(model, keras.Model):
        raise TypeError(f"model must be a function that builds one for each seed, got the model {model.name!r}")
    check_switches(in_graph, eval_sample, jit_compile)
    chosen = tuple(map(int, chosen))
    if callbacks is not None and not callable(callbacks):
        raise TypeError(f"callbacks must be a function from a seed to a list of callbacks, got {callbacks!r}")
    callbacks_of = {seed: () if callbacks is None else callbacks(seed) for seed in chosen}
    for each in callbacks_of.values():
        check_callbacks(each)
    if len({moves_learning_rate(each) for each in callbacks_of.values()}) > 1:
        moving = [seed for seed, each in callbacks_of.items() if moves_learning_rate(each)]
        raise ValueError(f"callbacks must move the learning rate of every seed, or of none; got those of {moving}")
    name, preset = find_preset(env, algorithm)
    if isinstance(algorithm, Agent):
        raise TypeError(f"fit_seeds begins anew with every seed: it takes an algorithm or a name, got {algorithm!r}")
    environment = environment_of(
        env, preset, num_envs=num_envs, env_options=env_options, in_graph=in_graph, protocol=protocol
    )
    training = environment.make_training()
    runs = []
    try:
        settings = settings_of(algorithm, name, preset, steps, training.num_envs, callbacks_of[chosen[0]])
        agent = new_agent(settings, model, optimizer, training, environment, chosen[0], None, mixed_precision)
        check_learning_rate_can_move(agent.optimizer, callbacks_of[chosen[0]])
        agent.num_envs = training.num_envs
        updates_per_epoch = updates_of_epoch(agent, training.num_envs, steps, steps_per_epoch)
        engine = make_engine(agent, training, environment, updates_per_epoch, jit_compile)
        fresh_optimizer = [np.array(variable) for variable in agent.optimizer.variables]
        for seed in chosen:
            built = new_model(settings, model, (agent.observation_space, agent.action_space), seed, None, None)
            agent.restart(seed, built.get_weights(), fresh_optimizer)
            engine.restart()
            train(
                agent,
                engine,
                steps=steps,
                updates_per_epoch=updates_per_epoch,
                steps_per_epoch=steps_per_epoch,
                callbacks=callbacks_of[seed],
                stop_return=stop_return,
                after_epoch=evaluation(agent, environment, episodes=eval_episodes, seed=seed, sample=eval_sample),
            )
            runs.append(run_of(agent))
            if verbose:
                print(f"seed {seed}: episode_return {agent.episodes.mean_return():.4g} after {agent.steps} steps")
    finally:
        if isinstance(training, VectorAdapter):
            training.close()
    return SeedRuns(tuple(runs), agent)


def run_of(agent: Agent) -> SeedRun:
    """What a training left, of an agent that may be trained anew."""
    return SeedRun(
        seed=agent.seed,
        history=copy.deepcopy(agent.history.history),
        episodes=copy.deepcopy(agent.episodes),
        weights=agent.model.get_weights(),
        optimizer_variables=[np.array(variable) for variable in agent.optimizer.variables],
        updates=agent.updates,
    )


def fit_sweep(env: EnvLike, algorithms: Mapping[str, Any], **arguments: Any) -> dict[str, SeedRuns]:
    """`fit_seeds` of several algorithms or settings, by name: a comparison, or a sweep over one hyperparameter.

    Args:
        env: as in `fit_agent`.
        algorithms: what to call it, to an algorithm, a name or the name of a preset.
        arguments: those of `fit_seeds` by name, the same for all.

    Returns:
        The runs by name; `plot_seeds` draws them in one figure.

    Raises:
        ValueError: there is none; or as `fit_seeds` does.
        TypeError: `algorithms` is no dict.

    Example:
        >>> from kerasrl_pg.algorithms import A2C
        >>> coefs = {f"entropy_coef {coef}": A2C(entropy_coef=coef) for coef in (0.0, 0.1)}
        >>> runs = fit_sweep("CartPole-v1", coefs, seeds=2, steps=512, jit_compile=False, verbose=0)
        >>> [len(each.runs) for each in runs.values()]
        [2, 2]
    """
    if not isinstance(algorithms, Mapping):
        raise TypeError(f"algorithms must be a dict, what each is called to what it is; got {algorithms!r}")
    if not algorithms:
        raise ValueError("algorithms must name at least one")
    for algorithm in algorithms.values():
        find_preset(env, algorithm)  # a wrong name is told before the first has trained
    return {name: fit_seeds(env, algorithm, **arguments) for name, algorithm in algorithms.items()}


def interquartile_mean(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """The mean of the middle half of `values` [N], with its percentile bootstrap interval; NaN if one of them is.

    Example:
        >>> print(interquartile_mean(np.array([0.0, 2.0, 2.0, 9.0])))
        2.0 [0.0, 9.0]
    """
    value = math.nan if np.isnan(values).any() else float(_middle_mean(values))
    if len(values) == 1 or math.isnan(value) or np.ptp(values) == 0:
        return Interval(value, value, value)
    found = scipy.stats.bootstrap((values,), _middle_mean, confidence_level=confidence, method="percentile", rng=0)
    return Interval(value, float(found.confidence_interval.low), float(found.confidence_interval.high))


def _middle_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return scipy.stats.trim_mean(values, 0.25, axis=axis)
