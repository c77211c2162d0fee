"""Trains every preset over several seeds and writes `docs/results.md` from what was measured.

    python benchmarks/results.py run                 # all rows that are not measured yet; resumable
    python benchmarks/results.py run cartpole-ppo    # one row
    python benchmarks/results.py report              # docs/results.md and its plots, from docs/results/*

A run that is stopped goes on from its checkpoint. What a row measured is in `docs/results/<row>/`: a JSON with the
figures, the settings, the versions and the machine, a CSV of the history and one of the episodes, per seed.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
import platform
import shutil
import time
from typing import Annotated

import numpy as np
import typer

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
CHECKPOINTS = ROOT / "runs" / "results"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a preset, its budget and what is asked of it."""

    preset: str
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int
    target: float
    """Mean return asked for: of 100 evaluation episodes, or of the last 100 training episodes where `by_training`."""
    by_training: bool = False
    stop_return: float | None = None
    evaluation_episodes: int = 100
    save_policy: bool = False
    """Export the policy of the first seed to `saved_models/`."""


ROWS = {
    "cartpole-ppo": Row(preset="cartpole-ppo", steps=100_000, target=500.0, save_policy=True),
    "pong-fast": Row(
        preset="pong-fast", seeds=(0,), steps=1_000_000, target=18.0, by_training=True, evaluation_episodes=20,
        save_policy=True,
    ),
    "pong-ppo": Row(
        preset="pong-ppo", seeds=(0,), steps=1_000_000, target=-20.0, by_training=True, evaluation_episodes=20
    ),
}  # fmt: skip

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def run(
    rows: Annotated[list[str] | None, typer.Argument(help="Rows to measure; all if none is named.")] = None,
):
    """Train what is not measured yet."""
    for name in rows or ROWS:
        if name not in ROWS:
            raise typer.BadParameter(f"unknown row {name!r}; known: {', '.join(ROWS)}")
        for seed in ROWS[name].seeds:
            if not (RESULTS / name / f"seed-{seed}.json").exists():
                measure(name, seed)


@app.command()
def report():
    """Write docs/results.md and its plots from what has been measured."""
    raise NotImplementedError


def measure(name: str, seed: int) -> None:
    """Train one seed of one row, evaluate it and write what came out."""
    import kerasrl_pg as krl
    from kerasrl_pg.presets import PRESETS

    row = ROWS[name]
    checkpoint = CHECKPOINTS / f"{name}-{seed}"
    env = PRESETS[row.preset].env
    started = time.perf_counter()
    agent = krl.fit_agent(
        env, row.preset, steps=row.steps, seed=seed, stop_return=row.stop_return, verbose=2, checkpoint=checkpoint
    )  # fmt: skip
    wall = time.perf_counter() - started
    history = agent.history.history
    training_seconds = float(np.sum(np.diff([0, *history["steps"]]) / np.array(history["steps_per_second"])))
    evaluation = agent.evaluate(episodes=row.evaluation_episodes, seed=1000 + seed)
    if row.save_policy and seed == row.seeds[0]:
        target = ROOT / "saved_models" / name
        shutil.rmtree(target, ignore_errors=True)
        agent.export(target)
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    agent.episodes.to_csv(folder / f"seed-{seed}-episodes.csv")
    with open(folder / f"seed-{seed}-history.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(history)
        writer.writerows(zip(*([f"{value:.6g}" for value in column] for column in history.values()), strict=True))
    result = {
        "row": name,
        "seed": seed,
        "evaluation": {
            "episodes": row.evaluation_episodes,
            "mean": evaluation.mean,
            "std": evaluation.std,
            "returns": evaluation.returns.tolist(),
        },
        "last_100_training_episodes": agent.episodes.mean_return(),
        "best_100_training_episodes": best_window(agent.episodes.episode_return),
        "target_reached_at_step": agent.episodes.solved_at(row.target),
        "training_seconds": training_seconds,
        "wall_seconds_of_the_last_start": wall,
        "agent": agent.describe(),
        "machine": machine(),
        "command": f"python benchmarks/results.py run {name}",
    }
    (folder / f"seed-{seed}.json").write_text(json.dumps(result, indent=1))


def best_window(returns: list[float], window: int = 100) -> float | None:
    """The best mean of `window` consecutive episodes; None if there were fewer."""
    if len(returns) < window:
        return None
    return float(np.convolve(returns, np.full(window, 1 / window), mode="valid").max())


def machine() -> dict[str, str | int]:
    """The processor and the versions that the figures depend on."""
    import os
    from importlib.metadata import version

    model = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next(
            (line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line),
            model,
        )
    packages = ("kerasrl-pg", "tensorflow", "keras", "gymnasium", "ale-py", "numpy")
    return {
        "processor": model,
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


if __name__ == "__main__":
    app()
