"""Looks for the settings with which Pong is learned in the least wall-clock time on this machine.

    python benchmarks/pong_search.py run half-width            # one candidate, seed 100
    python benchmarks/pong_search.py run half-width --seed 101
    python benchmarks/pong_search.py preset                    # takes over what results.py trained
    python benchmarks/pong_search.py report                    # benchmarks/results/pong_search.md

A candidate trains until the mean of its last 100 games passes 20, or its steps are over. The search uses seeds from
100 on. What was the preset for a while was trained on seeds from 0 on, to the end of its steps: `long`, `1200k`,
`score-and-field`, `less-entropy`, `more-entropy` and `64-steps-700k`; so is the preset itself, by `results.py`. A run
that is stopped goes on from its checkpoint.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pathlib
from typing import Annotated, Any

import numpy as np
import typer
from results import seconds_of

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results" / "pong_search"
CHECKPOINTS = HERE.parent / "runs" / "pong_search"
TARGET = 20.0
FIELD = (26, 196, 12, 148)
"""Pong's screen without the score, from paddle to paddle."""
SCORE_AND_FIELD = (2, 78, 8, 76)
"""Of a frame of 84 x 84 the same with the score, without which a critic cannot know how much of a game is left.

The Nature network's strides see 76 and 68 pixels to the end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is tried; whatever is not named here is as in the preset `pong-fast`."""

    steps: int = 850_000
    num_envs: int = 24
    rollout_length: int = 128
    epochs: int = 3
    num_minibatches: int = 4
    discount: float = 0.99
    reward_ends_return: bool = True
    entropy_coef: float = 0.03
    falling_entropy: bool = False
    """`entropy_coef` falls linearly to 0 as well."""
    entropy_held: float | None = 0.5
    """`entropy_coef` stays for this share of the steps, then it falls to 0 along a cosine; None stays to the end."""
    entropy_gone: float = 0.85
    """The share of the steps after which it is 0."""
    entropy_values: tuple[float, float] | None = (-1.0, 1.0)
    """Values between which the bonus falls from all to nothing."""
    learning_rate: float = 1e-3
    """At the start; it falls linearly, unless `adaptive_kl` moves it."""
    last_rate: float = 0.0
    """The share of it that is left at the end."""
    adaptive_kl: float | None = None
    falling_kl: bool = False
    """`adaptive_kl` falls linearly to 0."""
    width: float = 1.0
    """Share of the Nature network's channels."""
    features: int = 512
    size: int = 84
    """Height and width of a frame, in pixels."""
    stack: int = 4
    """Frames in an observation."""
    crop: tuple[int, int, int, int] | None = None
    """Region of the screen that is made small."""
    seen: tuple[int, int, int, int] | None = None
    """Region of the frames that the network sees."""
    normalize: bool = True
    """Standardise pixels and value targets by running statistics."""


EARLIER: dict[str, Any] = {
    "steps": 1_000_000,
    "reward_ends_return": False,
    "entropy_coef": 0.02,
    "entropy_held": None,
    "entropy_gone": 1.0,
    "entropy_values": None,
}
"""What the preset had before: the same bonus for all states to the end, and returns of many rallies."""
LESS: dict[str, Any] = EARLIER | {"entropy_coef": 0.01}
LONG: dict[str, Any] = LESS | {"rollout_length": 256, "num_minibatches": 8, "discount": 0.999}
"""What it had at first: longer rollouts, a horizon of a thousand steps instead of a hundred, less entropy."""
LOSING: dict[str, Any] = {"steps": 750_000, "entropy_held": None, "entropy_gone": 1.0}
"""More exploration where the game is lost, to the end."""

