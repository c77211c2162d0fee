"""Whether it pays to step Atari's emulators while the policy computes: both in turn, and overlapped.

    python benchmarks/overlap.py                  # two minutes on idle cores

Overlapped, the games are two halves: while one half's emulators run (ale-py's `send` returns at once), the policy
chooses the actions of the other. Each half is a smaller batch for the network. Nothing is learned here; the Nature
network acts in bfloat16 where the processor has it. Writes `benchmarks/results/overlap.md`.
"""

from __future__ import annotations

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from kerasrl_pg import seeding
from kerasrl_pg.direct_calls import compiled
from kerasrl_pg.envs.atari import AtariProtocol, make_atari
from kerasrl_pg.models.actor_critic import PolicyModel, default_model
from kerasrl_pg.models.precision import mixed_precision_policy
from kerasrl_pg.training.graph_engine import SEED

GAMES = (8, 16, 24, 32, 48)
STEPS = 6_000
REPEATS = 3
HEADER = """# Atari: emulators and policy in turn, or overlapped

Written by `python benchmarks/overlap.py`: environment steps/s of acting and stepping, without learning. Overlapped,
half of the games are stepped while the policy acts for the other half. Medians of alternating repeats.

| games | in turn | overlapped | × |
|---|---|---|---|"""


class Half:
    """Some of the games, with the policy compiled for their number."""

    def __init__(self, num_envs: int, model: keras.Model | None = None):
        self.environment = make_atari("ALE/Pong-v5", num_envs, AtariProtocol())
        observation_space = self.environment.single_observation_space
        action_space = self.environment.single_action_space
        if model is None:
            with mixed_precision_policy("auto"):
                model = default_model(observation_space, action_space)
        self.model = model
        policy = PolicyModel(model, observation_space, action_space)
        spec = tf.TensorSpec([num_envs, *observation_space.shape], tf.uint8)
        self._act = compiled(
            lambda observation, seed: policy(observation).distribution.sample(seed=seed), spec, SEED, jit_compile=False
        )
        self.observation = self.environment.reset(seed=0)[0]

    def act(self, step: int) -> np.ndarray:
        """Actions for the observations that came last."""
        return self._act(tf.constant(np.array(self.observation)), seeding.make_seed(step)).numpy()


def in_turn(games: Half, steps: int) -> None:
    for step in range(steps):
        games.observation = games.environment.step(games.act(step))[0]


def overlapped(first: Half, second: Half, steps: int) -> None:
    first.environment.send(first.act(0))
    for step in range(steps):
        second.environment.send(second.act(step))
        first.observation = first.environment.recv()[0]
        first.environment.send(first.act(step))
        second.observation = second.environment.recv()[0]
    first.observation = first.environment.recv()[0]


def rate(run, *games: Half) -> float:
    """Environment steps per second."""
    num_envs = sum(each.environment.num_envs for each in games)
    started = time.perf_counter()
    run(*games, STEPS // num_envs)
    return STEPS // num_envs * num_envs / (time.perf_counter() - started)


def main() -> None:
    """Measure, print and write the table."""
    lines = [HEADER]
    for num_envs in GAMES:
        whole = Half(num_envs)
        halves = Half(num_envs // 2, whole.model), Half(num_envs // 2, whole.model)
        pairs = [(rate(in_turn, whole), rate(overlapped, *halves)) for _ in range(REPEATS + 1)][1:]
        turns, overlaps = np.median(pairs, axis=0)
        lines.append(f"| {num_envs} | {turns:,.0f} | {overlaps:,.0f} | {overlaps / turns:.2f} |")
        print(lines[-1], flush=True)
    (pathlib.Path(__file__).resolve().parent / "results" / "overlap.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
