"""The number of replicas is a matter of speed: the same seed and environments give the same weights on 1, 2 and 4.

What would break it: clipping on each replica, advantages normalised on each, shuffling each replica's own rows,
summing where a mean is meant, environments or actions seeded by replica.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrl_pg as krl
from kerasrl_pg.envs.make import make_env
from kerasrl_pg.models import actor_critic, mlp_trunk

UPDATES, NUM_ENVS = 20, 4
BOUND = 0.01
"""Of the gradient's norm: so low that every training here is clipped throughout."""

WHOLE_EPISODES = {"CartPole-v1": 40, "Pendulum-v1": 200}
"""About as many steps as the longest of a first policy's episodes has."""

ALGORITHMS: dict[str, Any] = {
    "ppo": krl.PPO(rollout_length=8, epochs=2, num_minibatches=4, max_gradient_norm=BOUND),
    "a2c": krl.A2C(rollout_length=5, max_gradient_norm=BOUND, normalize_advantage=True),
    "policy_gradient": krl.PolicyGradient(baseline="mean", rollout_length=8, max_gradient_norm=BOUND),
    "reinforce": krl.Reinforce(standardize_returns=True, max_gradient_norm=BOUND),
    "reinforce by episode": krl.Reinforce(gradient_step_per="episode", max_gradient_norm=BOUND),
    "cross_entropy": krl.CrossEntropy(elite_share=0.5, epochs=2),
}


def replicas(count):
    """A strategy over `count` logical CPUs; none at all for 0."""
    if count == 0:
        return None
    devices = [f"CPU:{index}" for index in range(count)]
    # Strategies of different sizes would confuse TensorFlow's collectives, which number themselves per process.
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())


def train(env_id, name, in_graph, normalized, count):
    spaces = make_env(env_id).make_training()
    model = actor_critic(
        spaces.observation_space, spaces.action_space, trunk=mlp_trunk((16,), seed=1),
        normalize_observation=normalized, normalize_value=normalized, seed=3,
    )  # fmt: skip
    algorithm = ALGORITHMS[name]
    per_update = NUM_ENVS * (algorithm.rollout_length or WHOLE_EPISODES[env_id])
    return krl.fit_agent(
        env_id, algorithm, steps=UPDATES * per_update, num_envs=NUM_ENVS, model=model,
        optimizer=keras.optimizers.Adam(1e-3), strategy=replicas(count), in_graph=in_graph,
        jit_compile=False, verbose=0,
    )  # fmt: skip


def assert_same_training(one, other):
    assert one.steps == other.steps
    assert one.updates == other.updates >= UPDATES
    # A pendulum doubles the last digit's rounding many times within an episode: the returns are compared coarsely.
    assert one.episodes.episode_return == pytest.approx(other.episodes.episode_return, rel=1e-2)
    assert min(one.history.history["gradient_norm"]) > BOUND  # it really was clipped
    for variable, same in zip(one.model.variables, other.model.variables, strict=True):
        # Running statistics are in the units of observations and returns, and their rounding is that of the play.
        tolerance = 1e-5 if variable.trainable else 1e-4
        np.testing.assert_allclose(variable, same, rtol=tolerance, atol=tolerance, err_msg=variable.path)


@pytest.mark.parametrize(
    ("env_id", "name", "in_graph", "normalized", "counts"),
    [
        ("CartPole-v1", "ppo", True, True, (1, 2, 4)),
        ("Pendulum-v1", "ppo", False, False, (2,)),
        ("CartPole-v1", "a2c", False, True, (2,)),
        ("CartPole-v1", "reinforce", False, False, (2,)),
        ("CartPole-v1", "reinforce by episode", True, False, (2,)),
        ("CartPole-v1", "cross_entropy", True, False, (2,)),
        ("Pendulum-v1", "policy_gradient", True, False, (4,)),
    ],
)
def test_replicas_do_not_change_what_is_learned(env_id, name, in_graph, normalized, counts):
    alone = train(env_id, name, in_graph, normalized, 0)
    for count in counts:
        assert_same_training(alone, train(env_id, name, in_graph, normalized, count))


@pytest.mark.slow
@pytest.mark.parametrize("in_graph", [True, False], ids=["graph", "gymnasium"])
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_replicas_do_not_change_what_is_learned_anywhere(env_id, name, in_graph):
    normalized = not name.startswith(("reinforce", "cross_entropy"))
    alone = train(env_id, name, in_graph, normalized, 0)
    for count in (1, 2, 4):
        assert_same_training(alone, train(env_id, name, in_graph, normalized, count))


def test_dropout_draws_the_same_masks_on_every_number_of_replicas_where_steps_are_of_one_episode():
    algorithm = krl.Reinforce(gradient_step_per="episode", dropout_while_acting=True, max_gradient_value=0.1)

    def train(count):
        return krl.fit_agent(
            "CartPole-v1", algorithm, steps=800,
            num_envs=NUM_ENVS, model=mlp_trunk((16,), dropout=0.5, seed=1), optimizer=keras.optimizers.Adam(1e-3),
            strategy=replicas(count), jit_compile=False, verbose=0,
        )  # fmt: skip

    one, other = train(0), train(2)
    for weight, same in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, same, rtol=1e-5, atol=1e-5)


def test_without_the_same_environments_the_weights_are_others():
    """The control: the comparison above would notice."""
    one = train("CartPole-v1", "a2c", False, False, 0)
    other = krl.fit_agent(
        "CartPole-v1", ALGORITHMS["a2c"], steps=one.steps, seed=1, num_envs=NUM_ENVS, in_graph=False,
        model=mlp_trunk((16,), seed=1), jit_compile=False, verbose=0,
    )  # fmt: skip
    assert np.abs(one.model.trainable_variables[0] - other.model.trainable_variables[0]).max() > 1e-3


WORKER = """
import json, sys
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
import keras, numpy, kerasrl_pg as krl
from kerasrl_pg.models import mlp_trunk
agent = krl.fit_agent(
    "CartPole-v1", krl.PPO(rollout_length=8, epochs=2, num_minibatches=4, max_gradient_norm=0.05), steps=640,
    num_envs=4, model=mlp_trunk((16,), seed=1), optimizer=keras.optimizers.Adam(1e-2), strategy=strategy,
    in_graph=sys.argv[1] == "graph", jit_compile=False, verbose=0)
numpy.savez(sys.argv[2], *agent.model.get_weights(), episodes=agent.episodes.episode_return)
"""


def two_workers(how: str, directory: pathlib.Path) -> list[dict[str, np.ndarray]]:
    """What two processes, each with its own environments, learned together over the loopback interface."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
    for server in sockets:
        server.close()
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, "-c", WORKER, how, str(directory / f"{index}.npz")]
        environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
    return [dict(np.load(directory / f"{index}.npz")) for index in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["graph", "gymnasium"])
def test_two_processes_learn_the_same_weights(how, tmp_path):
    first, second = two_workers(how, tmp_path)
    for name in first.keys() - {"episodes"}:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["graph", "gymnasium"])
def test_two_processes_play_different_episodes(how, tmp_path):
    first, second = two_workers(how, tmp_path)
    assert first["episodes"].tolist() != second["episodes"].tolist()
