"""Learns beside Stable-Baselines3: the same settings, budget and seeds, the returns of both with intervals.

    python benchmarks/learning.py run                    # what is not there yet; resumable, hours
    python benchmarks/learning.py run ppo-cartpole       # one task
    python benchmarks/learning.py run --peer-python DIR/bin/python
    python benchmarks/learning.py report                 # benchmarks/results/learning.md

Every training is a process of its own. Both sides play 100 greedy episodes on Gymnasium's environment afterwards. One
file per task, side and seed in `benchmarks/results/learning/`.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Annotated, Any

import numpy as np
import scipy.stats
import typer
from both_sides import ZOO_CARTPOLE, Task, our_model, our_settings, sb3_environment, sb3_model, sb3_parameters

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results" / "learning"
SEEDS = tuple(range(10))
EVALUATION_EPISODES = 100


CARTPOLE: dict[str, Any] = {"env": "CartPole-v1"}
ACROBOT: dict[str, Any] = {"env": "Acrobot-v1"}
A2C: dict[str, Any] = {"rollout_length": 5, "gae_lambda": 1.0, "value_coef": 0.5, "entropy_coef": 0.0}
DQN_CARTPOLE: dict[str, Any] = {
    **CARTPOLE, "algorithm": "dqn", "num_envs": 1, "hidden": (256, 256), "learning_rate": 2.3e-3,
    "epsilon": (0.16, 0.04),
    "settings": {
        "rollout_length": 256, "gradient_steps": 128, "batch_size": 64, "discount": 0.99, "target_every": 128,
        "replay_size": 100_000, "learning_starts": 1_000, "max_gradient_norm": 10.0,
    },
}  # fmt: skip
TASKS: dict[str, tuple[Task, int]] = {
    "ppo-cartpole": (ZOO_CARTPOLE, 100_000),
    "ppo-acrobot": (
        Task(
            **ACROBOT, algorithm="ppo", num_envs=16, hidden=(64, 64), learning_rate=3e-4,
            settings={
                "rollout_length": 256, "epochs": 4, "num_minibatches": 64, "discount": 0.99, "gae_lambda": 0.94,
                "clip_epsilon": 0.2, "value_coef": 0.5, "entropy_coef": 0.0, "max_gradient_norm": 0.5,
            },
        ),
        200_000,
    ),
    "a2c-cartpole": (
        Task(
            **CARTPOLE, algorithm="a2c", num_envs=8, hidden=(64, 64), learning_rate=7e-4,
            settings={**A2C, "discount": 0.99, "max_gradient_norm": 0.5},
        ),
        200_000,
    ),
    "a2c-acrobot": (
        Task(
            **ACROBOT, algorithm="a2c", num_envs=16, hidden=(64, 64), learning_rate=7e-4,
            settings={**A2C, "discount": 0.99, "max_gradient_norm": 0.5},
        ),
        200_000,
    ),
    "dqn-cartpole": (Task(**DQN_CARTPOLE), 50_000),
    "dqn-cartpole-fan-in": (Task(**DQN_CARTPOLE, initial_weights="fan_in"), 50_000),
    "dqn-acrobot": (
        Task(
            **ACROBOT, algorithm="dqn", num_envs=1, hidden=(256, 256), learning_rate=6.3e-4,
            epsilon=(0.12, 0.1),
            settings={
                "rollout_length": 4, "gradient_steps": 4, "batch_size": 128, "discount": 0.99, "target_every": 248,
                "replay_size": 50_000, "learning_starts": 1_000, "max_gradient_norm": 10.0,
            },
        ),
        100_000,
    ),
}  # fmt: skip
"""What both sides do, and for how many environment steps."""

SAME_PEER = {"dqn-cartpole-fan-in": "dqn-cartpole"}
"""Tasks that differ on our side only, and whose runs of the other side they have."""

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def run(
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks; all if none is named.")] = None,
    peer_python: str = sys.executable,
):
    """Train what is not there yet, the sides taking turns."""
    for name in tasks or TASKS:
        if name not in TASKS:
            raise typer.BadParameter(f"unknown task {name!r}; known: {', '.join(TASKS)}")
        for seed in SEEDS:
            for side, python in (("ours", sys.executable), ("sb3", peer_python)):
                if side == "sb3" and name in SAME_PEER:
                    continue
                path = RESULTS / f"{name}-{side}-{seed}.json"
                if not path.exists():
                    subprocess.run([python, __file__, "one", name, side, str(seed)], check=True)


@app.command()
def one(name: str, side: str, seed: int):
    """One training, in this process."""
    returns, facts = {"ours": our_returns, "sb3": sb3_returns}[side](*TASKS[name], seed)
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"task": name, "side": side, "seed": seed, "mean": float(np.mean(returns)), "returns": returns, **facts}
    (RESULTS / f"{name}-{side}-{seed}.json").write_text(json.dumps(result))
    print(f"{name} {side} seed {seed}: {np.mean(returns):.1f}")


@app.command()
def report():
    """Write learning.md from the tasks that all seeds of both sides have done."""
    from kerasrl_pg.seed_runs import interquartile_mean

    lines = [HEADER]
    for name, (task, steps) in TASKS.items():
        means = {"ours": stored_means(name, "ours"), "sb3": stored_means(SAME_PEER.get(name, name), "sb3")}
        if all(len(values) == len(SEEDS) for values in means.values()):
            ours, peer = (interquartile_mean(values) for values in means.values())
            overlap = ours.low <= peer.high and peer.low <= ours.high
            verdict = "overlap" if overlap else "above" if ours.value > peer.value else "below"
            apart = difference(means["ours"], means["sb3"])
            cells = [name, task.env, f"{steps:,}", len(means["ours"]), shown(ours), shown(peer), verdict, apart]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    (HERE / "results" / "learning.md").write_text("\n".join(lines) + "\n")


HEADER = """# Learning beside Stable-Baselines3

