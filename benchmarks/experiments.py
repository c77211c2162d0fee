"""Experiments that compare several methods or settings over several seeds, in one figure.

    python benchmarks/experiments.py lab              # three policy gradients, 10 seeds
    python benchmarks/experiments.py entropy          # REINFORCE with six weights of the entropy bonus
    python benchmarks/experiments.py precision        # PPO on CartPole in bfloat16 and in float32
    python benchmarks/experiments.py precision-pong   # the same on the first steps of Pong: an hour
    python benchmarks/experiments.py report           # docs/experiments.md, from docs/results/*

What an experiment measured is in `docs/results/<experiment>/`: the histories as CSV, the figure, a JSON with the times.
"""

from __future__ import annotations

import concurrent.futures
import inspect
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import typer
from pong_search import CANDIDATES, network_of, settings_of
from results import CHECKPOINTS, RESULTS, ROOT, machine, seconds_of

app = typer.Typer(add_completion=False, help=__doc__)

LAB = {
    "policy gradient": "lab-policy-gradient",
    "baseline: mean of the batch": "lab-baselined-policy-gradient",
    "actor-critic": "lab-actor-critic",
}
ENTROPY_COEFS = (0.0, 0.001, 0.01, 0.05, 0.1, 0.5)
ROUNDS = 15
PRECISIONS = ("float32", "bfloat16")
TEST_GAMES = "eval_return", "return of test episodes, actions sampled"
GREEDY_GAMES = "eval_return", "return of greedy episodes"
TRAINING_GAMES = "episode_return", "return of the last 100 training games"


@app.command()
def lab():
    """10,000 steps on CartPole-v1; every 500, five test episodes, their actions sampled.

    Two processes.
    """
    import kerasrl_pg as krl

    seeds, processes = range(10), 2

    def train():
        with (
            tempfile.TemporaryDirectory() as folder,
            concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool,
        ):
            shares = [seeds[first::processes] for first in range(processes)]
            parts = list(pool.map(lab_runs, shares, [f"{folder}/{first}" for first in range(processes)]))
            agents = {label: krl.load_agent(f"{folder}/0/{preset}") for label, preset in LAB.items()}
        runs = {
            label: sorted((run for part in parts for run in part[label]), key=lambda run: run.seed) for label in LAB
        }
        return {label: krl.SeedRuns(tuple(runs[label]), agents[label]) for label in LAB}

    measure("lab", train, TEST_GAMES)


def lab_runs(seeds: Sequence[int], folder: str):
    """The lab's trainings with some of its seeds, by method; each method's agent is saved under its preset's name."""
    import kerasrl_pg as krl

    runs = krl.fit_sweep(
        "CartPole-v1", LAB, seeds=seeds, steps=10_000, steps_per_epoch=500, eval_episodes=5, eval_sample=True
    )
    for label, preset in LAB.items():
        runs[label].agent.save(f"{folder}/{preset}")
    return {label: each.runs for label, each in runs.items()}


@app.command()
def entropy():
    """REINFORCE, 15 rounds of 100 episodes on CartPole-v1, by the entropy bonus; 10 test episodes a round.

    The first seed of each weight is filmed.
    """
    from dataclasses import replace

    import kerasrl_pg as krl
    from kerasrl_pg.presets import PRESETS

    preset = PRESETS["cartpole-reinforce-lesson"]
    settings = preset.build(preset.steps, preset.num_envs)
    algorithms = {f"{coef:g}": replace(settings.algorithm, entropy_coef=coef) for coef in ENTROPY_COEFS}

    def train():
        return krl.fit_sweep(
            "CartPole-v1",
            algorithms,
            seeds=10,
            steps=10_000_000,
            num_envs=preset.num_envs,
            model=settings.model,
            optimizer=settings.optimizer,
            eval_episodes=10,
            eval_sample=True,
            callbacks=lambda seed: [stop_after(ROUNDS)],
        )

    runs = measure("entropy", train, TEST_GAMES)
    for name, each in runs.items():
        film = RESULTS / "entropy" / f"coef-{name}.mp4"
        film.unlink(missing_ok=True)
        krl.record_video(each.agent_of(0), film, seed=0)


@app.command()
def precision():
    """PPO's trunk in bfloat16 and in float32, 100,000 steps on CartPole-v1; every 10,000, 20 greedy episodes."""
    import kerasrl_pg as krl

    def train():
        return {
            name: krl.fit_seeds(
                "CartPole-v1",
                "ppo",
                seeds=5,
                steps=100_000,
                steps_per_epoch=10_000,
                mixed_precision=name,
                eval_episodes=20,
            )
            for name in PRECISIONS
        }

    measure("precision", train, GREEDY_GAMES)


