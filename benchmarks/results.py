"""Trains presets, a row of a table each, over several seeds and writes `docs/results.md` from what was measured.

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
import re
import shutil
import time
from typing import Annotated

import numpy as np
import scipy.stats
import typer

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
CHECKPOINTS = ROOT / "runs" / "results"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a preset, its budget and its target."""

    preset: str
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int
    target: float
    """The target, of what the row is `judged_by`."""
    judged_by: str = "evaluation"
    """"evaluation"; "training": any 100 episodes in a row; "paths": the share of a grid's cells from which the greedy
    policy takes a shortest path; "rounds": epochs until a test of `test_episodes` passed `test_return`."""
    stop_return: float | None = None
    test_episodes: int = 0
    """Episodes of the test after each epoch, actions drawn from the policy; training stops at `test_return`."""
    test_return: float | None = None
    env_options: dict = dataclasses.field(default_factory=dict)
    """Other than the preset's."""
    evaluation_episodes: int = 100
    save_policy: bool = False
    """Export the policy of the first seed to `saved_models/`, and film it."""
    checkpoint: bool = False
    """Save after every epoch, for trainings of many minutes."""


GRID = {"judged_by": "paths", "target": 1.0}
VARIANTS = (
    "dqn",
    "dqn-without-target",
    "double-dqn",
    "dueling-dqn",
    "dueling-max-dqn",
    "prioritized-dqn",
    "n-step-dqn",
)


def grid_row(preset: str, task: str) -> Row:
    """A preset of the grid world on one of its tasks."""
    from kerasrl_pg.presets import PRESETS

    return Row(preset=preset, steps=PRESETS[preset].steps, env_options={"task": task}, **GRID)


ROWS = {
    "cartpole-ppo": Row(preset="cartpole-ppo", steps=100_000, target=500.0, save_policy=True),
    "cartpole-a2c": Row(preset="cartpole-a2c", steps=500_000, target=475.0),
    "cartpole-reinforce": Row(preset="cartpole-reinforce", steps=1_000_000, target=475.0),
    "acrobot-ppo": Row(preset="acrobot-ppo", steps=500_000, target=-80.0),
    "pendulum-ppo": Row(preset="pendulum-ppo", steps=300_000, target=-180.0, evaluation_episodes=500),
    "mountaincar-continuous-ppo": Row(preset="mountaincar-continuous-ppo", steps=500_000, target=90.0),
    "cartpole-cross-entropy": Row(preset="cartpole-cross-entropy", steps=1_000_000, target=475.0, stop_return=475.0),
    "cartpole-reinforce-lesson": Row(
        preset="cartpole-reinforce-lesson",
        seeds=tuple(range(10)),
        steps=2_000_000,
        target=10,
        judged_by="rounds",
        test_episodes=10,
        test_return=180.0,
    ),
    "cartpole-reinforce-batched": Row(preset="cartpole-reinforce-batched", steps=1_000_000, target=475.0),
    "cartpole-a2c-monte-carlo": Row(preset="cartpole-a2c-monte-carlo", steps=500_000, target=475.0, stop_return=475.0),
    "cartpole-reinforce-dropout": Row(
        preset="cartpole-reinforce-dropout", steps=250_000, target=475.0, stop_return=475.0
    ),
    "cartpole-actor-critic": Row(preset="cartpole-actor-critic", steps=500_000, target=290.0, stop_return=290.0),
    **{f"cartpole-{name}": Row(preset=f"cartpole-{name}", steps=200_000, target=475.0) for name in VARIANTS},
    "acrobot-dqn": Row(preset="acrobot-dqn", steps=100_000, target=-100.0),
    "grid-nfq-simple": grid_row("grid-nfq", "simple"),
    "grid-nfq-obstacle": grid_row("grid-nfq", "obstacle"),
    "grid-dqn-simple": grid_row("grid-dqn", "simple"),
    "grid-dqn-obstacle": grid_row("grid-dqn", "obstacle"),
    **{f"grid-{name}": grid_row(f"grid-{name}", "obstacle") for name in VARIANTS[1:]},
    "pong-fast": Row(
        preset="pong-fast", seeds=(0, 1, 2), steps=850_000, target=20.0, save_policy=True, checkpoint=True
    ),
    "pong-ppo": Row(
        preset="pong-ppo", seeds=(0,), steps=3_000_000, target=-20.0, judged_by="training", checkpoint=True
    ),
    "doom-ppo": Row(preset="doom-ppo", seeds=(0,), steps=1_250_000, target=20.0, checkpoint=True),
    "doom-a2c": Row(preset="doom-a2c", seeds=(0,), steps=1_250_000, target=10.0, checkpoint=True),
    "pong-a2c": Row(preset="pong-a2c", seeds=(0,), steps=2_000_000, target=18.0, stop_return=18.0, checkpoint=True),
    # As far as so many steps take it; with these settings others train for ten million.
    "pong-a2c-baselines": Row(
        preset="pong-a2c-baselines", seeds=(0,), steps=3_000_000, target=18.0, stop_return=18.0, checkpoint=True
    ),
    "pong-dqn": Row(preset="pong-dqn", seeds=(0,), steps=2_000_000, target=18.0, stop_return=18.0, checkpoint=True),
}

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
    import kerasrl_pg as krl
    from kerasrl_pg.episode_log import EpisodeLog
    from kerasrl_pg.presets import PRESETS

    lines = [HEADER]
    for name, row in ROWS.items():
        results = [json.loads(path.read_text()) for path in sorted((RESULTS / name).glob("seed-*.json"))]
        if results:
            lines.append(table_line(name, row, results))
    lines.append("")
    for name, row in ROWS.items():
        logs = [EpisodeLog.from_csv(path) for path in sorted((RESULTS / name).glob("seed-*-episodes.csv"))]
        if logs:
            krl.plot_history(logs, RESULTS / name / "learning_curve.png")
            lines.append(section(name, row, PRESETS[row.preset], len(logs)))
        if (ROOT / "saved_models" / name).exists():
            (ROOT / "saved_models" / name / "README.md").write_text(model_card(name))
    (ROOT / "docs" / "results.md").write_text("\n".join(lines))


