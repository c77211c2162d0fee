"""How far one compiled CartPole update is from what XLA can do at all, with one thread of XLA's and with all.

    python benchmarks/update_bound.py             # two minutes on 2 idle cores

A gradient step of PPO on 256 observations with two 64-64 perceptrons, three times: by this library's learner; written
by hand, with nothing that a library would add; and only the six products of 256x64 and 64x64 matrices in it, which no
program can leave out. All three run 2,000 times inside one XLA program. Then a rollout of 32 steps of 8 environments,
and the policy alone as Gymnasium's environments call it between two steps, compiled by XLA and as a plain graph.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

import kerasrl_pg as krl
from kerasrl_pg import seeding
from kerasrl_pg.direct_calls import compiled
from kerasrl_pg.training.graph_engine import SEED
from kerasrl_pg.training.on_policy import OnPolicyProgram

BATCH, HIDDEN, OBSERVATION, ACTIONS = 256, 64, 4, 2
ROLLOUT, ENVS = 32, 8
EPOCHS = 20
TIMES = 2_000
REPEATS = 5
PROCESSES = 3
"""For each number of threads, taking turns; whether two threads get in each other's way is decided anew in each."""
THREADS = {"one thread": "false", "all threads": "true"}
"""Value of XLA's flag xla_cpu_multi_thread_eigen; `import kerasrl_pg` sets the first on machines of two cores."""
Parameters = list[tf.Tensor]
HEADER = """# One CartPole update beside what XLA can do

Written by `python benchmarks/update_bound.py`: microseconds, XLA with one thread and with all;
medians of processes that take turns.

| | one thread | all threads |
|---|---|---|"""