@app.command()
def precision_pong():
    """PPO's trunk in bfloat16 and in float32, 200,000 steps of Pong with `more-entropy` of `benchmarks/pong_search.py`.

    If it is stopped, the same command goes on with the training that it stopped in.
    """
    import kerasrl_pg as krl

    candidate = CANDIDATES["more-entropy"]
    algorithm, optimizer = settings_of(candidate)

    def train_one(name: str, seed: int):
        return krl.fit_agent(
            "ALE/Pong-v5",
            algorithm,
            seed=seed,
            steps=200_000,
            num_envs=candidate.num_envs,
            model=network_of(candidate),
            optimizer=optimizer,
            mixed_precision=name,
            checkpoint=CHECKPOINTS / f"precision-pong-{name}-{seed}",
            verbose=2,
        )

    def train():
        seeds = range(5)
        # The precisions take turns: what else the machine does then falls on both.
        agents = {(name, seed): train_one(name, seed) for seed in seeds for name in PRECISIONS}
        return {name: runs_of([agents[name, seed] for seed in seeds]) for name in PRECISIONS}

    measure("precision-pong", train, TRAINING_GAMES, resumable=True)


def runs_of(agents):
    """Agents that were trained one by one, as `fit_seeds` returns them."""
    import kerasrl_pg as krl
    from kerasrl_pg.seed_runs import run_of

    return krl.SeedRuns(tuple(map(run_of, agents)), agents[-1])


COMMANDS = (lab, entropy, precision, precision_pong)


@app.command()
def report():
    """Write docs/experiments.md."""
    lines = [HEADER]
    for path in sorted(RESULTS.glob("*/experiment.json")):
        lines += section(json.loads(path.read_text()))
    (ROOT / "docs" / "experiments.md").write_text("\n".join(lines))


HEADER = """# Experiments

Written by `python benchmarks/experiments.py report` from what the experiments measured. Intervals are 95 % bootstrap
intervals of the interquartile mean over the seeds, after the last epoch. The bands in the figures are one standard
deviation.
"""


def measure(
    name: str, train: Callable[[], dict[str, Any]], judged_by: tuple[str, str], *, resumable: bool = False
) -> dict[str, Any]:
    """Run an experiment and write what came out.

    Args:
        name: of the experiment.
        train: trains all there is.
        judged_by: a column of the histories, and what it is.
        resumable: count the time of the trainings, of which some may have been done before.
    """
    import kerasrl_pg as krl

    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    column, meaning = judged_by
    started = time.perf_counter()
    runs = train()
    seconds = time.perf_counter() - started
    if resumable:
        seconds = sum(seconds_of(run.history) for each in runs.values() for run in each.runs)
    krl.plot_seeds(runs, folder / "returns.png", name=column)
    finals = {}
    for label, each in runs.items():
        each.to_csv(folder / f"{label.replace(' ', '-').replace(':', '')}.csv")
        interval = each.interquartile_mean(column)
        finals[label] = {"value": interval.value, "low": interval.low, "high": interval.high}
    result = {
        "experiment": name,
        "seconds": seconds,
        "seconds_are": "of training, compilation included" if resumable else "in all, compilation and tests included",
        "seeds": len(next(iter(runs.values())).runs),
        "meaning": meaning,
        "finals": finals,
        "machine": machine(),
        "command": f"python benchmarks/experiments.py {name}",
    }
    (folder / "experiment.json").write_text(json.dumps(result, indent=1))
    return runs


def stop_after(epochs: int):
    """A callback that ends training after so many epochs."""
    import keras

    def stop(epoch, logs):
        callback.model.stop_training = epoch + 1 >= epochs

    callback = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    return callback


def section(result: dict[str, Any]) -> list[str]:
    """An experiment's figure and table."""
    rows = [
        f"| {label} | {final['value']:.1f} [{final['low']:.1f}, {final['high']:.1f}] |"
        for label, final in result["finals"].items()
    ]
    name = result["experiment"]
    command = next(each for each in COMMANDS if each.__name__ == name.replace("-", "_"))
    what = inspect.getdoc(command).split("\n\n")[0]
    return [
        f"## {name}",
        "",
        what,
        "",
        f"![The return against environment steps](results/{name}/returns.png)",
        "",
        f"| | {result['meaning']} |",
        "|---|---|",
        *rows,
        "",
        f"{result['seeds']} seeds each; {result['seconds']:.0f} s {result['seconds_are']}. "
        f"Again: `{result['command']}`.",
        "",
    ]


if __name__ == "__main__":
    app()