@app.command()
def play(row: Annotated[str, typer.Argument(help="A row that saves its policy.")]):
    """Evaluate what a row exported to saved_models/, in float32 and without the agent that it came from."""
    import kerasrl_pg as krl
    from kerasrl_pg.evaluate import evaluate_policy
    from kerasrl_pg.presets import PRESETS

    if row not in ROWS or not ROWS[row].save_policy:
        known = ", ".join(name for name, each in ROWS.items() if each.save_policy)
        raise typer.BadParameter(f"unknown row {row!r}; those that save their policy: {known}")
    episodes = ROWS[row].evaluation_episodes
    environment = krl.make_env(PRESETS[ROWS[row].preset].env).make_evaluation(episodes)
    act = krl.load_policy(ROOT / "saved_models" / row).act
    played = evaluate_policy(act, environment, episodes=episodes, seed=2000)
    found = {"episodes": episodes, "mean": played.mean, "std": played.std, "returns": played.returns.tolist()}
    (RESULTS / row / "exported.json").write_text(json.dumps(found, indent=1))


HEADER = """# Results

Written by `python benchmarks/results.py report` from the files in [`results/`](results); nothing here is typed by hand.
`python benchmarks/results.py run ROW` measures a row anew once its files are removed.

*Evaluation* is the mean return of the greedy policy over 100 episodes after training (Pendulum: 500), on Gymnasium's
own environment (Atari: ale-py's vector environment, whole games, rewards not clipped), over the seeds of training, with
a 95 % bootstrap interval where there is more than one seed. *Worst seed* is the lowest of the seeds' means. *Last 100*
is the mean return of the last 100 training episodes, which draw their actions from the policy or, where action values
are learned, explore. *Training* is the time per seed, compilation included; it was taken while the machine did other
work as well, so it is an upper bound (for speed see `benchmarks/`).

What compares several methods or settings in one figure (the lab's three agents, the sweep over the entropy bonus, the
precisions) is on a page of its own: [experiments](experiments.md).

| row | environment | steps | seeds | target | evaluation | worst seed | last 100 | target met | training |
|---|---|---|---|---|---|---|---|---|---|"""


