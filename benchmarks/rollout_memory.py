"""What it costs to hand a rollout of pixels to TensorFlow: in memory that is taken anew, and in a buffer that stays.

    python benchmarks/rollout_memory.py             # seconds, on idle cores

One rollout of `pong-fast`, 24 games of 256 steps, written step by step. Both ways take turns; writes
`benchmarks/results/rollout_memory.md`.
"""

from __future__ import annotations

import os
import pathlib
import resource
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from kerasrl_pg.collect.rollout_buffer import RolloutBuffer
from kerasrl_pg.shared_memory import shared_tensor

STEPS, GAMES = 256, 24
REPEATS = 7
HEADER = f"""# From a rollout's steps to a tensor

Written by `python benchmarks/rollout_memory.py`: {STEPS} steps of {GAMES} Atari games, {{megabytes:.0f}} MB;
the median of {REPEATS} rollouts, both ways in turn.

| memory | milliseconds a rollout | page faults |
|---|---|---|"""


def main() -> None:
    """Measure, print and write the table."""
    frames = np.random.default_rng(0).integers(0, 256, (GAMES, 4, 84, 84), np.uint8)
    buffer = RolloutBuffer(frames, STEPS)
    ways: dict[str, Callable[[], tf.Tensor]] = {
        "taken anew: rows, their stack, a tensor": lambda: anew(frames),
        "a buffer that stays": lambda: kept(frames, buffer),
    }
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}
    for repeat in range(-1, REPEATS):
        for name, way in ways.items():
            faults, started = page_faults(), time.perf_counter()
            way()
            if repeat >= 0:  # the first one writes to the buffer's pages for the first time
                found[name].append((1e3 * (time.perf_counter() - started), page_faults() - faults))
    lines = [HEADER.format(megabytes=STEPS * frames.nbytes / 1e6)]
    for name, each in found.items():
        milliseconds, faults = (statistics.median(column) for column in zip(*each, strict=True))
        lines.append(f"| {name} | {milliseconds:.0f} | {faults:,.0f} |")
    (pathlib.Path(__file__).resolve().parent / "results" / "rollout_memory.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def anew(frames: np.ndarray) -> tf.Tensor:
    """Every step a row of its own, then all in one array, then a tensor."""
    return tf.constant(np.stack([frames.copy() for _ in range(STEPS)]))


def kept(frames: np.ndarray, buffer: RolloutBuffer) -> tf.Tensor:
    """Every step written to its place, which TensorFlow reads."""
    for step in range(STEPS):
        buffer.write(step, frames)
    return shared_tensor(buffer.read(STEPS))


def page_faults() -> int:
    """Pages that this process was given so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    main()
