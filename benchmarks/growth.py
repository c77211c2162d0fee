"""How speed and memory of PPO grow with environments, with minibatches and with the network.

    python benchmarks/growth.py run             # what is not there yet: ten minutes on 2 idle cores
    python benchmarks/growth.py run atari-environments
    python benchmarks/growth.py report          # benchmarks/results/growth.md and growth.png

Every point is a process of its own, which trains for some seconds after its first update.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from typing import Annotated, Any

import typer

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results" / "growth"
SECONDS = 6.0
ROLLOUT = 128
EPOCHS = 4
STEPS_PER_EPOCH = 65_536
"""At least, of environments in the graph: Python is called once an epoch."""
CARTPOLE, PONG = "CartPole-v1", "ALE/Pong-v5"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A training to time: PPO, rollouts of 128 steps, 4 epochs."""

    env: str
    num_envs: int
    num_minibatches: int = 4
    width: float = 1.0
    """CartPole: of two perceptrons, times 64 units a layer; Pong: of the Nature network, times its channels."""
    in_graph: bool = True


def environments(env: str, counts: tuple[int, ...], in_graph: bool = True) -> dict[int, Point]:
    """A point for each number of environments."""
    return {count: Point(env=env, num_envs=count, in_graph=in_graph) for count in counts}


