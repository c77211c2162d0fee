"""Learning curves, drawn without global state: the same in scripts, servers and notebooks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from kerasrl_pg.episode_log import WINDOW, EpisodeLog

DOTS = "#6f9dc8"
CURVE = "#1f4e79"
THRESHOLD = "#b5482a"


def plot_history(runs: Any | Sequence[Any], path: str | os.PathLike | None = None, *, window: int = WINDOW) -> Figure:
    """Episode returns against environment steps: one run, or several seeds with mean ± standard deviation.

    One run shows every episode as a dot and the mean of the last `window` episodes as a line. Several runs
    show each run's mean as a thin line, and their average with a band of one standard deviation between runs.
    A dashed line is the return at which Gymnasium calls the environment solved, where agents know one.

    Args:
        runs: an `Agent` or an `EpisodeLog`, or a sequence of either.
        path: where to write the figure as well, replacing what is there; .png, .svg or .pdf.
        window: episodes in the running mean; the first episodes are averaged over as many as there are.

    Returns:
        The figure. In a notebook `%matplotlib inline` makes it visible.

    Raises:
        ValueError: a run has no episode, runs share no steps, or `window` is not positive.
        TypeError: a run is neither an agent nor an episode log.

    Example:
        >>> log = EpisodeLog()
        >>> log.extend([10, 25, 45], [10.0, 15.0, 20.0], [10, 15, 20])
        >>> figure = plot_history(log, window=2)
        >>> figure.axes[0].lines[-1].get_ydata().tolist()
        [10.0, 12.5, 17.5]
    """
    runs = list(runs) if isinstance(runs, list | tuple) else [runs]
    logs = [_episode_log(run) for run in runs]
    if not isinstance(window, int) or window < 1:
        raise ValueError(f"window must be a positive number of episodes, got {window!r}")
    if not logs or not all(len(log) for log in logs):
        raise ValueError(f"every run needs a finished episode, got {[len(log) for log in logs]} episodes")

    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    _draw_threshold(axes, runs)
    if len(logs) == 1:
        _draw_run(axes, logs[0], window)
    else:
        _draw_runs(axes, logs, window)
    _label(axes, runs)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)  # outside: the data fill the axes
    if path is not None:
        figure.savefig(path)
    return figure


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """The mean of the last `window` values at each value; of as many as there are at the beginning.

    Args:
        values: [n].
        window: a positive integer.

    Returns:
        [n] float64.

    Example:
        >>> running_mean([2.0, 4.0, 6.0, 8.0], window=3).tolist()
        [2.0, 3.0, 4.0, 6.0]
    """
    total = np.concatenate([[0.0], np.cumsum(values, dtype=float)])  # [n + 1]
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)  # [n]


def _episode_log(run: Any) -> EpisodeLog:
    log = getattr(run, "episodes", run)
    if not isinstance(log, EpisodeLog):
        raise TypeError(f"a run must be an Agent or an EpisodeLog, got {type(run).__name__}")
    return log


def _draw_run(axes: Axes, log: EpisodeLog, window: int) -> None:
    # Rasterized: a vector file with a hundred thousand dots is one that nobody can open.
    (dots,) = axes.plot(log.step, log.episode_return, ".", color=DOTS, alpha=0.5, label="one episode")
    dots.set(markersize=5, markeredgewidth=0, rasterized=True)
    mean = running_mean(log.episode_return, window)
    axes.plot(log.step, mean, color=CURVE, linewidth=2, label=f"mean of the last {window} episodes")


def _draw_runs(axes: Axes, logs: list[EpisodeLog], window: int) -> None:
    means = [running_mean(log.episode_return, window) for log in logs]
    for log, mean in zip(logs, means, strict=True):
        axes.plot(log.step, mean, color=DOTS, linewidth=0.8, alpha=0.7)
    # Only where every run has data: elsewhere the average would jump as runs come and go.
    first, last = max(log.step[0] for log in logs), min(log.step[-1] for log in logs)
    if first > last:
        raise ValueError(f"the runs have no steps in common: one starts at {first}, another ends at {last}")
    grid = np.linspace(first, last, 500)
    rows = [np.interp(grid, log.step, mean) for log, mean in zip(logs, means, strict=True)]
    table = np.stack(rows)  # [runs, 500]
    average, spread = table.mean(axis=0), table.std(axis=0)
    axes.fill_between(grid, average - spread, average + spread, color=CURVE, alpha=0.18, linewidth=0)
    label = f"mean ± std of {len(logs)} runs, each over its last {window} episodes"
    axes.plot(grid, average, color=CURVE, linewidth=2, label=label)


def _draw_threshold(axes: Axes, runs: list[Any]) -> None:
    environments = [run.environment for run in runs if not isinstance(run, EpisodeLog) and run.environment]
    for threshold in {environment.reward_threshold for environment in environments} - {None}:
        label = f"solved: {threshold:g}"
        axes.axhline(threshold, color=THRESHOLD, linestyle="--", linewidth=1.2, label=label)


def _label(axes: Axes, runs: list[Any]) -> None:
    axes.set_xlabel("environment steps")
    axes.set_ylabel("episode return")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    axes.set_title(", ".join(sorted({_title(run) for run in runs} - {""})), loc="left")


def _title(run: Any) -> str:
    """`CartPole-v1, PPO` of an agent; nothing of a log."""
    if isinstance(run, EpisodeLog):
        return ""
    env_id = run.environment.id if run.environment else None
    return ", ".join(filter(None, [env_id, type(run.algorithm).__name__]))
