"""A graph environment behaves, from Python, as any Gymnasium vector environment."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from kerasrl_pg.envs.cartpole import CartPole
from kerasrl_pg.envs.pendulum import Pendulum
from kerasrl_pg.envs.tensor_vector import TensorVectorEnv
from tests.contract.counter import PARTS, CounterGraph


def play(environment, seed, steps=30):
    """Observations, rewards and endings of some fixed actions."""
    seen = [environment.reset(seed=seed)[0]]
    for time in range(steps):
        observation, reward, terminated, truncated, _ = environment.step(np.full(environment.num_envs, time % 2))
        seen += [observation, reward, terminated, truncated]
    return np.concatenate([np.ravel(part) for part in seen])


def test_spaces_and_metadata():
    environment = TensorVectorEnv(Pendulum(num_envs=3))
    assert environment.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert environment.action_space == batch_space(environment.single_action_space, 3)
    assert environment.observation_space == batch_space(environment.single_observation_space, 3)
    observation, info = environment.reset(seed=1)
    assert environment.observation_space.contains(observation)
    assert info == {}
    observation, reward, terminated, truncated, _ = environment.step(environment.action_space.sample())
    assert environment.observation_space.contains(observation)
    assert [array.dtype.name for array in (reward, terminated, truncated)] == ["float32", "bool", "bool"]


def test_the_final_observation_comes_in_info():
    environment = TensorVectorEnv(CounterGraph())
    environment.reset(seed=0)
    for _ in range(4):
        observation, _, terminated, _, info = environment.step(np.array([1, 0, 0]))
    assert terminated.tolist() == info["_final_obs"].tolist() == [True, False, False]
    assert info["final_obs"][0].tolist() == [0, 8, 4]
    assert observation[0].tolist() == [0, 0, 0]


def test_observations_in_parts():
    observation, _ = TensorVectorEnv(CounterGraph(PARTS)).reset(seed=0)
    assert isinstance(PARTS, spaces.Dict)
    assert observation.keys() == PARTS.spaces.keys()
    assert observation["clock"].shape == (3, 2)


def test_the_seed_decides_everything():
    environment = TensorVectorEnv(CartPole(num_envs=4))
    first = play(environment, seed=3)
    np.testing.assert_array_equal(first, play(environment, seed=3))
    np.testing.assert_array_equal(first, play(TensorVectorEnv(CartPole(num_envs=4)), seed=3))
    assert (first != play(environment, seed=4)).any()


def test_a_reset_without_a_seed_starts_other_episodes():
    environment = TensorVectorEnv(CartPole(num_envs=4))
    first, _ = environment.reset(seed=3)
    second, _ = environment.reset()
    assert (first != second).all()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_actions_may_be_of_either_integer_type(dtype):
    environment = TensorVectorEnv(CartPole(num_envs=2))
    environment.reset(seed=0)
    assert environment.step(np.array([0, 1], dtype))[1].tolist() == [1, 1]
