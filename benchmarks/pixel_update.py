"""What a gradient step of the Nature network costs by its parts, and what fusing the preprocessing and Adam saves.

    python benchmarks/pixel_update.py             # half a minute on idle cores

In bfloat16 where the processor has it, the batch sizes those of DQN, A2C, PPO and `pong-fast`; the last with
standardised pixels. All variants of a batch size take turns. Writes `benchmarks/results/pixel_update.md`.
"""

from __future__ import annotations

import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg.document_presets import standardized_convolutions
from kerasrl_pg.models import default_model
from kerasrl_pg.models.fusion import by_xla, fuse_preprocessing, split_preprocessing
from kerasrl_pg.models.precision import mixed_precision_policy
from kerasrl_pg.optimizers import FusedAdam

FRAMES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
ACTIONS = spaces.Discrete(6)
WORK: dict[str, tuple[Callable[..., keras.Model], int]] = {
    "32 (DQN)": (default_model, 32),
    "80 (A2C)": (default_model, 80),
    "256 (PPO)": (default_model, 256),
    "768, standardised (`pong-fast`)": (standardized_convolutions, 768),
}
REPEATS = 40
HEADER = """# A gradient step on pixels, by its parts

Written by `python benchmarks/pixel_update.py`: milliseconds, medians of calls that take turns. *Plain* is operation by
operation, *fused* one XLA program; a gradient step is forward, backward, clipping and Adam.

| batch | preprocessing: plain | fused | forward: fused | step: plain | preprocessing fused | Adam fused as well |
|---|---|---|---|---|---|---|"""


def main() -> None:
    """Measure, print and write the table."""
    lines = [HEADER]
    for name, (build, batch) in WORK.items():
        medians = milliseconds(build, batch)
        lines.append(f"| {name} | {' | '.join(f'{median:.1f}' for median in medians)} |")
    (pathlib.Path(__file__).resolve().parent / "results" / "pixel_update.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def milliseconds(build: Callable[..., keras.Model], batch: int) -> list[float]:
    """One median for each column of the table."""
    with mixed_precision_policy("auto"):
        model = build(FRAMES, ACTIONS, seed=0)
    parts = split_preprocessing(model)
    assert parts is not None
    front, fused = parts[0], fuse_preprocessing(model)
    pixels = tf.constant(np.random.default_rng(0).integers(0, 256, (batch, *FRAMES.shape), np.uint8))
    functions = [
        lambda pixels: front([pixels]),
        lambda pixels: by_xla(front)([pixels]),
        fused,
        gradient_step(model, model, keras.optimizers.Adam(1e-4)),
        gradient_step(fused, model, keras.optimizers.Adam(1e-4)),
        gradient_step(fused, model, FusedAdam(1e-4)),
    ]
    compiled = [tf.function(function, autograph=False) for function in functions]
    times: list[list[float]] = [[] for _ in compiled]
    for repeat in range(-2, REPEATS):
        for function, seconds in zip(compiled, times, strict=True):
            started = time.perf_counter()
            for tensor in tf.nest.flatten(function(pixels)):
                tensor.numpy()
            if repeat >= 0:  # the first call compiles
                seconds.append(time.perf_counter() - started)
    return [1e3 * statistics.median(seconds) for seconds in times]


def gradient_step(network: Callable[..., Any], model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Callable:
    """A function of pixels that moves the model's weights by the gradient of the sum of its squared outputs."""
    optimizer.build(model.trainable_variables)

    def step(pixels):
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_mean(tf.square(output)) for output in tf.nest.flatten(network(pixels))])
        gradients, norm = tf.clip_by_global_norm(tape.gradient(loss, model.trainable_variables), 0.5)
        optimizer.apply(gradients, model.trainable_variables)
        return norm

    return step


if __name__ == "__main__":
    main()
