"""The whole life of a policy: train, save, evaluate, plot, film, export, and act without this package."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np

from kerasrl_pg.agent import Agent
from kerasrl_pg.evaluate import Evaluation
from kerasrl_pg.fit import fit_agent
from kerasrl_pg.plotting import plot_history
from kerasrl_pg.presets import PRESETS
from kerasrl_pg.video import record_video
from kerasrl_pg.video_recorder import check_video_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
    """What to show."""

    preset: str
    """Name of the preset, which names the environment and the budget."""
    solved_return: float
    """Mean return of 100 episodes at which the task counts as solved."""
    directory: str
    """Where results go; if it exists, the next free number is added."""
    evaluation_episodes: int = 100
    served_episodes: int = 10
    """Episodes that the exported policy plays in a process of its own."""


CARTPOLE = Demo(preset="cartpole-ppo", solved_return=475.0, directory="runs/demo-cartpole")
PONG = Demo(
    preset="pong-fast",
    solved_return=18.0,
    directory="runs/demo-pong",
    evaluation_episodes=32,
    served_episodes=4,
)


def run_demo(demo: Demo, *, seed: int = 0) -> pathlib.Path:
    """Run a demo and print what happened and where its results are.

    Args:
        demo: what to show.
        seed: of the training; everything is played with another one.

    Returns:
        The directory of the results.

    Raises:
        ImportError: the extra `video` is not installed.
        RuntimeError: the exported policy failed in a process of its own.
    """
    preset = PRESETS[demo.preset]
    directory = make_free_directory(demo.directory)
    check_video_path(directory / "video.mp4")

    print(
        f"Training {preset.algorithm.upper()} on {preset.env}, solved once 100 episodes average {demo.solved_return:g}"
    )
    start = time.perf_counter()
    # To the end of its schedules, which is when a policy is steadiest.
    agent = fit_agent(preset.env, demo.preset, steps=preset.steps, seed=seed)
    seconds = time.perf_counter() - start
    agent.save(directory / "agent")  # first: whatever fails from here on, the training is not lost

    print("Evaluating, plotting, filming, exporting ...")
    evaluation = agent.evaluate(episodes=demo.evaluation_episodes, seed=seed + 1)
    plot_history(agent, directory / "learning_curve.png")
    record_video(agent, directory / "video.mp4", seed=seed + 1)
    agent.export(directory / "saved_model")
    served = play_saved_model(directory / "saved_model", episodes=demo.served_episodes, seed=seed + 2)

    _print_summary(demo, directory, agent, seconds, evaluation, served)
    return directory


def _print_summary(
    demo: Demo,
    directory: pathlib.Path,
    agent: Agent,
    seconds: float,
    evaluation: Evaluation,
    served: list[float],
) -> None:
    env_id = PRESETS[demo.preset].env
    solved_at = agent.episodes.solved_at(demo.solved_return)
    reached = "NOT reached" if solved_at is None else f"reached after {solved_at:,}"
    rows = {
        "training": f"{agent.steps:,} steps in {seconds:.0f} s; {demo.solved_return:g} was {reached}",
        "evaluation": f"{evaluation} of {played_on(agent.describe())}",
        "SavedModel": f"{np.mean(served):.1f} over {len(served)} episodes, in a process without kerasrl_pg",
        "learning curve": directory / "learning_curve.png",
        "video": directory / "video.mp4",
        "policy to deploy": directory / "saved_model",
        "agent to go on with": directory / "agent",
    }
    print(f"\n{env_id}, preset {demo.preset}, seed {agent.seed}")
    for name, value in rows.items():
        print(f"  {name:<21}{value}")


def played_on(description: dict[str, Any]) -> str:
    """What an agent is evaluated on: the original, or a game as the protocol presents it.

    Args:
        description: of the agent, by `Agent.describe`; it is in the `metadata.json` of what is exported too.

    Example:
        >>> played_on({"environment": "CartPole-v1", "protocol": {}})
        "Gymnasium's CartPole-v1"
    """
    env_id = description["environment"]
    return f"{env_id} under the protocol in metadata.json" if description["protocol"] else f"Gymnasium's {env_id}"


def make_free_directory(path: str) -> pathlib.Path:
    """Make `path`, or else `path-2`, `path-3` and so on: what an earlier run left is never touched.

    Args:
        path: where to begin.

    Returns:
        The new, empty directory.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as scratch:
        ...     [make_free_directory(f"{scratch}/demo").name for _ in range(3)]
        ['demo', 'demo-2', 'demo-3']
    """
    candidates = (pathlib.Path(f"{path}-{number}" if number > 1 else path) for number in itertools.count(1))
    directory = next(candidate for candidate in candidates if not candidate.exists())
    directory.mkdir(parents=True)
    return directory


def play_saved_model(path: pathlib.Path, *, episodes: int, seed: int) -> list[float]:
    """Let an exported policy play episodes in a new process, which cannot import this package.

    Args:
        path: the SavedModel, of a policy for a Gymnasium id.
        episodes: how many, side by side.
        seed: episode n is seeded by `seed + n`.

    Returns:
        [episodes] undiscounted returns.

    Raises:
        RuntimeError: the process failed.
    """
    call = [sys.executable, "-I", "-c", PLAYER, str(path), str(episodes), str(seed)]
    process = subprocess.run(call, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"the exported policy failed in a process of its own:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


# All that it takes to use an exported policy. Only the first episode of each environment counts, so it does
# not matter how the environments reset.
PLAYER = """
import json, pathlib, sys
sys.modules["kerasrl_pg"] = None  # from here on, importing the package is an error

import gymnasium, numpy, tensorflow

path, episodes, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
metadata = json.loads((pathlib.Path(path) / "metadata.json").read_text())
env_id, protocol = metadata["environment"], metadata["protocol"]
if protocol:
    import ale_py

    gymnasium.register_envs(ale_py)
    environments = gymnasium.make_vec(
        env_id,
        episodes,
        vectorization_mode="vector_entry_point",
        reward_clipping=False,
        repeat_action_probability=protocol["repeat_action_probability"],
        noop_max=protocol["noop_max"],
        use_fire_reset=protocol["fire_reset"],
        frameskip=protocol["frame_skip"],
        max_num_frames_per_episode=protocol["max_frames"],
        full_action_space=protocol["full_action_space"],
        stack_num=protocol["stack"],
        img_height=protocol["size"],
        img_width=protocol["size"],
    )
else:
    environments = gymnasium.make_vec(env_id, episodes)

policy = tensorflow.saved_model.load(path)
act = policy.signatures["serving_default"]
dtype = act.structured_input_signature[1]["observation"].dtype
returns, ended = numpy.zeros(episodes), numpy.zeros(episodes, bool)
observation, _ = environments.reset(seed=seed)
while not ended.all():
    action = act(observation=tensorflow.cast(observation, dtype))["action"].numpy()
    observation, reward, terminated, truncated, _ = environments.step(action)
    returns += numpy.where(ended, 0.0, reward)
    ended |= terminated | truncated
print(json.dumps(returns.tolist()))
"""