def table_line(name: str, row: Row, results: list[dict]) -> str:
    """One line of the table."""
    means = np.array([result["evaluation"]["mean"] for result in results])
    last = np.array([result["last_100_training_episodes"] for result in results])
    seconds = np.median([result["training_seconds"] for result in results])
    steps = int(np.median([result["agent"]["steps"] for result in results]))
    target, met = judgement(row, results)
    cells = [
        f"[{name}](#{name})",
        ", ".join([results[0]["agent"]["environment"], *map(str, row.env_options.values())]),
        f"{steps:,}",
        len(results),
        target,
        with_interval(means),
        f"{means.min():.1f}",
        with_interval(last),
        met,
        f"{seconds:.0f} s",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def judgement(row: Row, results: list[dict]) -> tuple[str, str]:
    """The target, and how many seeds reached it."""
    of = f"of {len(results)}"
    if row.judged_by == "rounds":
        rounds = np.array([result["rounds"] for result in results])
        spread = f"median {np.median(rounds):g}, {rounds.min()} to {rounds.max()}"
        return f"≤ {row.target:g} rounds to {row.test_return:g}", f"{(rounds <= row.target).sum()} {of} ({spread})"
    if row.judged_by == "paths":
        shares = np.array([result["shortest_paths"] for result in results])
        worst = f"; worst {shares.min():.0%} of cells" if shares.min() < 1 else ""
        return "shortest path from every cell", f"{(shares >= row.target).sum()} {of}{worst}"
    if row.judged_by == "training":
        reached = [result["target_reached_at_step"] for result in results]
        steps = [step for step in reached if step is not None]
        first = f" (first after {', '.join(f'{step:,}' for step in steps)} steps)" if steps else ""
        return f"{row.target:g} over 100 episodes in training", f"{len(steps)} {of}{first}"
    means = np.array([result["evaluation"]["mean"] for result in results])
    return f"{row.target:g}", f"{(means >= row.target).sum()} {of}"


def with_interval(values: np.ndarray) -> str:
    """The mean and, of more than one value, its 95 % bootstrap interval."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    if np.ptp(values) == 0:
        return f"{values[0]:.1f} (all equal)"
    interval = scipy.stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    return f"{values.mean():.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def section(name: str, row: Row, preset, seeds: int) -> str:
    """A row's curve and how to get it again."""
    result = json.loads((RESULTS / name / f"seed-{row.seeds[0]}.json").read_text())
    agent, made_on = result["agent"], result["machine"]
    protocol = listed(agent["protocol"])
    versions = listed(made_on)
    changed = ", ".join(changes(agent, preset.build(row.steps, preset.num_envs)))
    return "\n".join(
        [
            f"## {name}",
            "",
            f"![Episode return against environment steps](results/{name}/learning_curve.png)",
            "",
            f"`{call(row, preset)}`, {counted(seeds, 'seed')}, {counted(preset.num_envs, 'environment')}; "
            f"settings from: {preset.source}.",
            "",
            f"* {agent['algorithm']['name']}: {listed(agent['algorithm']['settings'])}.",
            f"* Optimizer: {optimizer_line(agent['optimizer'])}.",
            *([f"* The preset has changed since: {changed}."] if changed else []),
            *([f"* Protocol: {protocol}."] if protocol else []),
            *([f"* The player: [video](results/{name}/player.mp4)."] if row.save_policy else []),
            f"* Machine: {versions}.",
            f"* Again: `{result['command']}`.",
            "",
        ]
    )


def changes(agent: dict, settings) -> list[str]:
    """Where a measured agent's algorithm and optimizer are not the preset's of today; settings of since are left out.

    Of what the model is and how a game is presented, files of results say nothing, or not all.
    """
    from kerasrl_pg.any_optimizer import described
    from kerasrl_pg.saving import settings_to_json

    pairs = [
        (agent["algorithm"]["settings"], settings_to_json(settings.algorithm)),
        (parts(agent["optimizer"]), parts(described(settings.optimizer))),
    ]
    return [
        f"{name} {shown(value)} (now {shown(today[name]) if name in today else 'gone'})"
        for measured, today in pairs
        for name, value in measured.items()
        if name not in today or json.loads(json.dumps(today[name])) != value
    ]


def parts(optimizer: dict) -> dict:
    """An optimizer's settings as an optimizer's; its name without the number that Keras gives it."""
    settings = {f"the optimizer's {name}": value for name, value in optimizer.items() if name != "name"}
    return {"optimizer": re.sub(r"_\d+$", "", optimizer["name"]), **settings}


def call(row: Row, preset) -> str:
    """The training as a user would write it."""
    options = {"steps": f"{row.steps:_}", "stop_return": row.stop_return, "env_options": row.env_options}
    given = [f"{name}={value}" for name, value in options.items() if value]
    if row.test_return is not None:
        stop = f"StopAtReturn(value={row.test_return:g})"
        given += [f"eval_episodes={row.test_episodes}", "eval_sample=True", f"callbacks=[krl.{stop}]"]
    return f"fit_agent({', '.join([repr(preset.env), repr(row.preset), *given])})"


def listed(facts: dict) -> str:
    """Names and values in a line."""
    return ", ".join(f"{name} {shown(value)}" for name, value in facts.items())


def shown(value) -> str:
    """A setting: a schedule by its ends, a sampler by its fields."""
    match value:
        case {"config": {"initial_learning_rate": first, "end_learning_rate": last}}:
            return f"{first:g}→{last:g}"
        case {"config": {"initial_learning_rate": first, "warmup_steps": held, "decay_steps": falling}}:
            return f"{first:g}→0 (gradient steps {held} to {held + falling})"
        case {"prioritized": fields}:
            return f"Prioritized({listed(fields)})"
        case _:
            return str(value)


def optimizer_line(config: dict) -> str:
    """An optimizer's name and its learning rate."""
    name, rate = parts(config)["optimizer"], config["learning_rate"]
    return f"{name}, learning_rate {shown(rate) if isinstance(rate, dict) else f'{rate:g}'}"  # a constant is a float32


def counted(number: int, noun: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def model_card(name: str) -> str:
    """What a policy in saved_models/ is, what it reaches and how it was made."""
    result = json.loads((RESULTS / name / f"seed-{ROWS[name].seeds[0]}.json").read_text())
    agent, played = result["agent"], json.loads((RESULTS / name / "exported.json").read_text())
    returns = f"{played['mean']:.1f} ± {played['std']:.1f} over {played['episodes']} episodes"
    protocol = listed(agent["protocol"]) or "Gymnasium's defaults"
    return f"""# {name}

| | |
|---|---|
| environment | {agent["environment"]} |
| protocol | {protocol} |
| algorithm | {agent["algorithm"]["name"]}, {agent["steps"]:,} environment steps, seed {agent["seed"]} |
| evaluation | {returns}, greedy actions, of this file |
| made by | `{result["command"]}` |
| settings, spaces, tensors, versions | [metadata.json](metadata.json) |
| curve and table | [docs/results.md](../../docs/results.md#{name}) |

Intended for demonstration and teaching. It knows nothing but this environment under this protocol.
"""


def measure(name: str, seed: int) -> None:
    """Train one seed of one row, evaluate it and write what came out."""
    import kerasrl_pg as krl
    from kerasrl_pg.presets import PRESETS

    row = ROWS[name]
    checkpoint = CHECKPOINTS / f"{name}-{seed}" if row.checkpoint else None
    env = PRESETS[row.preset].env
    started = time.perf_counter()
    stop = krl.StopAtReturn(value=row.test_return) if row.test_return is not None else None
    agent = krl.fit_agent(
        env,
        row.preset,
        steps=row.steps,
        seed=seed,
        stop_return=row.stop_return,
        callbacks=[stop] if stop else [],
        eval_episodes=row.test_episodes,
        eval_sample=bool(row.test_episodes),
        env_options=row.env_options,
        verbose=2,
        checkpoint=checkpoint,
    )
    wall = time.perf_counter() - started
    history = agent.history.history
    evaluation = agent.evaluate(episodes=row.evaluation_episodes, seed=1000 + seed)
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    if row.save_policy and seed == row.seeds[0]:
        target = ROOT / "saved_models" / name
        shutil.rmtree(target, ignore_errors=True)
        agent.export(target)
        play(name)
        (folder / "player.mp4").unlink(missing_ok=True)
        krl.record_video(agent, folder / "player.mp4", seed=1000 + seed)
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
        "best_100_training_episodes": agent.episodes.best_return if len(agent.episodes) >= 100 else None,
        "target_reached_at_step": agent.episodes.solved_at(row.target),
        "rounds": len(history["steps"]) if row.judged_by == "rounds" else None,
        "shortest_paths": share_of_shortest_paths(agent) if row.judged_by == "paths" else None,
        "training_seconds": seconds_of(history),
        "wall_seconds_of_the_last_start": wall,
        "agent": agent.describe(),
        "machine": machine(),
        "command": f"python benchmarks/results.py run {name}",
    }
    (folder / f"seed-{seed}.json").write_text(json.dumps(result, indent=1))


def share_of_shortest_paths(agent) -> float:
    """Of the cells from which the goal can be reached, those from which the greedy policy takes a shortest path."""
    from kerasrl_pg.envs import gridworld_values

    options = agent.environment.options
    task, kind = options["task"], options["observation"]
    action_values = gridworld_values.action_values_of_cells(agent, task, kind)
    shortest = gridworld_values.shortest_path_lengths(task)
    reachable = shortest > 0  # -1 marks walls and cells without a path, 0 the goal
    walked = gridworld_values.greedy_path_lengths(task, action_values)
    return float((walked == shortest)[reachable].mean())


def seconds_of(history: dict[str, list[float]]) -> float:
    """How long a training took, compilation included, in one sitting or in several."""
    return float(np.sum(np.diff([0, *history["steps"]]) / np.array(history["steps_per_second"])))


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
