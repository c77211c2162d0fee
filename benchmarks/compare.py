"""Times this library beside Stable-Baselines3 and rejax: the same work, on the same machine, in one run.

    python benchmarks/compare.py                    # all workloads: about half an hour on 2 idle cores
    python benchmarks/compare.py --quick            # one short repeat of each, to see that it works: 5 minutes
    python benchmarks/compare.py --only pong        # one workload
    python benchmarks/compare.py --sb3-python DIR/bin/python     # Stable-Baselines3 lives in another environment
    python benchmarks/compare.py --rejax-python DIR/bin/python   # so does rejax, always: its packages exclude ours

Every measurement is a process of its own, and the sides take turns, so that a slow minute of the machine hits all of
them. Each process says what work it really did, counted from its own objects; a comparison of unequal work is an error.
rejax is PPO in JAX with the environment in the compiled program, after PureJaxRL, which is not a package.
PyTorch runs with its default threads and with one, and ratios are judged against the faster: on a small perceptron the
default can be many times slower, above all on a machine that does something else too.
What was measured goes to `benchmarks/results/`: a JSON per workload, and `compare.md` made from them.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from both_sides import ZOO_CARTPOLE, Task, our_model, our_settings, sb3_environment, sb3_model, sb3_parameters

HERE = pathlib.Path(__file__).resolve().parent
REPEATS = 3
IDLE_LOAD = 0.3
"""One-minute load average of a machine that does nothing else."""
MOST_EXTRA_GRADIENT_STEPS = 0.06
"""Share by which our gradient steps may pass the peer's: Gymnasium's vector CartPole spends a step on each reset, which
we do not count as experience, so the same number of environment steps takes us more updates."""
PACKAGES = {
    "ours": ("kerasrl-pg", "tensorflow", "keras", "gymnasium", "ale-py", "numpy"),
    "sb3": ("stable-baselines3", "torch", "gymnasium", "ale-py", "numpy"),
    "rejax": ("rejax", "jax", "gymnax", "numpy"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One of the contestants of a workload."""

    title: str
    library: str = "ours"
    """"ours", "sb3" or "rejax"."""
    threads: int | None = None
    """Stable-Baselines3: PyTorch's threads; None for its default."""
    in_graph: bool = True
    """Ours: step the environment as a TensorFlow graph where it has such a twin."""
    bfloat16: bool = False
    """Ours: compute in bfloat16 where the processor has it."""
    least_ratios: dict[str, float] = dataclasses.field(default_factory=dict)
    """Library of a peer, and the target: how many times the speed of its fastest side."""
    most_seconds: float | None = None
    """The target in seconds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """A training to time."""

    title: str
    task: Task
    steps: int
    """Environment steps, all environments together."""
    quick_steps: int
    steady: bool = True
    """Leave the first tenth out of the time, and with it imports, tracing and compilation; else time everything but
    the imports."""
    evaluation_episodes: int = 0
    """Play the greedy policy after the time is taken, to show that it learned."""
    sides: dict[str, Side]


SB3 = {
    "sb3": Side(title="Stable-Baselines3, default threads", library="sb3"),
    "sb3-1-thread": Side(title="Stable-Baselines3, 1 thread", library="sb3", threads=1),
}
REJAX = {"rejax": Side(title="rejax", library="rejax")}
PEERS = {**SB3, **REJAX}
CARTPOLE = {
    "graph": Side(title="ours, environment in the graph", least_ratios={"sb3": 20.0, "rejax": 1.0}),
    "vector": Side(title="ours, Gymnasium vector environment", in_graph=False, least_ratios={"sb3": 2.0}),
    **PEERS,
}
PONG: dict[str, Any] = {"env": "ALE/Pong-v5", "hidden": None}


def pong_sides(least_ratio: float) -> dict[str, Side]:
    """Atari: bfloat16 where the processor has it, and float32 beside it."""
    return {
        "auto": Side(title="ours, precision of the preset", bfloat16=True, least_ratios={"sb3": least_ratio}),
        "float32": Side(title="ours, float32"),
        **SB3,
    }


def cartpole_of(num_envs: int) -> Task:
    """PPO as CleanRL and PureJaxRL have it, but for the number of environments."""
    return Task(
        env="CartPole-v1", algorithm="ppo", num_envs=num_envs, learning_rate=2.5e-4,
        settings={
            "rollout_length": 128, "epochs": 4, "num_minibatches": 4, "discount": 0.99, "gae_lambda": 0.95,
            "clip_epsilon": 0.2, "value_coef": 0.5, "entropy_coef": 0.0, "max_gradient_norm": 0.5,
        },
    )  # fmt: skip


def many_cartpoles(num_envs: int, steps: int) -> Workload:
    """So many environments that only a library that steps them in the compiled program is a peer."""
    graph = Side(title="ours, environment in the graph", least_ratios={"rejax": 1.0})
    return Workload(
        title=f"PPO, CartPole-v1, {num_envs:,} environments, 4 epochs of 4 minibatches",
        task=cartpole_of(num_envs), steps=steps, quick_steps=steps // 4, sides={"graph": graph, **REJAX},
    )  # fmt: skip


WORKLOADS = {
    "cartpole": Workload(
        title="PPO, CartPole-v1, 4 epochs of minibatches of 256 (CleanRL's settings, 8 environments, no annealing)",
        task=cartpole_of(8),
        steps=131_072, quick_steps=65_536, sides=CARTPOLE,
    ),
    "cartpole-64": many_cartpoles(64, steps=1_048_576),
    "cartpole-1024": many_cartpoles(1024, steps=2_621_440),
    "cartpole-zoo": Workload(
        title="PPO, CartPole-v1, 20 epochs of one batch of 256 (Stable-Baselines3 zoo)",
        task=ZOO_CARTPOLE, steps=131_072, quick_steps=32_768,
        sides={name: side for name, side in CARTPOLE.items() if name not in REJAX},
    ),
    "cartpole-solved": Workload(
        title="PPO, CartPole-v1, 100,000 steps from a cold start, building, tracing and compiling included",
        task=ZOO_CARTPOLE, steps=100_000, quick_steps=100_000, steady=False, evaluation_episodes=100,
        sides={"graph": Side(title="ours, environment in the graph", most_seconds=4.0), **SB3},
    ),
    "pong": Workload(
        title="PPO, Pong, Nature network (Stable-Baselines3 zoo)",
        task=Task(
            **PONG, algorithm="ppo", num_envs=8, learning_rate=2.5e-4,
            settings={
                "rollout_length": 128, "epochs": 4, "num_minibatches": 4, "discount": 0.99, "gae_lambda": 0.95,
                "clip_epsilon": 0.1, "value_coef": 0.5, "entropy_coef": 0.01, "max_gradient_norm": 0.5,
            },
        ),
        steps=20_480, quick_steps=4_096, sides=pong_sides(least_ratio=2.2),
    ),
    "pong-a2c": Workload(
        title="A2C, Pong, Nature network (Stable-Baselines3 zoo)",
        task=Task(
            **PONG, algorithm="a2c", num_envs=16, learning_rate=7e-4,
            settings={
                "rollout_length": 5, "discount": 0.99, "gae_lambda": 1.0, "value_coef": 0.25, "entropy_coef": 0.01,
                "max_gradient_norm": 0.5,
            },
        ),
        steps=24_000, quick_steps=4_000, sides=pong_sides(least_ratio=2.4),
    ),
    "pong-dqn": Workload(
        title="DQN, Pong, Nature network, a batch of 32 for every 4 environment steps (Mnih et al. 2015)",
        task=Task(
            **PONG, algorithm="dqn", num_envs=8, learning_rate=1e-4, epsilon=(0.1, 0.1),
            settings={
                "rollout_length": 4, "gradient_steps": 8, "batch_size": 32, "discount": 0.99, "target_every": 2_500,
                "replay_size": 20_000, "learning_starts": 512, "max_gradient_norm": 10.0,
            },
        ),
        steps=8_192, quick_steps=2_048, sides=pong_sides(least_ratio=2.5),
    ),
}  # fmt: skip


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short repeat; results go to results/quick")
    parser.add_argument("--only", choices=WORKLOADS, help="one workload")
    parser.add_argument("--report", action="store_true", help="measure nothing: write compare.md from what is there")
    parser.add_argument("--sb3-python", default=sys.executable, help="interpreter that has Stable-Baselines3")
    parser.add_argument("--rejax-python", default=sys.executable, help="interpreter that has rejax")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        side, seed = options.measure
        print(json.dumps(measure(sized(WORKLOADS[options.only], options.quick), side, int(seed))))
        return
    folder = HERE / "results" / ("quick" if options.quick else "")
    folder.mkdir(parents=True, exist_ok=True)
    if options.report:
        write_report(folder)
        return
    load = os.getloadavg()[0] if options.quick else load_once_idle()
    pythons = {"ours": sys.executable, "sb3": options.sb3_python, "rejax": options.rejax_python}
    for name in [options.only] if options.only else WORKLOADS:
        result = compare(name, options.quick, pythons, load)
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(section(result))
    write_report(folder)


def load_once_idle(most_minutes: int = 5) -> float:
    """The load average, waited for until nothing else runs: what ran a minute ago still counts in it."""
    for _ in range(most_minutes * 6):
        if os.getloadavg()[0] <= IDLE_LOAD:
            break
        print(f"waiting for an idle machine: load {os.getloadavg()[0]:.2f}, {IDLE_LOAD:g} at most", flush=True)
        time.sleep(10)
    return os.getloadavg()[0]


def write_report(folder: pathlib.Path) -> None:
    """The tables of all workloads that have been measured."""
    stored = [json.loads((folder / f"{name}.json").read_text()) for name in WORKLOADS if has_result(folder, name)]
    (folder / "compare.md").write_text("# Beside other libraries\n\n" + "\n".join(section(one) for one in stored))
    print(f"written: {folder}/*.json, {folder}/compare.md")


def has_result(folder: pathlib.Path, name: str) -> bool:
    return (folder / f"{name}.json").exists()


def sized(workload: Workload, quick: bool) -> Workload:
    """As it is or, for a quick run, shorter and without the peer on one thread and our own float32."""
    if not quick:
        return workload
    sides = {name: side for name, side in workload.sides.items() if side.threads != 1 and name != "float32"}
    return dataclasses.replace(workload, steps=workload.quick_steps, sides=sides)


def compare(name: str, quick: bool, pythons: dict[str, str], load: float) -> dict[str, Any]:
    """All repeats of one workload, the sides in turn."""
    from results import machine

    workload = sized(WORKLOADS[name], quick)
    libraries = {side.library for side in workload.sides.values()} - {"ours"}
    skipped = {library: why for library in libraries if (why := missing_peer(workload, library, pythons[library]))}
    runnable = [side for side, spec in workload.sides.items() if spec.library not in skipped]
    measurements: dict[str, list[dict[str, Any]]] = {side: [] for side in runnable}
    for repeat in range(1 if quick else REPEATS):
        for side, done in measurements.items():
            done.append(in_own_process(name, side, repeat, quick, pythons[workload.sides[side].library]))
            print(f"{name} {side} repeat {repeat}: {done[-1]['steps_per_second']:,.0f} steps/s", flush=True)
        check_same_work(name, {side: done[-1]["work"] for side, done in measurements.items()})
    return {
        "name": name,
        "workload": dataclasses.asdict(workload),
        "quick": quick,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {key: machine()[key] for key in ("processor", "cores", "python")},
        "load_before": round(load, 2),
        "skipped": skipped,
        "measurements": measurements,
    }


def missing_peer(workload: Workload, library: str, python: str) -> str | None:
    """Why the peer cannot run this workload; None if it can."""
    modules = ["rejax" if library == "rejax" else "stable_baselines3"]
    if workload.task.env.startswith("ALE/"):
        modules += ["ale_py", "cv2"]
    code = "import importlib.util, sys; print(*(m for m in sys.argv[1:] if importlib.util.find_spec(m) is None))"
    absent = subprocess.run([python, "-c", code, *modules], capture_output=True, text=True, check=True).stdout.strip()
    return f"{python} has no {absent.replace(' ', ', ')}" if absent else None


def in_own_process(name: str, side: str, seed: int, quick: bool, python: str) -> dict[str, Any]:
    """What `measure` returns, of a fresh process."""
    command = [python, __file__, "--only", name, "--measure", side, str(seed), *(["--quick"] if quick else [])]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{process.stderr[-3000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def check_same_work(name: str, work: dict[str, dict[str, Any]]) -> None:
    """Compare what the sides counted, each of ours with each of the peer's.

    Raises:
        ValueError: they differ in what makes the work, or ours did fewer gradient steps.
    """
    peers = [side for side in work if side in PEERS]
    for side, peer in ((side, peer) for side in work if side not in PEERS for peer in peers):
        own, other = work[side], work[peer]
        for fact in ("parameters", "num_envs", "rollout_length", "minibatch_size"):
            if own[fact] != other[fact]:
                raise ValueError(f"{name}: {fact} must be equal, {side} has {own[fact]}, {peer} {other[fact]}")
        if abs(own["env_steps"] - other["env_steps"]) >= own["num_envs"] * own["rollout_length"]:
            raise ValueError(
                f"{name}: env_steps must agree within a rollout, {side} has {own['env_steps']}, "
                f"{peer} {other['env_steps']}"
            )
        if not 0 <= own["gradient_steps"] / other["gradient_steps"] - 1 <= MOST_EXTRA_GRADIENT_STEPS:
            raise ValueError(
                f"{name}: gradient_steps must be the peer's, or up to {MOST_EXTRA_GRADIENT_STEPS:.0%} more, "
                f"{side} has {own['gradient_steps']}, {peer} {other['gradient_steps']}"
            )


def measure(workload: Workload, side: str, seed: int) -> dict[str, Any]:
    """Train once in this process.

    Returns:
        The time, the rate, and the work that was counted.
    """
    library = workload.sides[side].library
    run = {"ours": run_ours, "sb3": run_sb3, "rejax": run_rejax}[library]
    marks, work, evaluation = run(workload, workload.sides[side], seed)
    seconds, steps = timed_part(marks, workload.steps // 10 if workload.steady else 0)
    return {
        "seed": seed,
        "seconds": seconds,
        "steps": steps,
        "steps_per_second": steps / seconds,
        "work": work,
        "evaluation_return": evaluation,
        "versions": versions(PACKAGES[library]),
    }


def timed_part(marks: list[tuple[float, int]], warmup_steps: int) -> tuple[float, int]:
    """Seconds and environment steps from the first mark `(time, steps so far)` that is past the warm-up to the last.

    Example:
        >>> timed_part([(0.0, 0), (9.0, 100), (10.0, 200), (11.0, 300)], warmup_steps=50)
        (2.0, 200)
    """
    start, steps_before = next(mark for mark in marks if mark[1] >= warmup_steps)
    end, steps = marks[-1]
    return end - start, steps - steps_before


def run_ours(workload: Workload, side: Side, seed: int) -> tuple[list[tuple[float, int]], dict[str, Any], float | None]:
    """Train with this library, through the door that users take."""
    import keras

    from kerasrl_pg import fit_agent
    from kerasrl_pg.models.actor_critic import layers_of

    task = workload.task
    algorithm, optimizer = our_settings(task, workload.steps)
    marks = [(time.perf_counter(), 0)]
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda _epoch, logs: marks.append((time.perf_counter(), logs["steps"]))
    )
    agent = fit_agent(
        task.env, algorithm, model=our_model(task),
        mixed_precision="auto" if side.bfloat16 else "float32",
        optimizer=optimizer, steps=workload.steps, seed=seed, num_envs=task.num_envs, in_graph=side.in_graph,
        callbacks=[clock], verbose=0,
    )  # fmt: skip
    marks.append((time.perf_counter(), agent.steps))
    work = {
        "parameters": sum(variable.numpy().size for variable in agent.model.trainable_variables),
        **settings_counted(task),
        "env_steps": agent.steps,
        "gradient_steps": int(agent.optimizer.iterations.numpy()),
        "precision": sorted({layer.compute_dtype for layer in layers_of(agent.model, keras.layers.Dense)}),
        "time_shares": time_shares(agent.history.history),
    }
    episodes = workload.evaluation_episodes
    return marks, work, agent.evaluate(episodes=episodes, seed=1000 + seed).mean if episodes else None


def time_shares(history: dict[str, list[float]]) -> dict[str, float]:
    """Mean shares of the time, by what it was spent on; the first epoch, which compiles, is left out.

    Example:
        >>> time_shares({"steps": [1, 2, 3], "acting_share": [0.9, 0.25, 0.75]})
        {'acting': 0.5}
    """
    shares = {name.removesuffix("_share"): values[1:] for name, values in history.items() if name.endswith("_share")}
    return {name: statistics.fmean(values) for name, values in shares.items()}


def settings_counted(task: Task) -> dict[str, int]:
    """What of the settings makes the work."""
    settings = task.settings
    collected = settings["rollout_length"] * task.num_envs
    return {
        "num_envs": task.num_envs,
        "rollout_length": settings["rollout_length"],
        "minibatch_size": settings.get("batch_size", collected // settings.get("num_minibatches", 1)),
    }


def run_sb3(workload: Workload, side: Side, seed: int) -> tuple[list[tuple[float, int]], dict[str, Any], float | None]:
    """Train with Stable-Baselines3, as its own documentation and zoo do."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy

    task = workload.task
    if side.threads is not None:
        torch.set_num_threads(side.threads)

    class Clock(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            marks.append((time.perf_counter(), self.num_timesteps))

    marks = [(time.perf_counter(), 0)]
    model = sb3_model(task, workload.steps, seed)
    model.learn(workload.steps, callback=Clock())
    marks.append((time.perf_counter(), model.num_timesteps))
    parameters = sb3_parameters(task, model)
    work = {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "num_envs": model.n_envs,
        "rollout_length": model.train_freq.frequency if task.algorithm == "dqn" else model.n_steps,
        "minibatch_size": getattr(model, "batch_size", model.n_envs * getattr(model, "n_steps", 0)),
        "env_steps": model.num_timesteps,
        "gradient_steps": int(model.policy.optimizer.state[parameters[0]]["step"]),
        "precision": sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters}),
        "threads": torch.get_num_threads(),
    }
    episodes = workload.evaluation_episodes
    if not episodes:
        return marks, work, None
    evaluation_env = sb3_environment(task.env, task.num_envs, 1000 + seed)
    return marks, work, float(evaluate_policy(model, evaluation_env, episodes)[0])