CANDIDATES = {
    "preset": Candidate(),
    "750k": Candidate(steps=750_000),
    "600k": Candidate(steps=600_000),
    "600k-rate": Candidate(steps=600_000, last_rate=0.3, entropy_held=0.4, entropy_gone=0.7),
    "losing": Candidate(**LOSING),
    "losing-whole-games": Candidate(**LOSING, reward_ends_return=False),
    "points": Candidate(**LESS | {"steps": 700_000, "reward_ends_return": True}, falling_entropy=True),
    "short": Candidate(**LESS | {"steps": 700_000}, falling_entropy=True, rollout_length=64, num_minibatches=2),
    "more-entropy": Candidate(**EARLIER),
    "less-entropy": Candidate(**LESS),
    "less-entropy-adaptive": Candidate(**LESS | {"steps": 850_000}, learning_rate=3e-4, adaptive_kl=0.01),
    "800k-falling-entropy": Candidate(**EARLIER | {"steps": 800_000}, falling_entropy=True),
    "800k-late": Candidate(**EARLIER | {"steps": 800_000, "entropy_held": 0.7}),
    "850k-step": Candidate(**EARLIER | {"steps": 850_000, "entropy_held": 0.4, "entropy_gone": 0.75}),
    "half-width": Candidate(width=0.5),
    "64-pixels": Candidate(size=64),
    "field-60": Candidate(**LESS, crop=FIELD, size=60),
    "2-epochs": Candidate(epochs=2),
    "64-steps": Candidate(rollout_length=64, num_minibatches=2),
    "64-steps-700k": Candidate(steps=700_000, rollout_length=64, num_minibatches=2),
    "32-steps": Candidate(rollout_length=32, num_minibatches=1),
    "plain-inputs": Candidate(normalize=False),
    "16-envs": Candidate(num_envs=16),
    "48-envs": Candidate(num_envs=48, rollout_length=64),
    "long": Candidate(**LONG),
    "700k-falling-entropy": Candidate(**LONG | {"steps": 700_000}, falling_entropy=True),
    "800k-falling": Candidate(
        **LONG | {"steps": 800_000}, learning_rate=3e-4, adaptive_kl=0.01, falling_kl=True, falling_entropy=True
    ),
    "64-pixels-stack-2": Candidate(**LONG | {"steps": 1_300_000}, size=64, stack=2),
    "1200k": Candidate(**LONG | {"steps": 1_200_000}),
    "score-and-field": Candidate(**LONG | {"steps": 1_200_000}, seen=SCORE_AND_FIELD),
}

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(CANDIDATES)}.")],
    seed: int = 100,
):
    """Train one candidate and write what it reached."""
    if name not in CANDIDATES:
        raise typer.BadParameter(f"unknown candidate {name!r}; known: {', '.join(CANDIDATES)}")
    import kerasrl_pg as krl

    candidate = CANDIDATES[name]
    load = os.getloadavg()[0]
    algorithm, optimizer = settings_of(candidate)
    agent = krl.fit_agent(
        "ALE/Pong-v5",
        algorithm,
        optimizer=optimizer,
        model=network_of(candidate),
        mixed_precision="auto",
        protocol=krl.AtariProtocol(size=candidate.size, stack=candidate.stack, crop=candidate.crop),
        num_envs=candidate.num_envs,
        steps=candidate.steps,
        stop_return=TARGET,
        seed=seed,
        checkpoint=CHECKPOINTS / f"{name}-{seed}",
        verbose=2,
    )
    result = result_of(candidate, seed, agent.steps, agent.episodes, agent.history.history) | {
        "greedy": agent.evaluate(episodes=32, seed=seed + 1000).mean,
        "training_seconds": seconds_of(agent.history.history),
        "parameters": agent.model.count_params(),
        "load_before": load,
    }
    write(name, result)


@app.command()
def preset():
    """Write what `results.py run pong-fast` reached, as the candidate `preset`."""
    from gymnasium.spaces import Box, Discrete

    from kerasrl_pg.episode_log import EpisodeLog
    from kerasrl_pg.saving import settings_to_json

    candidate = CANDIDATES["preset"]
    algorithm, _ = settings_of(candidate)
    frames = Box(0, 255, (candidate.stack, candidate.size, candidate.size), np.uint8)
    parameters = network_of(candidate)(frames, Discrete(6), seed=0).count_params()
    folder = HERE.parent / "docs" / "results" / "pong-fast"
    for path in sorted(folder.glob("seed-?.json")):
        trained = json.loads(path.read_text())
        settings = trained["agent"]["algorithm"]["settings"]
        if settings != as_read(settings_to_json(algorithm)):
            raise typer.BadParameter(f"{path} was trained with other settings than this candidate's: {settings}")
        with open(folder / f"{path.stem}-history.csv") as file:
            rows = list(csv.DictReader(file))
        history = {name: [float(row[name]) for row in rows] for name in ("steps", "steps_per_second")}
        episodes = EpisodeLog.from_csv(folder / f"{path.stem}-episodes.csv")
        steps = trained["agent"]["steps"]
        result = result_of(candidate, trained["seed"], steps, episodes, history) | {
            "greedy": trained["evaluation"]["mean"],
            "training_seconds": trained["training_seconds"],
            "parameters": parameters,
            "load_before": None,
        }
        write("preset", result)


def result_of(candidate: Candidate, seed: int, steps: int, episodes: Any, history: dict[str, Any]) -> dict[str, Any]:
    """What a training reached, by its episodes."""
    reached = episodes.solved_at(TARGET)
    return {
        "candidate": dataclasses.asdict(candidate),
        "seed": seed,
        "steps": steps,
        "steps_to_target": reached,
        "seconds_to_target": None if reached is None else seconds_to(reached, history),
        "steps_to_18": episodes.solved_at(18.0),
        "last_100": episodes.mean_return(),
        "steps_per_second": float(np.median(history["steps_per_second"])),
    }


def seconds_to(step: int, history: dict[str, Any]) -> float:
    """How long a training took up to an environment step, compilation included."""
    steps = np.array([0, *history["steps"]])
    seconds = np.cumsum([0, *(np.diff(steps) / history["steps_per_second"])])
    return float(np.interp(step, steps, seconds))