Written by `python benchmarks/learning.py report`. The same hyperparameters, budget and seeds; each figure is the
interquartile mean over the seeds of the mean of 100 greedy episodes after training, with a 95 % bootstrap interval;
*ours - theirs* is the difference of the two, with an interval of its own. In `dqn-cartpole-fan-in` our network begins
with weights that are drawn as PyTorch's are, instead of orthogonal ones.

| task | environment | steps | seeds | ours | Stable-Baselines3 | our interval | ours - theirs |
|---|---|---|---|---|---|---|---|"""


def stored_means(name: str, side: str) -> np.ndarray:
    paths = (RESULTS / f"{name}-{side}-{seed}.json" for seed in SEEDS)
    return np.array([json.loads(path.read_text())["mean"] for path in paths if path.exists()])


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Of the interquartile means over each side's seeds, whose order means nothing, with its bootstrap interval."""

    def between(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
        return scipy.stats.trim_mean(first, 0.25, axis=axis) - scipy.stats.trim_mean(second, 0.25, axis=axis)

    value = np.round(between(ours, theirs), 1) + 0.0  # no "-0.0"
    if np.ptp(ours) == 0 and np.ptp(theirs) == 0:
        return f"{value:.1f}"
    found = scipy.stats.bootstrap((ours, theirs), between, method="percentile", rng=0).confidence_interval
    low, high = np.round([found.low, found.high], 1) + 0.0
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def shown(interval: Any) -> str:
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def our_returns(task: Task, steps: int, seed: int) -> tuple[list[float], dict[str, Any]]:
    """Train and evaluate with this library."""
    import kerasrl_pg as krl

    algorithm, optimizer = our_settings(task, steps)
    runs = krl.fit_seeds(
        task.env, algorithm, seeds=[seed], steps=steps, num_envs=task.num_envs, model=our_model(task),
        optimizer=optimizer, verbose=0,
    )  # fmt: skip
    evaluation = runs.agent.evaluate(episodes=EVALUATION_EPISODES, seed=1000 + seed)
    facts = {"parameters": runs.agent.model.count_params(), "gradient_steps": int(runs.agent.optimizer.iterations)}
    return evaluation.returns.tolist(), facts


def sb3_returns(task: Task, steps: int, seed: int) -> tuple[list[float], dict[str, Any]]:
    """Train and evaluate with Stable-Baselines3, PyTorch on one thread, so that trainings can run side by side."""
    import torch
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    model = sb3_model(task, steps, seed)
    model.learn(steps)
    evaluation_env = sb3_environment(task.env, 8, 1000 + seed)
    returns, _ = evaluate_policy(model, evaluation_env, EVALUATION_EPISODES, return_episode_rewards=True)
    parameters = sb3_parameters(task, model)
    facts = {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "gradient_steps": int(model.policy.optimizer.state[parameters[0]]["step"]),
    }
    return [float(value) for value in returns], facts


if __name__ == "__main__":
    app()