def run_rejax(
    workload: Workload, side: Side, seed: int
) -> tuple[list[tuple[float, int]], dict[str, Any], float | None]:
    """Train with rejax: one program, compiled before the clock starts, and without its evaluations.

    It clips each gradient's elements where we clip the norm, and takes a time limit for a termination.
    """
    import jax
    import rejax

    task = workload.task
    settings = task.settings
    trainer = rejax.get_algo("ppo").create(
        env=task.env, num_envs=task.num_envs, num_steps=settings["rollout_length"], num_epochs=settings["epochs"],
        num_minibatches=settings["num_minibatches"], learning_rate=task.learning_rate, gamma=settings["discount"],
        gae_lambda=settings["gae_lambda"], clip_eps=settings["clip_epsilon"], vf_coef=settings["value_coef"],
        ent_coef=settings["entropy_coef"], max_grad_norm=settings["max_gradient_norm"],
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": task.hidden}, total_timesteps=workload.steps,
        eval_freq=workload.steps, skip_initial_evaluation=True,
    )  # fmt: skip
    trainer = trainer.replace(eval_callback=lambda *_: 0)
    key = jax.random.PRNGKey(seed)
    train = jax.jit(trainer.train).lower(key).compile()
    marks = [(time.perf_counter(), workload.steps // 10)]  # nothing to leave out
    state, _ = jax.block_until_ready(train(key))
    marks.append((time.perf_counter(), workload.steps // 10 + int(state.global_step)))
    leaves = jax.tree.leaves((state.actor_ts.params, state.critic_ts.params))
    work = {
        "parameters": sum(leaf.size for leaf in leaves),
        "num_envs": trainer.num_envs,
        "rollout_length": trainer.num_steps,
        "minibatch_size": trainer.minibatch_size,
        "env_steps": int(state.global_step),
        "gradient_steps": int(state.actor_ts.step),
        "precision": sorted({str(leaf.dtype) for leaf in leaves}),
    }
    return marks, work, None


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def section(result: dict[str, Any]) -> str:
    """One workload as Markdown: the figures, the proof that the work is equal, and where it was measured."""
    workload, measurements = result["workload"], result["measurements"]
    sides = {side: workload["sides"][side] for side in measurements}
    timing = "first tenth left out: no import, trace or compilation" if workload["steady"] else "all but the imports"
    repeats = len(next(iter(measurements.values())))
    notes = ["A quick run: it shows that the comparison works, the figures are rough."] if result["quick"] else []
    notes += [f"{library} was skipped: {why}." for library, why in result["skipped"].items()]
    peers = {name: side["title"] for name, side in sides.items() if side["library"] != "ours"}
    figures_head = ["side", "steps/s", "lowest - highest", "seconds", *(f"× {title}" for title in peers.values())]
    work_head = ["side", "parameters", "environments × rollout", "minibatch", "environment steps"]
    return "\n\n".join(
        [
            f"## {result['name']}: {workload['title']}",
            *notes,
            table(
                [*figures_head, "target", "greedy return: lowest"],
                [figures(sides[side], done, measurements) for side, done in measurements.items()],
            ),
            "Steps/s and seconds are medians; × is the ratio of medians, with the lowest and highest ratio of a "
            "repeat. A target is judged against the faster side of a library.",
            table(
                [*work_head, "gradient steps", "precision"],
                [work_row(sides[side], done[0]["work"]) for side, done in measurements.items()],
            ),
            *where_our_time_goes(sides, measurements),
            f"Timed: {timing}; {repeats} repeat{'s' * (repeats > 1)}, the sides in turn. Work as counted in the first "
            f"repeat; environment steps are those of {workload['task']['num_envs']} environments together"
            + (", 4 frames each." if workload["task"]["env"].startswith("ALE/") else "."),
            machine_line(result) + "\n",
        ]
    )


def where_our_time_goes(sides: dict[str, dict[str, Any]], measurements: dict[str, list[dict]]) -> list[str]:
    """A table of the shares of our sides' time in the first repeat; nothing if none was measured."""
    ours = {sides[side]["title"]: done[0]["work"].get("time_shares", {}) for side, done in measurements.items()}
    ours = {title: shares for title, shares in ours.items() if shares}
    names = list(dict.fromkeys(name for shares in ours.values() for name in shares))
    rows = [
        [title, *(f"{shares[name]:.0%}" if name in shares else "" for name in names)] for title, shares in ours.items()
    ]
    return [table(["where the time goes", *names], rows)] if ours else []


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def figures(side: dict[str, Any], done: list[dict[str, Any]], measurements: dict[str, list[dict]]) -> list[str]:
    """A row of the table of one side's figures."""
    rates = [one["steps_per_second"] for one in done]
    seconds = statistics.median(one["seconds"] for one in done)
    ratios: dict[str, float] = {}
    cells = []
    for peer in (name for name in measurements if name in PEERS):
        if side["library"] != "ours":
            cells.append("")
            continue
        theirs = [one["steps_per_second"] for one in measurements[peer]]
        pairs = [own / other for own, other in zip(rates, theirs, strict=True)]
        ratios[peer] = statistics.median(rates) / statistics.median(theirs)
        cells.append(f"{ratios[peer]:.1f} ({min(pairs):.1f} - {max(pairs):.1f})")
    returns = [one["evaluation_return"] for one in done if one["evaluation_return"] is not None]
    return [
        side["title"],
        f"{statistics.median(rates):,.0f}",
        f"{min(rates):,.0f} - {max(rates):,.0f}",
        f"{seconds:.2f}",
        *cells,
        verdict(side, ratios, seconds),
        f"{min(returns):.1f}" if returns else "",
    ]


def verdict(side: dict[str, Any], ratios: dict[str, float], seconds: float) -> str:
    """A side's target, and whether it was reached."""
    found = []
    for library, least in side["least_ratios"].items():
        reached = [ratio for peer, ratio in ratios.items() if PEERS[peer].library == library]
        if reached:
            found.append(f"≥ {least:g}× {library}: {'met' if min(reached) >= least else 'missed'}")
    if side["most_seconds"] is not None:
        found.append(f"≤ {side['most_seconds']:g} s: {'met' if seconds <= side['most_seconds'] else 'missed'}")
    return ", ".join(found)


def work_row(side: dict[str, Any], work: dict[str, Any]) -> list[str]:
    """A row of the table of what one side's process counted."""
    return [
        side["title"],
        f"{work['parameters']:,}",
        f"{work['num_envs']} × {work['rollout_length']}",
        str(work["minibatch_size"]),
        f"{work['env_steps']:,}",
        f"{work['gradient_steps']:,}",
        ", ".join(work["precision"]),
    ]


def machine_line(result: dict[str, Any]) -> str:
    """Where and with what it was measured."""
    machine, first = result["machine"], [done[0] for done in result["measurements"].values()]
    used = {package: number for one in first for package, number in one["versions"].items()}
    threads = [str(one["work"]["threads"]) for one in first if "threads" in one["work"]]
    return (
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}; "
        + ", ".join(f"{package} {number}" for package, number in used.items())
        + (f"; PyTorch threads: {', '.join(threads)}" if threads else "")
        + f"; load average before the run {result['load_before']} (near 0 on an idle machine); {result['date']}."
    )


if __name__ == "__main__":
    main()