def minibatches(env: str, num_envs: int, counts: tuple[int, ...]) -> dict[int, Point]:
    """A point for each number of samples in a minibatch; the rollout stays."""
    points = [Point(env=env, num_envs=num_envs, num_minibatches=count) for count in counts]
    return {num_envs * ROLLOUT // point.num_minibatches: point for point in points}


def widths(env: str, num_envs: int, factors: tuple[float, ...]) -> dict[float, Point]:
    """A point for each width of the network."""
    return {factor: Point(env=env, num_envs=num_envs, width=factor) for factor in factors}


SERIES: dict[str, tuple[str, dict[Any, Point]]] = {
    "graph-environments": ("environments", environments(CARTPOLE, (1, 4, 16, 64, 256, 1024, 4096))),
    "vector-environments": ("environments", environments(CARTPOLE, (1, 4, 16, 64, 256), in_graph=False)),
    "atari-environments": ("environments", environments(PONG, (1, 2, 4, 8, 16, 32, 64))),
    "graph-minibatch": ("samples in a minibatch", minibatches(CARTPOLE, 64, (128, 32, 8, 2, 1))),
    "atari-minibatch": ("samples in a minibatch", minibatches(PONG, 8, (16, 8, 4, 2, 1))),
    "graph-width": ("width of the network", widths(CARTPOLE, 64, (0.25, 0.5, 1, 2, 4, 8))),
    "atari-width": ("width of the network", widths(PONG, 8, (0.25, 0.5, 1, 2))),
}
"""What varies, and the points by its values."""
TITLES = {
    "graph": "CartPole in the graph",
    "vector": "CartPole of Gymnasium",
    "atari": "Pong, precision of the preset",
}

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def run(series: Annotated[list[str] | None, typer.Argument(help="Series; all if none is named.")] = None):
    """Time what is not there yet."""
    for name in series or SERIES:
        if name not in SERIES:
            raise typer.BadParameter(f"unknown series {name!r}; known: {', '.join(SERIES)}")
        for value in SERIES[name][1]:
            if not path_of(name, value).exists():
                subprocess.run([sys.executable, __file__, "one", name, str(value)], check=True)


def path_of(name: str, value: float) -> pathlib.Path:
    return RESULTS / f"{name}-{value:g}.json"


@app.command()
def one(name: str, value: float):
    """Time one point in this process."""
    load = os.getloadavg()[0]
    point = SERIES[name][1][value]
    marks, parameters = train(point)
    (started, steps_before), (ended, steps) = marks[0], marks[-1]
    result = {
        "steps_per_second": (steps - steps_before) / (ended - started),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux counts kibibytes
        "parameters": parameters,
        "point": dataclasses.asdict(point),
        "load_before": load,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path_of(name, value).write_text(json.dumps(result, indent=1) + "\n")
    print(f"{name} {value:g}: {result['steps_per_second']:,.0f} steps/s", flush=True)


def train(point: Point) -> tuple[list[tuple[float, int]], int]:
    """`(time, steps)` after each epoch, for some seconds after the first; and the network's parameters."""
    import keras

    import kerasrl_pg as krl

    marks: list[tuple[float, int]] = []

    def on_epoch_end(_epoch, logs):
        marks.append((time.perf_counter(), logs["steps"]))
        clock.model.stop_training = len(marks) > 1 and marks[-1][0] - marks[0][0] > SECONDS

    clock = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)
    agent = krl.fit_agent(
        point.env,
        krl.PPO(rollout_length=ROLLOUT, epochs=EPOCHS, num_minibatches=point.num_minibatches),
        model=network_of(point),
        mixed_precision="auto" if point.env == PONG else None,
        optimizer=keras.optimizers.Adam(2.5e-4),
        steps=2**31 - 1,
        steps_per_epoch=STEPS_PER_EPOCH if point.env == CARTPOLE and point.in_graph else ROLLOUT * point.num_envs,
        num_envs=point.num_envs,
        in_graph=point.in_graph,
        seed=0,
        callbacks=[clock],
        verbose=0,
    )
    return marks, agent.model.count_params()


def network_of(point: Point):
    """Builds the network of a point."""
    from kerasrl_pg.models import actor_critic, mlp_trunk, nature_conv_trunk

    def build(observation_space, action_space, seed):
        if point.env == PONG:
            return actor_critic(observation_space, action_space, trunk=nature_conv_trunk(width=point.width))
        hidden = (round(64 * point.width),) * 2
        trunks = {"trunk": mlp_trunk(hidden), "critic_trunk": mlp_trunk(hidden, seed=1)}
        return actor_critic(observation_space, action_space, **trunks)

    return build


@app.command()
def report():
    """Write growth.md and growth.png from what is there."""
    from results import machine

    lines = [HEADER.format(**machine())]
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for name, (varies, points) in SERIES.items():
        paths = {value: path_of(name, value) for value in points if path_of(name, value).exists()}
        if not paths:
            continue
        found[name] = [(value, json.loads(path.read_text())) for value, path in paths.items()]
        title = TITLES[name.partition("-")[0]]
        lines += [
            f"\n## {title}: {varies}\n",
            f"| {varies} | parameters | steps/s | peak memory | load |",
            "|---" * 5 + "|",
        ]
        lines += [
            f"| {value:g} | {each['parameters']:,} | {each['steps_per_second']:,.0f} "
            f"| {each['peak_bytes'] / 2**30:.2f} GiB | {each['load_before']:.1f} |"
            for value, each in found[name]
        ]
    (HERE / "results" / "growth.md").write_text("\n".join(lines) + "\n")
    draw(found).savefig(HERE / "results" / "growth.png")


HEADER = """# How cost grows

Written by `python benchmarks/growth.py report`; each line is a process of its own that trained for some seconds after
its first update. PPO with rollouts of 128 steps and 4 epochs of, where nothing else is said, 4 minibatches; 64
CartPoles or 8 Pongs where their number does not vary. Width 1 is two perceptrons of 64-64, or the Nature network.
Memory is the most that the process ever took, TensorFlow itself included. {processor}, {cores} cores.

![steps per second and memory](growth.png)"""


def draw(found: dict[str, list[tuple[float, dict[str, Any]]]]):
    """Speed above, memory below; a column for what varies."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, StrMethodFormatter

    from kerasrl_pg.plotting import PALETTE

    figure = Figure(figsize=(10.5, 5.6), dpi=150, layout="constrained")
    columns = list(dict.fromkeys(SERIES[name][0] for name in found))
    axes = figure.subplots(2, len(columns), sharex="col", sharey="row", squeeze=False)
    for name, measured in found.items():
        column = columns.index(SERIES[name][0])
        path = name.partition("-")[0]
        style = {"marker": "o", "color": PALETTE[list(TITLES).index(path)]}
        values = [value for value, _ in measured]
        label = TITLES[path] if column == 0 else None
        axes[0, column].plot(values, [each["steps_per_second"] for _, each in measured], label=label, **style)
        axes[1, column].plot(values, [each["peak_bytes"] / 2**30 for _, each in measured], **style)
    for column, varies in enumerate(columns):
        axes[0, column].set_xscale("log", base=2)
        axes[0, column].set_yscale("log")
        axes[1, column].set(xlabel=varies, ylim=(0, None))
        for each in axes[:, column]:
            each.grid(alpha=0.3)
        axes[1, column].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[0, 0].set_ylabel("environment steps per second")
    axes[0, 0].yaxis.set_major_formatter(EngFormatter())
    axes[1, 0].set_ylabel("peak memory, GiB")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    app()
