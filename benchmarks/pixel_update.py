"""What the Nature network costs by its parts: preprocessing and Adam fused or not, cast weights, running statistics.

    python benchmarks/pixel_update.py             # half a minute on idle cores

In bfloat16 where the processor has it, the batch sizes those of DQN, A2C, PPO and `pong-fast`; the last with
standardised pixels. All variants of a batch size take turns. Writes `benchmarks/results/pixel_update.md`.
"""

from __future__ import annotations

import math
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

from kerasrl_pg import ops
from kerasrl_pg.learner import Learner
from kerasrl_pg.lesson_presets import standardized_convolutions
from kerasrl_pg.models import RunningNormalizer, default_model
from kerasrl_pg.models.actor_critic import PolicyModel, layers_of
from kerasrl_pg.models.fusion import by_xla, fuse_preprocessing, split_preprocessing
from kerasrl_pg.models.precision import mixed_precision_policy
from kerasrl_pg.optimizers import FusedAdam
from kerasrl_pg.types import Rollout

FRAMES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
ACTIONS = spaces.Discrete(6)
Work = dict[str, tuple[Callable[..., keras.Model], int]]
LEARNING: Work = {
    "32 (DQN)": (default_model, 32),
    "80 (A2C)": (default_model, 80),
    "256 (PPO)": (default_model, 256),
    "768, standardised (`pong-fast`)": (standardized_convolutions, 768),
}
ACTING: Work = {
    "8 (PPO, DQN)": (default_model, 8),
    "16 (A2C)": (default_model, 16),
    "24, standardised (`pong-fast`)": (standardized_convolutions, 24),
}
REPEATS = 40
HEADER = """# A gradient step on pixels, by its parts

Written by `python benchmarks/pixel_update.py`: milliseconds, medians of calls that take turns. *Plain* is operation by
operation, *fused* one XLA program; a gradient step is forward, backward, clipping and Adam.

| batch | preprocessing: plain | fused | forward: fused | step: plain | preprocessing fused | Adam fused as well |
|---|---|---|---|---|---|---|"""
ROLLOUT = (128, 24)
"""Steps and games of `pong-fast`."""
STATISTICS_HEADER = f"""
## Running statistics

Mean and variance of each pixel over a rollout of `pong-fast`, {ROLLOUT[0]} steps of {ROLLOUT[1]} games, in one XLA
program.

| all steps at once | step by step, merged |
|---|---|"""
ACTING_HEADER = """
## Acting

In mixed precision the weights are float32 and the arithmetic is bfloat16: either every call casts the weights, as in
this library, or a copy of the network, which would act, is given cast weights once a rollout.

| observations | a call that casts | a call of the copy | the copying |
|---|---|---|---|"""


def main() -> None:
    """Measure, print and write the table."""
    lines = [HEADER]
    lines += [line_of(name, *learning(*work)) for name, work in LEARNING.items()]
    lines.append(ACTING_HEADER)
    lines += [line_of(name, *acting(*work)) for name, work in ACTING.items()]
    lines += [STATISTICS_HEADER, line_of(*running_statistics())]
    (pathlib.Path(__file__).resolve().parent / "results" / "pixel_update.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def line_of(*cells: str | float) -> str:
    """One line of a table."""
    return f"| {' | '.join(cell if isinstance(cell, str) else f'{cell:.1f}' for cell in cells)} |"


def learning(build: Callable[..., keras.Model], batch: int) -> list[float]:
    """The columns of the first table."""
    model = model_of(build)
    parts = split_preprocessing(model)
    assert parts is not None
    front, fused = parts[0], fuse_preprocessing(model)
    functions = [
        lambda pixels: front([pixels]),
        lambda pixels: by_xla(front)([pixels]),
        fused,
        gradient_step(model, model, keras.optimizers.Adam(1e-4)),
        gradient_step(fused, model, keras.optimizers.Adam(1e-4)),
        gradient_step(fused, model, FusedAdam(1e-4)),
    ]
    return milliseconds(functions, batch)


def acting(build: Callable[..., keras.Model], batch: int) -> list[float]:
    """The columns of the second table."""
    model = model_of(build)
    copy = keras.models.clone_model(model, clone_function=in_compute_precision, recursive=True)

    def copying(pixels):
        for old, new in zip(copy.weights, model.weights, strict=True):
            old.assign(tf.cast(tf.convert_to_tensor(new), old.dtype))
        return pixels[0, 0, 0, 0]

    return milliseconds([fuse_preprocessing(model), fuse_preprocessing(copy), copying], batch)


def running_statistics() -> list[float]:
    """The columns of the third table."""
    model = model_of(standardized_convolutions)
    learner = Learner(PolicyModel(model, FRAMES, ACTIONS), keras.optimizers.SGD(1e-4))
    (layer,) = layers_of(model, RunningNormalizer)
    pixels_of = keras.Model(model.input, layer.input)
    zeros, no = tf.zeros(ROLLOUT), tf.zeros(ROLLOUT, tf.bool)

    def at_once(frames):
        return ops.element_moments(tf.cast(pixels_of(frames), tf.float32), tf.ones([frames.shape[0]]))

    def step_by_step(frames):
        observation = tf.reshape(frames, [*ROLLOUT, *FRAMES.shape])
        learner.update_observation_statistics(Rollout(observation, zeros, zeros, zeros, zeros, no, no, zeros, ~no))
        return tf.convert_to_tensor(layer.count)

    return milliseconds([by_xla(at_once), step_by_step], math.prod(ROLLOUT))


def in_compute_precision(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The same layer, its weights in the precision in which it computes."""
    config = {**layer.get_config(), "dtype": layer.compute_dtype}
    # Orthogonal matrices are not drawn in bfloat16, and all weights are overwritten.
    return type(layer).from_config(config | {key: "zeros" for key in config if key.endswith("_initializer")})


def model_of(build: Callable[..., keras.Model]) -> keras.Model:
    """As the presets have it."""
    with mixed_precision_policy("auto"):
        return build(FRAMES, ACTIONS, seed=0)


def milliseconds(functions: list[Callable[..., Any]], batch: int) -> list[float]:
    """The median of each function of `batch` observations, compiled as a graph, the functions taking turns."""
    pixels = tf.constant(np.random.default_rng(0).integers(0, 256, (batch, *FRAMES.shape), np.uint8))
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
