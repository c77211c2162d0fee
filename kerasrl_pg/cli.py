"""The command line: train, evaluate and film agents, and look up what there is.

Commands import what they need themselves: TensorFlow takes seconds to load, and `--help` should not.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from kerasrl_pg.paths import check_writable

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
START_UP_NOTICES = (
    "All log messages before absl::InitializeLog()",
    "oneDNN custom operations are on",
    "Could not find cuda drivers",
    "failed call to cuInit",
)
"""Of TensorFlow; they tell a user nothing that needs doing."""

app = typer.Typer(
    help="Reinforcement learning for Keras: policy gradients and Q-learning on Gymnasium environments.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EnvId = Annotated[str, typer.Argument(metavar="ENV_ID", help="A Gymnasium id: CartPole-v1, ALE/Pong-v5, ...")]
AgentDirectory = Annotated[pathlib.Path, typer.Argument(metavar="AGENT_DIR", help="What `fit --save` wrote.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result on the same machine.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; None for those of this process.

    Returns:
        The exit code: 0; 2 where the user can mend what went wrong, which stderr then names in one line or, of an
        unknown option, in a box; 130 after Ctrl-C.

    Example:
        >>> main(["evaluate", "no/such/directory"])
        2
    """
    # Videos are drawn off screen; without a desktop SDL would complain about it.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        app(arguments, prog_name="kerasrl-pg")
    except SystemExit as finished:
        return int(finished.code or 0)
    except Exception as error:
        if not _is_the_users(error):
            raise
        typer.secho(f"error: {_one_line(error)}", fg=typer.colors.RED, err=True)
        return 2
    return 0


