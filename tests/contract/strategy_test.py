"""The number of replicas is a matter of speed: the same seed and environments give the same weights on 1, 2 and 4.

What would break it: clipping on each replica, advantages normalised on each, shuffling each replica's own rows,
summing where a mean is meant, environments or actions seeded by replica. Plain gradient descent learns, for Adam
would hide a gradient of twice the size, as would a bound below every norm.
"""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
from keras.optimizers.schedules import PolynomialDecay

import kerasrl_pg as krl
from kerasrl_pg.envs.make import make_env
from kerasrl_pg.envs.pendulum import Pendulum
from kerasrl_pg.models import actor_critic, mlp_trunk
from tests.training_aids import replicas

UPDATES, NUM_ENVS = 20, 4
WHOLE_EPISODES = {"CartPole-v1": 40, "Pendulum-v1": 25}
"""About as many steps as the longest of a first policy's episodes has."""

ALGORITHMS: dict[str, Any] = {
    "ppo": krl.PPO(rollout_length=8, epochs=2, num_minibatches=4),
    "a2c": krl.A2C(rollout_length=5, normalize_advantage=True),
    "policy_gradient": krl.PolicyGradient(baseline="mean", rollout_length=8),
    "reinforce": krl.Reinforce(standardize_returns=True),
    "reinforce by episode": krl.Reinforce(standardize_returns=True, gradient_step_per="episode"),
    "cross_entropy": krl.CrossEntropy(elite_share=0.5, epochs=2),
}

MEDIANS = {
    "CartPole-v1": {
        "ppo": 1.4, "a2c": 1.3, "policy_gradient": 1.8, "reinforce": 0.1, "reinforce by episode": 3.5,
        "cross_entropy": 0.1,
    },
    "Pendulum-v1": {
        "ppo": 1.3, "a2c": 1.5, "policy_gradient": 8.0, "reinforce": 0.25, "reinforce by episode": 12.0,
        "cross_entropy": 0.3,
    },
}  # fmt: skip
"""Of the gradient's norm in these trainings: as its bound they clip some updates and leave others alone."""


def environment_of(env_id, in_graph):
    """In 200 steps a pendulum doubles the last digit's rounding so often that nothing is left to compare."""
    if env_id == "CartPole-v1":
        return env_id
    limit = WHOLE_EPISODES[env_id]
    if not in_graph:
        return lambda: gymnasium.make(env_id, max_episode_steps=limit)
    pendulum = Pendulum(NUM_ENVS)
    pendulum.max_episode_steps = limit
    return pendulum


def train(env_id, name, in_graph, normalized, count, seed=0):
    spaces = make_env(env_id).make_training()
    model = actor_critic(
        spaces.observation_space, spaces.action_space, trunk=mlp_trunk((16,), seed=1),
        normalize_observation=normalized, normalize_value=normalized, seed=3,
    )  # fmt: skip
    algorithm, bound = ALGORITHMS[name], MEDIANS[env_id][name]
    if name != "cross_entropy":  # which has none
        algorithm = dataclasses.replace(algorithm, max_gradient_norm=bound)
    per_update = NUM_ENVS * (algorithm.rollout_length or WHOLE_EPISODES[env_id])
    return krl.fit_agent(
        environment_of(env_id, in_graph), algorithm, steps=UPDATES * per_update, seed=seed, num_envs=NUM_ENVS,
        model=model, optimizer=keras.optimizers.SGD(0.01 / bound), strategy=replicas(count), in_graph=in_graph,
        jit_compile=False, verbose=0,
    )  # fmt: skip


def assert_same_training(one, other, bound):
    assert one.steps == other.steps
    assert one.updates == other.updates >= UPDATES
    assert one.episodes.episode_return == pytest.approx(other.episodes.episode_return, rel=1e-5)
    history, same_history = one.history.history, other.history.history
    assert min(history["gradient_norm"]) < bound < max(history["gradient_norm"])
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(same_history[name], history[name], rtol=1e-4, atol=1e-6, err_msg=name)
    for variable, same in zip(one.model.variables, other.model.variables, strict=True):
        # Running statistics are in the units of observations and returns, and their rounding is that of the play.
        tolerance = 1e-5 if variable.trainable else 1e-4
        np.testing.assert_allclose(variable, same, rtol=tolerance, atol=tolerance, err_msg=variable.path)