def main() -> None:
    """Measure in a process for each number of threads, print and write the table."""
    if "--measure" in sys.argv:
        print(json.dumps(measure()))
        return
    repeats = [{name: in_own_process(flag) for name, flag in THREADS.items()} for _ in range(PROCESSES)]
    lines = [HEADER]
    for what in repeats[0]["one thread"]:
        medians = [statistics.median(found[name][what] for found in repeats) for name in THREADS]
        lines += [f"| {what} | {' | '.join(f'{median:.0f}' for median in medians)} |"]
    (pathlib.Path(__file__).resolve().parent / "results" / "update_bound.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def in_own_process(flag: str) -> dict[str, float]:
    """What `measure` returns, of a fresh process: XLA reads its flags once."""
    environment = {**os.environ, "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={flag}"}
    command = [sys.executable, __file__, "--measure"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def measure() -> dict[str, float]:
    """Microseconds by what was timed."""
    agent = krl.fit_agent("CartPole-v1", "ppo", steps=ROLLOUT * ENVS, seed=0, num_envs=ENVS, verbose=0)
    program = OnPolicyProgram(agent, krl.make_env("CartPole-v1", num_envs=ENVS).make_training(), jit_compile=True)
    seed = seeding.make_seed(0)
    carry, rollout, _, _ = tf.function(program.collect, jit_compile=True)(program.start(seed), 0, seed)

    def collect(i, total):
        moved, collected, _, _ = program.collect(carry, i, seeding.fold_in(seed, i))
        return total + tf.add_n([tf.reduce_sum(tf.cast(x, tf.float32)) for x in tf.nest.flatten((moved, collected))])

    def update(i, total):
        _, metrics = program.learn(carry, rollout, i, seeding.fold_in(seed, i))
        return total + tf.add_n(list(metrics.values()))

    products = [rows(HIDDEN), matrix(HIDDEN, HIDDEN)]
    return {
        "a gradient step, this library": microseconds(update, 0.0, TIMES // EPOCHS) / EPOCHS,
        "a gradient step by hand": microseconds(hand_written_step, initial_state(), TIMES),
        "its six matrix products": microseconds(six_products, products, TIMES),
        "a rollout of 256 steps": microseconds(collect, 0.0, TIMES // 10),
        "the policy between two steps, by XLA": call_microseconds(agent, seed, jit_compile=True),
        "the policy between two steps, plain graph": call_microseconds(agent, seed, jit_compile=False),
    }


def call_microseconds(agent: krl.Agent, seed: tf.Tensor, *, jit_compile: bool) -> float:
    """Of one call from Python that samples actions for 8 observations."""
    spec = tf.TensorSpec([ENVS, OBSERVATION], tf.float32)
    act = compiled(lambda x, seed: agent.policy(x).distribution.sample(seed=seed), spec, SEED, jit_compile=jit_compile)
    observation = tf.zeros([ENVS, OBSERVATION])

    def calls() -> None:
        for _ in range(TIMES):
            act(observation, seed).numpy()

    return median_microseconds(calls, TIMES)


def repeat(body: Callable[[tf.Tensor, Any], Any], state: Any, times: int) -> Any:
    return tf.while_loop(lambda i, _: i < times, lambda i, state: (i + 1, body(i, state)), (0, state))[1]


def microseconds(body: Callable[[tf.Tensor, Any], Any], state: Any, times: int) -> float:
    """Of one of the `times` turns of a compiled loop."""
    run = tf.function(lambda: repeat(body, state, times), jit_compile=True, autograph=False)
    return median_microseconds(lambda: tf.nest.flatten(run())[-1].numpy(), times)


def median_microseconds(run: Callable[[], Any], times: int) -> float:
    """The median of several runs, after one that compiles, by the number of turns in each."""
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) / times * 1e6


def matrix(rows_: int, columns: int) -> tf.Tensor:
    return tf.random.normal([rows_, columns]) / rows_**0.5


def rows(columns: int) -> tf.Tensor:
    return tf.random.normal([BATCH, columns])


def perceptron(outputs: int) -> Parameters:
    sizes = (OBSERVATION, HIDDEN, HIDDEN, outputs)
    return [x for i, o in itertools.pairwise(sizes) for x in (matrix(i, o), tf.zeros([o]))]


def initial_state() -> tuple[Parameters, Parameters, Parameters]:
    """Weights of actor and critic, and Adam's two moments."""
    weights = perceptron(ACTIONS) + perceptron(1)
    return weights, [tf.zeros_like(x) for x in weights], [tf.zeros_like(x) for x in weights]


def forward(x: tf.Tensor, weights: Parameters) -> tf.Tensor:
    first, first_bias, second, second_bias, last, last_bias = weights
    return tf.tanh(tf.tanh(x @ first + first_bias) @ second + second_bias) @ last + last_bias


def hand_written_step(i: tf.Tensor, state: Any) -> Any:
    """PPO's loss on fixed data, its gradient clipped by the global norm, and Adam."""
    weights, means, squares = state
    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss = hand_written_loss(weights)
    gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, weights), 0.5)
    means = [m + 0.1 * (g - m) for m, g in zip(means, gradients, strict=True)]
    squares = [s + 0.001 * (g * g - s) for s, g in zip(squares, gradients, strict=True)]
    weights = [w - 1e-3 * m / (tf.sqrt(s) + 1e-5) for w, m, s in zip(weights, means, squares, strict=True)]
    return weights, means, squares


X, ADVANTAGE, TARGET = rows(OBSERVATION), rows(1)[:, 0], rows(1)[:, 0]
CHOSEN = tf.one_hot(tf.random.uniform([BATCH], 0, ACTIONS, tf.int32), ACTIONS)


def hand_written_loss(weights: Parameters) -> tf.Tensor:
    log_prob = tf.reduce_sum(tf.nn.log_softmax(forward(X, weights[:6])) * CHOSEN, -1)
    ratio = tf.exp(log_prob + tf.math.log(2.0))
    advantage = (ADVANTAGE - tf.reduce_mean(ADVANTAGE)) / (tf.math.reduce_std(ADVANTAGE) + 1e-8)
    surrogate = tf.minimum(ratio * advantage, tf.clip_by_value(ratio, 0.8, 1.2) * advantage)
    error = forward(X, weights[6:])[:, 0] - TARGET
    return -tf.reduce_mean(surrogate) + 0.5 * tf.reduce_mean(error * error)


def six_products(i: tf.Tensor, state: list[tf.Tensor]) -> list[tf.Tensor]:
    """Forward, and backward to both factors, for two layers of 64 units; each needs the one before."""
    hidden, weight = state
    for _ in range(2):
        out = hidden @ weight
        hidden = hidden + 1e-6 * tf.matmul(out, weight, transpose_b=True)
        weight = weight + 1e-9 * tf.matmul(hidden, out, transpose_a=True)
    return [hidden, weight]


if __name__ == "__main__":
    main()
