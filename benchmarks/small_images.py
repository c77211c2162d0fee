"""What `PatchConv2D` saves on small images: gradient steps inside one XLA program, with it and with Keras' `Conv2D`.

    python benchmarks/small_images.py             # a minute on idle cores

Action values of 10 boards of 10x10 cells, the network that of `small_conv_trunk`. Both sides take turns; writes
`benchmarks/results/small_images.md`.
"""

from __future__ import annotations

import os
import pathlib
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from kerasrl_pg.models import PatchConv2D

BOARDS, CELLS, KINDS, ACTIONS = 10, 10, 3, 4
TIMES = 100
REPEATS = 5
LAYERS = {"Conv2D": keras.layers.Conv2D, "PatchConv2D": PatchConv2D}
HEADER = f"""# Convolutions of small images in a compiled loop

Written by `python benchmarks/small_images.py`: milliseconds a gradient step on {BOARDS} boards of {CELLS} x {CELLS}
cells, the median of {REPEATS} calls of an XLA program of {TIMES} steps; both programs take turns.

| layer | a gradient step |
|---|---|"""


def main() -> None:
    """Measure, print and write the table."""
    programs = {name: gradient_steps(convolution) for name, convolution in LAYERS.items()}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for repeat in range(-1, REPEATS):
        for name, program in programs.items():
            started = time.perf_counter()
            program().numpy()
            if repeat >= 0:  # the first call compiles
                times[name].append(1e3 * (time.perf_counter() - started) / TIMES)
    lines = [HEADER, *(f"| `{name}` | {statistics.median(each):.2f} |" for name, each in times.items())]
    (pathlib.Path(__file__).resolve().parent / "results" / "small_images.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def gradient_steps(convolution: type[keras.layers.Layer]) -> Callable[[], tf.Tensor]:
    """One program of `TIMES` steps of plain gradient descent on the squared error of the action values."""
    model = keras.Sequential(
        [
            keras.Input((CELLS, CELLS, KINDS)),
            convolution(16, 3, activation="relu"),
            convolution(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(ACTIONS),
        ]
    )
    rng = np.random.default_rng(0)
    boards = tf.constant(rng.integers(0, 2, (BOARDS, CELLS, CELLS, KINDS)), tf.float32)
    targets = tf.constant(rng.normal(size=(BOARDS, ACTIONS)), tf.float32)

    def step(number, loss):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(boards) - targets))
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
        ):
            variable.assign_sub(1e-3 * gradient)
        return number + 1, loss

    @tf.function(jit_compile=True, autograph=False)
    def program():
        return tf.while_loop(lambda number, _: number < TIMES, step, (0, tf.zeros([])))[1]

    return program


if __name__ == "__main__":
    main()