@pytest.mark.parametrize(
    ("env_id", "name", "in_graph", "normalized", "count"),
    [
        ("CartPole-v1", "ppo", True, True, 4),
        ("CartPole-v1", "a2c", False, True, 2),
        ("CartPole-v1", "reinforce by episode", True, False, 2),
        ("Pendulum-v1", "cross_entropy", False, False, 2),
    ],
)
def test_replicas_do_not_change_what_is_learned(env_id, name, in_graph, normalized, count):
    alone, together = (train(env_id, name, in_graph, normalized, each) for each in (0, count))
    assert_same_training(alone, together, MEDIANS[env_id][name])


@pytest.mark.slow
@pytest.mark.parametrize("in_graph", [True, False], ids=["graph", "gymnasium"])
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_replicas_do_not_change_what_is_learned_anywhere(env_id, name, in_graph):
    normalized = not name.startswith(("reinforce", "cross_entropy"))
    alone = train(env_id, name, in_graph, normalized, 0)
    for count in (1, 2, 4):
        assert_same_training(alone, train(env_id, name, in_graph, normalized, count), MEDIANS[env_id][name])


@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce"])
def test_what_layers_add_to_the_loss_is_learned_from_on_every_replica(name):
    """Layers remember what they added in their last call, which must be the replica's own."""

    def train(count):
        first = keras.initializers.GlorotUniform(seed=1)
        layer = keras.layers.Dense(8, kernel_initializer=first, activity_regularizer=keras.regularizers.L2(1.0))
        return krl.fit_agent(
            "CartPole-v1", ALGORITHMS[name], steps=64, num_envs=NUM_ENVS, model=keras.Sequential([layer]),
            optimizer=keras.optimizers.SGD(0.05), strategy=replicas(count), in_graph=False, jit_compile=False,
            verbose=0,
        )  # fmt: skip

    one, other = train(0), train(2)
    for weight, same in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, same, rtol=1e-4, atol=1e-5)


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


def test_a_training_under_a_strategy_goes_on_as_if_it_had_not_stopped(tmp_path):
    """From a checkpoint and from a loaded agent, with its running statistics and in the middle of a schedule."""
    strategy = replicas(2)
    ppo = dataclasses.replace(ALGORITHMS["ppo"], clip_epsilon=PolynomialDecay(0.3, 40, 0.05))

    def normalizing(observation_space, action_space, seed):
        trunk = mlp_trunk((16,), seed=seed)
        more = {"normalize_observation": True, "normalize_value": True}
        return actor_critic(observation_space, action_space, trunk=trunk, seed=seed, **more)

    def fit(steps, algorithm=ppo, **arguments):
        return krl.fit_agent(
            "CartPole-v1", algorithm, steps=steps, num_envs=NUM_ENVS, steps_per_epoch=32, strategy=strategy,
            jit_compile=False, verbose=0, **arguments,
        )  # fmt: skip

    new = {"model": normalizing, "optimizer": keras.optimizers.Adam(PolynomialDecay(0.01, 60, 0.001))}
    whole, path = fit(192, **new), tmp_path / "agent"
    fit(96, checkpoint=path, **new)
    loaded = krl.load_agent(path, strategy=strategy)
    for resumed in (fit(192, checkpoint=path, **new), fit(96, loaded)):
        assert resumed.updates == whole.updates == 6
        assert resumed.strategy is strategy
        for variable, expected in zip(resumed.model.variables, whole.model.variables, strict=True):
            np.testing.assert_array_equal(variable, expected, err_msg=variable.path)
        for variable, expected in zip(resumed.optimizer.variables, whole.optimizer.variables, strict=True):
            np.testing.assert_array_equal(variable, expected, err_msg=variable.path)
        for name in ("loss", "gradient_norm", "clip_fraction", "episode_return"):
            np.testing.assert_array_equal(resumed.history.history[name], whole.history.history[name])


def test_without_the_same_environments_the_weights_are_others():
    """The control: the comparison above would notice."""
    one, other = (train("CartPole-v1", "a2c", False, True, 0, seed) for seed in (0, 1))
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
def test_two_processes_play_different_episodes_and_learn_the_same_weights(how, tmp_path):
    first, second = two_workers(how, tmp_path)
    assert first.pop("episodes").tolist() != second.pop("episodes").tolist()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