@app.command()
def fit(
    env_id: EnvId,
    algorithm: Annotated[str, typer.Argument(help="An algorithm or a preset; see `list`.")] = "ppo",
    *,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Environment steps, all environments together; left out, those of the preset.", show_default=False
        ),
    ] = None,
    seed: Seed = 0,
    num_envs: Annotated[int | None, typer.Option(help="Environments side by side.")] = None,
    stop_return: Annotated[
        float | None, typer.Option(help="Stop once the last 100 episodes average this much.")
    ] = None,
    steps_per_epoch: Annotated[
        int | None,
        typer.Option(help="Steps between two reports, and two checkpoints; left out, a hundredth.", show_default=False),
    ] = None,
    checkpoint: Annotated[
        pathlib.Path | None,
        typer.Option(help="Directory for the agent after every epoch; the same command goes on from what is there."),
    ] = None,
    save: Annotated[pathlib.Path | None, typer.Option(help="Directory for the agent, to go on with.")] = None,
    export: Annotated[pathlib.Path | None, typer.Option(help="Directory for a SavedModel, to deploy.")] = None,
    csv: Annotated[pathlib.Path | None, typer.Option(help="File for all episodes: step, return, length.")] = None,
    plot: Annotated[pathlib.Path | None, typer.Option(help="File for the learning curve: .png, .svg or .pdf.")] = None,
) -> None:
    """Train an agent, with a progress bar. Nothing that exists is overwritten, but for a checkpoint."""
    _check_outputs({"--checkpoint": checkpoint, "--save": save, "--export": export, "--csv": csv, "--plot": plot})
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        raise ValueError(f"--plot must end in one of {', '.join(PLOT_SUFFIXES)}, got {str(plot)!r}")
    _start_tensorflow()
    from kerasrl_pg.fit import fit_agent

    agent = fit_agent(
        env_id,
        algorithm,
        steps=_steps_of_preset(env_id, algorithm) if steps is None else steps,
        seed=seed,
        num_envs=num_envs,
        stop_return=stop_return,
        steps_per_epoch=steps_per_epoch,
        checkpoint=checkpoint,
    )
    print(f"{agent.steps:,} steps, last 100 episodes: {agent.episodes.mean_return():.1f}")
    if checkpoint is not None:
        print(f"checkpoint: {checkpoint}")
    if save is not None:
        print(f"agent: {agent.save(save)}")
    if export is not None:
        print(f"SavedModel: {agent.export(export)}")
    for path in filter(None, (csv, plot)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if csv is not None:
        agent.episodes.to_csv(csv)
        print(f"episodes: {csv}")
    if plot is not None:
        from kerasrl_pg.plotting import plot_history

        if len(agent.episodes):
            plot_history(agent, plot)
        print(f"learning curve: {plot if len(agent.episodes) else 'none, for no episode has ended'}")


@app.command()
def evaluate(
    agent_dir: AgentDirectory,
    episodes: Annotated[int, typer.Option(help="How many to play.")] = 100,
    seed: Seed = 0,
) -> None:
    """Play whole episodes on the Gymnasium environment and print mean and standard deviation."""
    _start_tensorflow()
    from kerasrl_pg.loading import load_agent

    agent = load_agent(agent_dir)
    env_id = agent.environment.id if agent.environment else None
    print(f"{env_id}: {agent.evaluate(episodes=episodes, seed=seed)}")


@app.command()
def play(
    agent_dir: AgentDirectory,
    video: Annotated[pathlib.Path, typer.Option(help="File for the video: .mp4 or .gif.")],
    episodes: Annotated[int, typer.Option(help="How many to play.")] = 1,
    seed: Seed = 0,
) -> None:
    """Film an agent."""
    _start_tensorflow()
    from kerasrl_pg.loading import load_agent
    from kerasrl_pg.video import record_video
    from kerasrl_pg.video_recorder import check_video_path

    check_video_path(video)
    print(record_video(load_agent(agent_dir), video, episodes=episodes, seed=seed))


@app.command()
def describe(env_id: EnvId) -> None:
    """Print an environment's spaces, time limit, solved threshold, protocol and presets."""
    _start_tensorflow()
    from kerasrl_pg import environment_card

    print(environment_card.describe(env_id))


@app.command("list")
def list_() -> None:
    """Say which algorithms, presets and environments there are."""
    _start_tensorflow()
    from kerasrl_pg.algorithms import ALGORITHMS
    from kerasrl_pg.envs.graph_envs import GRAPH_ENVIRONMENTS
    from kerasrl_pg.presets import PRESETS

    presets = [
        f"{name}: {p.env}, {p.algorithm}, {p.steps:,} steps; settings from: {p.source}" for name, p in PRESETS.items()
    ]
    for title, lines in (
        ("algorithms", ALGORITHMS),
        ("presets", presets),
        ("environments that train as TensorFlow graphs", GRAPH_ENVIRONMENTS),
    ):
        print(f"{title}:", *lines, sep="\n  ")
    print("Every other Gymnasium id works too; gymnasium.pprint_registry() prints them.")


@app.command()
def demo(seed: Seed = 0) -> None:
    """Solve CartPole, evaluate, film and export it: half a minute."""
    _start_tensorflow()
    from kerasrl_pg.demo import CARTPOLE, run_demo

    run_demo(CARTPOLE, seed=seed)


@app.command()
def pong(seed: Seed = 0) -> None:
    """Learn Atari Pong from the screen, evaluate, film and export it: minutes."""
    _start_tensorflow()
    from kerasrl_pg.demo import PONG, run_demo

    run_demo(PONG, seed=seed)


def _steps_of_preset(env_id: str, algorithm: str) -> int:
    from kerasrl_pg.building import find_preset
    from kerasrl_pg.envs.make import find_spec

    find_spec(env_id)  # an unknown id is the first thing to know
    _, preset = find_preset(env_id, algorithm)
    if preset is None:
        raise ValueError(f"--steps is needed: there is no preset of {algorithm!r} for {env_id} to take it from")
    return preset.steps


def _check_outputs(options: dict[str, pathlib.Path | None]) -> None:
    """Raise before hours of training rather than after; `options` are in the order in which they are written."""
    paths = {option: path.resolve() for option, path in options.items() if path is not None}
    for option, path in paths.items():
        if path.exists() and option != "--checkpoint":
            raise FileExistsError(f"{path} exists already: choose another path, or remove it first")
        check_writable(path, option)
    for (earlier, path), (later, other) in itertools.combinations(paths.items(), 2):
        # Nothing can be put into a file, and what is put into a checkpoint is gone with the next one.
        is_closed = earlier in ("--checkpoint", "--csv", "--plot")
        if path == other or other in path.parents or (is_closed and path in other.parents):
            raise ValueError(f"{earlier} {path} and {later} {other} conflict: choose other paths")
    if "--export" in paths:
        from kerasrl_pg.export import check_possible

        check_possible(paths["--export"], "saved_model")


def _start_tensorflow() -> None:
    """Import TensorFlow without its start-up notices, which TF_CPP_MIN_LOG_LEVEL does not silence in 2.21."""
    with tempfile.TemporaryFile() as held_back:
        stderr = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()  # looks for a GPU, with notices of its own
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held_back.seek(0)
            for line in held_back.read().decode(errors="replace").splitlines():
                if not any(notice in line for notice in START_UP_NOTICES):
                    print(line, file=sys.stderr)


def _is_the_users(error: Exception) -> bool:
    import gymnasium

    kinds = ValueError | TypeError | OSError | ImportError | MemoryError | gymnasium.error.Error
    return isinstance(error, kinds) or (type(error) is RuntimeError and _raised_in_this_package(error))


def _raised_in_this_package(error: Exception) -> bool:
    """Of another's RuntimeError the traceback may be needed; one of ours says all in its message."""
    frames = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].startswith("kerasrl_pg.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
