"""A training of any length takes the memory of a short one."""

import os
import pathlib

import keras
import pytest

import kerasrl_pg as krl

UPDATES = 10_000
SETTLED = 2_000
"""Updates after which buffers, caches and compiled programs are there."""
ALLOWED = 16 * 2**20
"""Bytes: updates that keep two kilobytes each are found; the log of the episodes may grow."""
STATUS = pathlib.Path("/proc/self/statm")
ALGORITHMS = {
    "on-policy": krl.PPO(rollout_length=2, epochs=1, num_minibatches=1),
    "off-policy": krl.DQN(rollout_length=2, batch_size=2, replay_size=1_000, learning_starts=10),
}


class Memory(keras.callbacks.Callback):
    """The resident size after a number of updates, in bytes."""

    def __init__(self, after):
        super().__init__()
        self.after = after
        self.updates = 0
        self.resident = []

    def on_train_batch_end(self, batch, logs=None):
        self.updates += 1
        if self.updates in self.after:
            self.resident.append(int(STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="the resident size is read from Linux's /proc")
@pytest.mark.parametrize("in_graph", [True, False], ids=["graph", "vector"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ten_thousand_updates_leave_nothing_behind(algorithm, in_graph):
    memory = Memory(after=(SETTLED, UPDATES))
    krl.fit_agent(
        "CartPole-v1",
        ALGORITHMS[algorithm],
        steps=2 * (UPDATES + 100),
        num_envs=1,
        in_graph=in_graph,
        steps_per_epoch=2_000,
        callbacks=[memory],
        verbose=0,
    )
    settled, last = memory.resident
    assert last - settled < ALLOWED