def write(name: str, result: dict[str, Any]) -> None:
    """Keep one training's result, for the table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}-{result['seed']}.json").write_text(json.dumps(result, indent=1) + "\n")


def settings_of(candidate: Candidate):
    """The candidate's algorithm and optimizer."""
    import kerasrl_pg as krl
    from kerasrl_pg.settings import fused_adam, gradient_steps_of, late_to_zero, linear, linear_to_zero

    algorithm = krl.PPO(
        rollout_length=candidate.rollout_length,
        epochs=candidate.epochs,
        num_minibatches=candidate.num_minibatches,
        discount=candidate.discount,
        reward_ends_return=candidate.reward_ends_return,
        clip_epsilon=0.2,
        value_coef=1.0,
        entropy_coef=candidate.entropy_coef,
        entropy_values=candidate.entropy_values,
        max_gradient_norm=10.0,
        adaptive_kl=candidate.adaptive_kl,
    )
    training = candidate.steps, candidate.num_envs, algorithm
    if candidate.falling_entropy:
        falling = linear_to_zero(candidate.entropy_coef, *training)
        algorithm = dataclasses.replace(algorithm, entropy_coef=falling)
    elif candidate.entropy_held is not None:
        late = late_to_zero(candidate.entropy_coef, *training, held=candidate.entropy_held, gone=candidate.entropy_gone)
        algorithm = dataclasses.replace(algorithm, entropy_coef=late)
    if candidate.falling_kl:
        falling = linear_to_zero(candidate.adaptive_kl, *training)
        algorithm = dataclasses.replace(algorithm, adaptive_kl=falling)
    rate = candidate.learning_rate
    if candidate.adaptive_kl is None:
        rate = linear(rate, candidate.last_rate * rate, gradient_steps_of(*training))
    return algorithm, fused_adam(rate)


def network_of(candidate: Candidate):
    """Builds the candidate's network."""
    import keras

    from kerasrl_pg.models import actor_critic, nature_conv_trunk

    def build(observation_space, action_space, seed):
        trunk = nature_conv_trunk(activation="elu", width=candidate.width, features=candidate.features, seed=seed)
        if candidate.seen is not None:
            top, bottom, left, right = candidate.seen
            margins = (top, candidate.size - bottom), (left, candidate.size - right)
            trunk = keras.Sequential([keras.layers.Cropping2D(margins), trunk])
        return actor_critic(
            observation_space,
            action_space,
            trunk=trunk,
            normalize_observation=candidate.normalize,
            normalize_value=candidate.normalize,
            seed=seed,
        )

    return build


@app.command()
def report():
    """Write pong_search.md from what is there."""
    found = [(path.stem, json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json"))]
    before = differences(as_read(dataclasses.asdict(Candidate(**EARLIER))), Candidate())
    lines = [HEADER.format(before=before), *(line_of(name, result) for name, result in found)]
    (HERE / "results" / "pong_search.md").write_text("\n".join(lines) + "\n")


HEADER = f"""# Settings tried for Pong

Written by `python benchmarks/pong_search.py report`: each line is one training until the mean of 100 games passes
{TARGET:g}, or until its steps were over. Whatever a line does not name is as in the preset `pong-fast`; where it says
*before*, as in what that was before:
{{before}}.
Minutes are those of the training, whole and until {TARGET:g} was passed, compilation included; they compare only where
the machine was idle before (a load near 0).

Greedy is the mean of 32 games or more without chance; where it is not given it was not played.

| run | differs | weights | steps | 18 / {TARGET:g} at | last 100 | greedy | steps/s | minutes | to {TARGET:g} | load |
|---|---|---|---|---|---|---|---|---|---|---|"""


def as_read(facts: dict[str, Any]) -> dict[str, Any]:
    """As they come back from a file: JSON knows no tuples."""
    return json.loads(json.dumps(facts))


def differences(candidate: dict[str, Any], base: Candidate) -> str:
    """What is not as in `base`; without a share of the steps that means nothing."""
    expected = as_read(dataclasses.asdict(base))
    names = [name for name, value in candidate.items() if value != expected[name]]
    if candidate["entropy_held"] is None and "entropy_gone" in names:
        names.remove("entropy_gone")
    return ", ".join(f"{name} {candidate[name]}" for name in names)


def line_of(name: str, result: dict) -> str:
    """One run as a line of the table."""
    now, before = (differences(result["candidate"], base) for base in (Candidate(), Candidate(**EARLIER)))
    if len(before) < len(now):
        now = ", ".join(filter(None, ("before", before)))
    reached = [f"{step:,}" if step else "-" for step in (result["steps_to_18"], result["steps_to_target"])]
    cells = [
        name,
        now or "-",
        f"{result['parameters']:,}",
        f"{result['steps']:,}",
        " / ".join(reached),
        f"{result['last_100']:.1f}",
        f"{result['greedy']:.1f}" if "greedy" in result else "",
        f"{result['steps_per_second']:,.0f}",
        f"{result['training_seconds'] / 60:.1f}",
        f"{result['seconds_to_target'] / 60:.1f}" if result.get("seconds_to_target") else "",
        "" if result["load_before"] is None else f"{result['load_before']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    app()
