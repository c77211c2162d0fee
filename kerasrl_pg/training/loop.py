"""The loop: collect, update, tell the callbacks, until the budget is used or the task is solved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from kerasrl_pg.agent import Agent
from kerasrl_pg.training.callbacks import EvenColumns
from kerasrl_pg.training.graph_engine import Report


class Engine(Protocol):
    """Runs updates: of graph environments as one program, or around a Python loop."""

    def restart(self) -> None:
        """Begin where the agent stands."""
        ...

    def most_updates(self, steps: int) -> int:
        """How many updates one `run` may do where `steps` environment steps are left."""
        ...

    def run(self, updates: int) -> Report:
        """The next updates, as many as were asked for or fewer."""
        ...


def train(
    agent: Agent,
    engine: Engine,
    *,
    steps: int,
    updates_per_epoch: int,
    steps_per_epoch: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    reporters: Sequence[keras.callbacks.Callback] = (),
    stop_return: float | None = None,
    after_epoch: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Train until `agent.steps` reaches `steps`.

    An *epoch* is one reporting interval and a *batch* one update; callbacks see both. The history, which is the
    agent's, gets one entry per epoch.

    Args:
        agent: it is changed in place.
        engine: runs updates.
        steps: environment steps since the agent was made, all environments together; the last update may overshoot.
        updates_per_epoch: length of the reporting interval.
        steps_per_epoch: environment steps that it was asked to have; what ends it where updates are of whole episodes,
            which take as many steps as the episodes do. None for one update there.
        callbacks: Keras callbacks; `model.stop_training` ends the loop, and what they add to the logs of an epoch is in
            the history.
        reporters: callbacks that come after the history has its entry.
        stop_return: end once the mean return of the last 100 episodes is at least this.
        after_epoch: more figures for the log of each epoch.
    """
    epoch = agent.history.epoch[-1] + 1 if agent.history.epoch else 0
    epochs_before = list(agent.history.epoch)
    whole_episodes = agent.algorithm.rollout_length is None
    longest = steps_per_epoch if whole_episodes and steps_per_epoch else math.inf
    # Of an update, all environments together; whole episodes take more.
    least_steps = (agent.num_envs or 1) * (agent.algorithm.rollout_length or 1) * agent.learner.num_workers
    epoch_steps = updates_per_epoch * least_steps if longest == math.inf else longest
    hooks = keras.callbacks.CallbackList(
        [*callbacks, agent.history, EvenColumns(agent.history), *reporters],
        model=agent.model,
        steps=updates_per_epoch,
        epochs=epoch + math.ceil((steps - agent.steps) / epoch_steps),
        verbose=0,
        run=agent.describe(),  # `history.params["run"]`: the environment's protocol, the algorithm's settings
    )
    agent.model.stop_training = False
    hooks.on_train_begin()
    agent.history.epoch = epochs_before
    solved = False
    gradient_steps = _gradient_steps(agent)
    logs: dict[str, float] = {}
    while agent.steps < steps and not solved and not agent.model.stop_training:
        hooks.on_epoch_begin(epoch)
        if agent.model.stop_training:
            break
        end = min(steps, agent.steps + longest)
        logs, solved = _epoch(agent, engine, hooks, end, updates_per_epoch, stop_return)
        if after_epoch is not None:
            logs.update(after_epoch())
        hooks.on_epoch_end(epoch, logs)
        _forget_what_is_not_known(callbacks)
        epoch += 1
    if _gradient_steps(agent) > gradient_steps:  # without one the average is older than the weights, or zeros
        agent.optimizer.finalize_variable_values(agent.model.trainable_variables)  # to their average, with use_ema
    hooks.on_train_end(logs)


def _gradient_steps(agent: Agent) -> int:
    return int(tf.convert_to_tensor(agent.optimizer.iterations))


def _forget_what_is_not_known(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Before an episode has ended its return is NaN, which Keras takes for a best value that nothing is better than."""
    for callback in callbacks:
        if isinstance(getattr(callback, "best", None), float) and math.isnan(callback.best):
            callback.best = None


def _epoch(agent, engine, hooks, steps, updates_per_epoch, stop_return) -> tuple[dict[str, float], bool]:
    reports: list[Report] = []
    started, steps_before, batch, solved = time.perf_counter(), agent.steps, 0, False
    while batch < updates_per_epoch and agent.steps < steps and not solved and not agent.model.stop_training:
        report = engine.run(min(engine.most_updates(steps - agent.steps), updates_per_epoch - batch))
        reports.append(report)
        for i in range(len(report.steps)):  # first of all, for the weights have moved, and a callback may raise
            _log_episodes(agent, report, i)
            agent.updates += 1
        metrics = report.metrics if report.learning else {}
        for i in range(len(report.steps)):
            hooks.on_train_batch_begin(batch)
            hooks.on_train_batch_end(batch, {name: float(values[i]) for name, values in metrics.items()})
            batch += 1
        solved = stop_return is not None and agent.has_reached(stop_return)
    seconds = time.perf_counter() - started
    return _epoch_logs(agent, reports, seconds, agent.steps - steps_before), solved


def _log_episodes(agent: Agent, report: Report, update: int) -> None:
    ended = report.episodes.ended[update]  # [T, N]
    rows = np.nonzero(ended)[0] + 1  # of those that ended, how many rows there were up to the last step
    if agent.algorithm.rollout_length is None:
        # Each environment plays one episode, and waits for the longest.
        taken, all_taken = np.minimum(rows, rows[:, None]).sum(axis=1), rows.sum()
    else:
        taken, all_taken = rows, len(ended)
    steps = int(report.steps[update])
    agent.episodes.extend(
        agent.steps - (-taken * steps // all_taken),  # rounded up
        report.episodes.episode_return[update][ended],
        report.episodes.episode_length[update][ended],
    )
    agent.steps += steps


def _epoch_logs(agent: Agent, reports: list[Report], seconds: float, steps: int) -> dict[str, float]:
    spent = {name: sum(report.seconds.get(name, 0.0) for report in reports) for name in reports[0].seconds}
    learned = [report.metrics for report in reports if report.learning]
    metrics = {
        name: float(np.mean(np.concatenate([metrics[name] for metrics in learned]))) if learned else math.nan
        for name in reports[0].metrics
    }
    first = {
        "steps": agent.steps,
        "episode_return": agent.episodes.mean_return(),
        "best_return": agent.episodes.best_return,
        "episode_length": agent.episodes.mean_length(),
        "episodes": len(agent.episodes),
    }
    last = {"steps_per_second": steps / seconds, **{f"{name}_share": value / seconds for name, value in spent.items()}}
    taken = metrics.keys() & (first.keys() | last.keys())
    if taken:
        raise ValueError(f"update returned a metric of a name that training uses itself: {', '.join(sorted(taken))}")
    return {**first, **metrics, **last}
