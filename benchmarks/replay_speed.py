"""Times the replays and their samplers on this machine.

    python benchmarks/replay_speed.py             # about a minute on 2 idle cores, and 3 GiB of memory

The target: of 1,000,000 places at least 500,000 drawn and updated a second, 8 batches of 32 a call; and an `add`
of the replay in a graph that costs the same for 10,000 transitions as for 100,000, so that nothing copies the ring.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gymnasium
import numpy as np
import tensorflow as tf

from kerasrl_pg.collect.graph_replay import GraphReplay
from kerasrl_pg.collect.replay import Replay
from kerasrl_pg.collect.samplers import PrioritizedSampler, Sampler, UniformSampler
from kerasrl_pg.types import Step

PLACES = 1_000_000
DRAWN = 8 * 32
REPEATS = 5
ADDS = 10_000


def seconds(call: Callable[[], object], times: int) -> float:
    """Of one call: the best mean of several rounds, after one that does not count."""
    call()
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        for _ in range(times):
            call()
        best = min(best, (time.perf_counter() - started) / times)
    return best


def sampler_speed(sampler: Sampler) -> None:
    rng = np.random.default_rng(0)
    sampler.include(np.arange(PLACES))
    for start in range(0, PLACES, 10_000):  # priorities of all kinds
        sampler.update(np.arange(start, start + 10_000), rng.normal(size=10_000))
    name = type(sampler).__name__
    print(f"{name}: {DRAWN / seconds(lambda: sampler.draw(DRAWN, rng, 0.4), 1000):,.0f} places drawn a second")
    if isinstance(sampler, PrioritizedSampler):
        places, error = rng.integers(PLACES, size=DRAWN), rng.normal(size=DRAWN)
        print(f"{name}: {DRAWN / seconds(lambda: sampler.update(places, error), 1000):,.0f} places updated a second")


def atari_replay_speed() -> None:
    """Eight environments, frames of 84 x 84, stacks of 4: what a step and a batch take beside the network."""
    space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    capacity = 50_000
    replay = Replay(space, 8, capacity, sampler=PrioritizedSampler(capacity), n_step=3, stack=4)
    observation = np.zeros((8, 4, 84, 84), np.uint8)
    action, no, reward = np.zeros(8, np.int32), np.zeros(8, bool), np.zeros(8, np.float32)
    step = Step(observation, reward, no, no, observation)
    replay.start(observation)
    print(f"Replay: {8 / seconds(lambda: replay.add(action, step, ~no), 2000):,.0f} Atari steps added a second")
    rng = np.random.default_rng(0)
    batch = seconds(lambda: replay.sample(32, rng, 0.4), 300)
    print(f"Replay: {batch * 1e6:,.0f} microseconds for a batch of 32 Atari transitions")
    print(f"Replay: {replay.nbytes / capacity * PLACES / 2**30:.2f} GiB for 1,000,000 Atari transitions")


def graph_replay_speed(capacity: int, prioritized: tuple[float, float] | None) -> None:
    adding, learning = (microseconds_per_add(capacity, prioritized, learn) for learn in (False, True))
    print(
        f"GraphReplay of {capacity:,}, {'prioritized' if prioritized else 'uniform'}: {adding:.2f} microseconds for an "
        f"add of 8, {learning:.2f} with a batch of 32 drawn and updated"
    )


def microseconds_per_add(capacity: int, prioritized: tuple[float, float] | None, learn: bool) -> float:
    replay = GraphReplay(gymnasium.spaces.Box(-1, 1, (4,)), 8, capacity, prioritized=prioritized)
    no = tf.zeros([8], tf.bool)

    def body(i, state, total):
        observation = tf.fill([8, 4], tf.cast(i, tf.float32))
        step = Step(observation, tf.ones([8]), no, no, observation)
        state = replay.add(state, observation, tf.zeros([8], tf.int32), step)
        if learn:
            batch = replay.sample(state, 32, tf.stack([i, 0]), 0.4)
            state = replay.update_priorities(state, batch.index, batch.observation[:, 0])
            total += tf.reduce_sum(batch.reward)
        return i + 1, state, total

    @tf.function(jit_compile=True, autograph=False)
    def loop(state, rounds):
        _, state, total = tf.while_loop(lambda i, *_: i < rounds, body, (0, state, 0.0))
        # What nobody reads is not computed: one number of every part.
        return total + sum(tf.cast(tf.reshape(part, [-1])[0], tf.float32) for part in tf.nest.flatten(state))

    state, one, many = replay.empty(), tf.constant(1), tf.constant(ADDS + 1)
    call = seconds(lambda: loop(state, one).numpy(), 1)  # what a call costs by itself: it copies the state
    return (seconds(lambda: loop(state, many).numpy(), 1) - call) / ADDS * 1e6


def main() -> None:
    sampler_speed(UniformSampler(PLACES))
    sampler_speed(PrioritizedSampler(PLACES))
    atari_replay_speed()
    for prioritized in (None, (0.6, 0.1)):
        for capacity in (10_000, 100_000, 1_000_000):
            graph_replay_speed(capacity, prioritized)


if __name__ == "__main__":
    main()
