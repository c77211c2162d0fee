"""What `PatchConv2D` saves on small images: gradient steps inside one XLA program, with it and with Keras' `Conv2D`.

    python benchmarks/small_images.py             # a minute on idle cores

Action values of 10 boards by this library's network for small images; in the other program the same network has Keras'
convolutions. Both take turns; writes `benchmarks/results/small_images.md`.
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
from gymnasium import spaces

from kerasrl_pg.models import PatchConv2D, q_network

BOARDS = 10
BOARD = spaces.Box(0, 1, (10, 10, 3), np.float32)
ACTIONS = spaces.Discrete(4)
TIMES = 100
REPEATS = 5
HEADER = f"""# Convolutions of small images in a compiled loop

Written by `python benchmarks/small_images.py`: milliseconds a gradient step on {BOARDS} boards of 10 x 10
cells, the median of {REPEATS} calls of an XLA program of {TIMES} steps; both programs take turns.

| layer | a gradient step |
|---|---|"""


def main() -> None:
    """Measure, print and write the table."""
    model = q_network(BOARD, ACTIONS)
    with_convolutions = keras.models.clone_model(model, clone_function=without_patches, recursive=True)
    programs = {"Conv2D": gradient_steps(with_convolutions), "PatchConv2D": gradient_steps(model)}
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


def without_patches(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The same layer, a `PatchConv2D` as the `Conv2D` that it computes."""
    kind = keras.layers.Conv2D if isinstance(layer, PatchConv2D) else type(layer)
    return kind.from_config(layer.get_config())


def gradient_steps(model: keras.Model) -> Callable[[], tf.Tensor]:
    """One program of `TIMES` steps of plain gradient descent on the squared error of the action values."""
    rng = np.random.default_rng(0)
    boards = tf.constant(rng.integers(0, 2, (BOARDS, *BOARD.shape)), tf.float32)
    targets = tf.constant(rng.normal(size=(BOARDS, ACTIONS.n)), tf.float32)
    optimizer = keras.optimizers.SGD(1e-3)
    optimizer.build(model.trainable_variables)

    def step(number, loss):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(boards)["action_values"] - targets))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return number + 1, loss

    @tf.function(jit_compile=True, autograph=False)
    def program():
        return tf.while_loop(lambda number, _: number < TIMES, step, (0, tf.zeros([])))[1]

    return program


if __name__ == "__main__":
    main()
