"""Learning curves, drawn without global state: the same in scripts, servers and notebooks."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from kerasrl_pg.checks import as_integer
from kerasrl_pg.episode_log import WINDOW, EpisodeLog

DOTS = "#6f9dc8"
CURVE = "#1f4e79"
THRESHOLD = "#b5482a"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Told apart by colour-blind people too: Okabe and Ito 2008, "Color Universal Design", grey for their yellow."""
POINTS = 500
"""Of a curve that is interpolated."""


class Runs(Protocol):
    """What `plot_seeds` needs of `SeedRuns`."""

    runs: Any
    """A sequence; each with a Keras `history`."""
    agent: Any
    """The agent, which knows its environment."""


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
    window = as_integer("window", window)
    if not logs or not all(len(log) for log in logs):
        raise ValueError(f"every run needs a finished episode, got {[len(log) for log in logs]} episodes")

    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    _draw_threshold(axes, runs)
    if len(logs) == 1:
        _draw_run(axes, logs[0], window)
    else:
        _draw_runs(axes, logs, window)
    _label(axes, "episode return", ", ".join(sorted({_title(run) for run in runs} - {""})))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)  # outside: the data fill the axes
    if path is not None:
        figure.savefig(path)
    return figure


def plot_seeds(
    runs: Runs | Mapping[Any, Runs], path: str | os.PathLike | None = None, *, name: str = "episode_return"
) -> Figure:
    """Mean ± standard deviation over the seeds against environment steps: one method, or several in one figure.

    The seeds' curves are interpolated between the ends of their epochs, because whole episodes end at different
    steps. A run that stopped before the others of its method (`stop_return`) goes on counting with its last value;
    where it does, the mean is dashed.

    Args:
        runs: what `fit_seeds` returned, or several of them by the method's name, as `fit_sweep` returns them; a number
            is a name too.
        path: where to write the figure as well, replacing what is there; .png, .svg or .pdf.
        name: a column of the histories.

    Returns:
        The figure.

    Raises:
        ValueError: no method, more than there are colours, no such column, or a run with no number in it.
        TypeError: something else than `SeedRuns`.

    Example:
        >>> from kerasrl_pg.seed_runs import fit_seeds
        >>> runs = fit_seeds("CartPole-v1", "a2c", seeds=2, steps=512, jit_compile=False, verbose=0)
        >>> figure = plot_seeds({"A2C": runs}, name="entropy")
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['A2C']
    """
    methods = {str(title): run for title, run in (runs if isinstance(runs, Mapping) else {"mean ± std": runs}).items()}
    for run in methods.values():
        if not hasattr(run, "runs"):
            raise TypeError(f"runs must be SeedRuns, or a dict of them by name, got {type(run).__name__}")
    if not 1 <= len(methods) <= len(PALETTE):
        raise ValueError(f"runs must be of 1 to {len(PALETTE)} methods, got {len(methods)}")
    for run in (run for method in methods.values() for run in method.runs):
        if name not in run.history:
            raise ValueError(f"name must be one of {', '.join(run.history)}, got {name!r}")

    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    if name in ("episode_return", "eval_return"):
        _draw_threshold(axes, [method.agent for method in methods.values()])
    for color, (title, method) in zip(PALETTE, methods.items(), strict=False):
        _draw_seeds(axes, [_points(run.history, name) for run in method.runs], color, title)
    _label(axes, name.replace("_", " "), _title_of_seeds(methods.values()))
    columns = min(3, 66 // max(len(title) for title in methods))  # as many as are not cut off
    figure.legend(loc="outside lower center", ncols=max(1, columns), frameon=False)
    if path is not None:
        figure.savefig(path)
    return figure


def plot_episodes(run: Any, path: str | os.PathLike | None = None) -> Figure:
    """Every episode by its number: its return above, its length below.

    The line above is the mean return of the last episodes, a twentieth of all, with a band of their standard
    deviation; the line below is the mean length of the last 10.

    Args:
        run: an `Agent` or an `EpisodeLog`.
        path: where to write the figure as well, replacing what is there; .png, .svg or .pdf.

    Returns:
        The figure.

    Raises:
        ValueError: no episode has ended.
        TypeError: `run` is neither an agent nor an episode log.

    Example:
        >>> log = EpisodeLog()
        >>> log.extend([10, 25, 45], [10.0, 15.0, 20.0], [10, 15, 20])
        >>> [axes.get_ylabel() for axes in plot_episodes(log).axes]
        ['episode return', 'episode length']
    """
    log = _episode_log(run)
    if not len(log):
        raise ValueError("a plot of episodes needs one that has ended, got none")
    figure = Figure(figsize=(7.2, 5.6), dpi=150, layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    number = np.arange(1, len(log) + 1)
    window = max(1, len(log) // 20)
    mean, spread = running_mean(log.episode_return, window), _running_std(log.episode_return, window)
    _draw_dots(above, number, log.episode_return, label="one episode")
    above.fill_between(number, mean - spread, mean + spread, color=CURVE, alpha=0.18, linewidth=0)
    above.plot(number, mean, color=CURVE, linewidth=2, label=f"mean ± std of the last {window}")
    _draw_dots(below, number, log.episode_length, label="one episode")
    below.plot(number, running_mean(log.episode_length, 10), color=CURVE, linewidth=2, label="mean of the last 10")
    for axes, what in ((above, "return"), (below, "length")):
        _label(axes, f"episode {what}")
        axes.set_xlabel("")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)  # above: the data fill it
    below.set_xlabel("episode")
    figure.suptitle(_title(run))
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


def _running_std(values: Sequence[float], window: int) -> np.ndarray:
    """Standard deviation where `running_mean` has the mean."""
    centered = np.asarray(values, float) - np.mean(values)  # of large values, the squares' difference would be noise
    variance = running_mean(np.square(centered), window) - np.square(running_mean(centered, window))
    return np.sqrt(np.maximum(variance, 0.0))  # [n]


def _points(history: Mapping[str, Sequence[float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one run, where there is a value: there is no return before an episode ends."""
    steps, values = np.asarray(history["steps"], float), np.asarray(history[name], float)
    known = np.isfinite(values)
    if not known.any():
        raise ValueError(f"every run needs a number in its {name!r}, one has none")
    return steps[known], values[known]


def _draw_seeds(axes: Axes, runs: list[tuple[np.ndarray, np.ndarray]], color: str, label: str) -> None:
    first, last = max(steps[0] for steps, _ in runs), max(steps[-1] for steps, _ in runs)
    all_go_on = max(first, min(steps[-1] for steps, _ in runs))
    grid = np.unique([*np.linspace(first, last, POINTS), all_go_on])
    table = np.stack([np.interp(grid, steps, values) for steps, values in runs])  # [runs, len(grid)]
    mean, spread = table.mean(axis=0), table.std(axis=0)
    axes.fill_between(grid, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)
    whole, held = grid <= all_go_on, grid >= all_go_on
    axes.plot(grid[whole], mean[whole], color=color, linewidth=2, label=label)
    if held.sum() > 1:
        axes.plot(grid[held], mean[held], color=color, linewidth=2, linestyle=(0, (2, 1.5)))


def _draw_dots(axes: Axes, x: Any, y: Any, label: str) -> None:
    # Rasterized: a vector file with a hundred thousand dots is one that nobody can open.
    (dots,) = axes.plot(x, y, ".", color=DOTS, alpha=0.5, label=label)
    dots.set(markersize=5, markeredgewidth=0, rasterized=True)


def _draw_run(axes: Axes, log: EpisodeLog, window: int) -> None:
    _draw_dots(axes, log.step, log.episode_return, label="one episode")
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
    grid = np.linspace(first, last, POINTS)
    rows = [np.interp(grid, log.step, mean) for log, mean in zip(logs, means, strict=True)]
    table = np.stack(rows)  # [runs, POINTS]
    average, spread = table.mean(axis=0), table.std(axis=0)
    axes.fill_between(grid, average - spread, average + spread, color=CURVE, alpha=0.18, linewidth=0)
    label = f"mean ± std of {len(logs)} runs, each over its last {window} episodes"
    axes.plot(grid, average, color=CURVE, linewidth=2, label=label)


def _draw_threshold(axes: Axes, runs: list[Any]) -> None:
    environments = [run.environment for run in runs if not isinstance(run, EpisodeLog) and run.environment]
    for threshold in {environment.reward_threshold for environment in environments} - {None}:
        label = f"solved: {threshold:g}"
        axes.axhline(threshold, color=THRESHOLD, linestyle="--", linewidth=1.2, label=label)


def _label(axes: Axes, name: str, title: str = "") -> None:
    axes.set_xlabel("environment steps")
    axes.set_ylabel(name)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    axes.set_title(title, loc="left")


def _title(run: Any) -> str:
    """`CartPole-v1, PPO` of an agent; nothing of a log."""
    if isinstance(run, EpisodeLog):
        return ""
    env_id = run.environment.id if run.environment else None
    return ", ".join(filter(None, [env_id, type(run.algorithm).__name__]))


def _title_of_seeds(methods: Collection[Runs]) -> str:
    """`CartPole-v1, mean ± std over 5 seeds`."""
    agents, counts = [method.agent for method in methods], {len(method.runs) for method in methods}
    env_ids = {agent.environment.id for agent in agents if agent.environment} - {None}
    what = [_title(agents[0])] if len(agents) == 1 else sorted(env_ids)
    count = " to ".join(str(number) for number in sorted({min(counts), max(counts)}))
    return ", ".join([*filter(None, what), f"mean ± std over {count} seed{'s' if count != '1' else ''}"])
