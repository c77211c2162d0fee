"""What a step really was, whatever the vector environment's autoreset mode and the way it hands out observations."""

import functools
from typing import Any

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import DictInfoToList

from kerasrl_pg.collect import VectorCollector
from kerasrl_pg.envs.make import make_env
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from tests.contract.counter import PARTS, Counter, act, counters, value

MODES = list(AutoresetMode)


def steps_of(environment, actions):
    """`(Step, valid)` of each of `actions` [T, N]."""
    adapter = VectorAdapter(environment)
    adapter.reset(seed=0)
    return [adapter.step(np.array(action)) for action in actions]


def test_same_step_tells_the_final_observation_from_the_first_of_the_next_episode():
    step, valid = steps_of(counters(AutoresetMode.SAME_STEP), [[1, 0, 0]] * 4)[-1]
    assert step.terminated.tolist() == [True, False, False]
    assert step.final_observation.tolist() == [[0, 8, 4], [1, 4, 4], [2, 4, 4]]
    assert step.observation.tolist() == [[0, 0, 0], [1, 4, 4], [2, 4, 4]]
    assert valid.all()


def test_disabled_resets_those_that_ended_and_no_others():
    """`reset_mask` leaves the others where they are: their clocks go on."""
    steps = steps_of(counters(AutoresetMode.DISABLED), [[1, 0, 0]] * 5)
    step, _ = steps[3]
    assert step.final_observation.tolist() == [[0, 8, 4], [1, 4, 4], [2, 4, 4]]
    assert step.observation.tolist() == [[0, 0, 0], [1, 4, 4], [2, 4, 4]]
    assert steps[4][0].final_observation.tolist() == [[0, 2, 1], [1, 5, 5], [2, 5, 5]]
    assert all(valid.all() for _, valid in steps)


def test_next_step_spends_a_step_on_the_reset_which_is_not_valid():
    steps = steps_of(counters(AutoresetMode.NEXT_STEP), [[1, 0, 0]] * 6)
    assert [valid.tolist() for _, valid in steps[3:]] == [[True] * 3, [False, True, True], [True, False, False]]
    ending, reset = steps[3][0], steps[4][0]
    assert ending.observation.tolist() == ending.final_observation.tolist() == [[0, 8, 4], [1, 4, 4], [2, 4, 4]]
    assert reset.observation[0].tolist() == [0, 0, 0]
    assert (reset.reward[0], reset.terminated[0]) == (0, False)


def test_a_reset_by_hand_makes_the_next_step_valid_again():
    adapter = VectorAdapter(counters(AutoresetMode.NEXT_STEP))
    adapter.reset(seed=0)
    for _ in range(4):
        step, _ = adapter.step(np.array([1, 0, 0]))
    assert step.terminated[0]
    adapter.reset()
    _, valid = adapter.step(np.array([1, 0, 0]))
    assert valid.all()


@pytest.mark.parametrize("mode", MODES)
def test_dict_observations_keep_their_structure_and_take_the_stored_types(mode):
    for step, _ in steps_of(counters(mode, PARTS), [[1, 0, 0]] * 5):
        for observation in (step.observation, step.final_observation):
            assert {name: leaf.dtype.name for name, leaf in observation.items()} == {
                "phase": "int32",
                "clock": "float32",
            }
            assert observation["phase"].tolist() == [0, 1, 2]


class Pair(gymnasium.Env):
    """A tuple of a number and a vector; it lasts `length` steps."""

    observation_space = spaces.Tuple([spaces.Discrete(9, start=-1), spaces.Box(-9, 9, (2,), np.float64)])
    action_space = spaces.Discrete(2)

    def __init__(self, length):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return (0, np.zeros(2)), {}

    def step(self, action):
        self.time += 1
        return (self.time, np.full(2, self.time / 2)), 1, self.time == self.length, False, {}


@pytest.mark.parametrize("mode", MODES)
def test_tuple_observations(mode):
    environment = SyncVectorEnv([lambda: Pair(2), lambda: Pair(3)], autoreset_mode=mode)
    step, _ = steps_of(environment, [[0, 0]] * 2)[-1]
    number, vector = step.final_observation
    assert (number.tolist(), number.dtype) == ([2, 2], np.int32)
    assert (vector.tolist(), vector.dtype) == ([[1, 1], [1, 1]], np.float32)
    assert step.observation[0].tolist() == ([2, 2] if mode == AutoresetMode.NEXT_STEP else [0, 2])
    assert step.reward.dtype == np.float32


class Dense(VectorEnv):
    """As ale-py: SAME_STEP with dense final observations, and every array is written over in the next step."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    single_observation_space = spaces.Box(-99, 99, (2,), np.float32)
    single_action_space = spaces.Discrete(2)
    num_envs = 2

    def __init__(self):
        self.observation_space = batch_space(self.single_observation_space, 2)
        self.action_space = batch_space(self.single_action_space, 2)
        self.time = np.zeros((2, 1), np.float32)
        self.observations, self.final = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)
        self.rewards, self.endings, self.never = np.zeros(2), np.zeros(2, bool), np.zeros(2, bool)

    def reset(self, *, seed=None, options=None):
        self.time[:] = [[0], [1]]
        self.observations[:] = self.time
        return self.observations, {}

    def step(self, actions):
        self.time += 1
        self.final[:] = self.time
        self.rewards[:] = self.time[:, 0]
        self.endings[:] = self.time[:, 0] == 3
        self.time[self.endings] = 0
        self.observations[:] = self.time
        return self.observations, self.rewards, self.endings, self.never, {"final_obs": self.final}


def test_dense_final_observations():
    step, _ = steps_of(Dense(), [[0, 0]] * 2)[-1]
    assert step.terminated.tolist() == [False, True]
    assert step.final_observation.tolist() == [[2, 2], [3, 3]]
    assert step.observation.tolist() == [[2, 2], [0, 0]]


def collect(environment, length):
    def zeros(observation, seed):
        nothing = tf.zeros([environment.num_envs])
        return nothing, tf.zeros([environment.num_envs], tf.int64), nothing, nothing

    collector = VectorCollector(VectorAdapter(environment), length, zeros, None, seed=0)
    return collector.collect(tf.constant([0, 0]))[0]


def test_rows_of_a_rollout_are_copies_of_arrays_that_an_environment_reuses():
    rollout = collect(Dense(), 5)
    assert rollout.observation[:, 0, 0].tolist() == [0, 1, 2, 0, 1]
    assert rollout.observation[:, 1, 0].tolist() == [1, 2, 0, 1, 2]
    assert rollout.reward[:, 0].tolist() == [1, 2, 3, 1, 2]
    assert rollout.terminated.tolist() == [[0, 0], [0, 1], [1, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_environment_that_does_not_copy(mode):
    """`copy=False` makes Gymnasium hand out the array that it writes the next step into."""
    makers = [lambda phase=phase: Counter(phase) for phase in range(3)]
    copied, shared = (
        VectorCollector(
            VectorAdapter(SyncVectorEnv(makers, autoreset_mode=mode, copy=copy)), 8, act_in_environment, value, seed=0
        ).collect(tf.constant([0, 0]))[0]
        for copy in (True, False)
    )
    tf.nest.map_structure(np.testing.assert_array_equal, copied, shared)


def act_in_environment(observation, seed):
    action, log_prob, observation_value = act(observation, seed)
    return action, tf.cast(action, tf.int64), log_prob, observation_value


def test_an_environment_with_one_observation_buffer_does_not_lose_its_final_observation():
    """Gymnasium's SAME_STEP keeps the object itself, into which the reset then writes."""
    adapter: Any = make_env(lambda: Counter(0, reuses_buffer=True), num_envs=2).make_training()
    adapter.reset(seed=0)
    for _ in range(4):
        step, _ = adapter.step(np.array([1, 1]))
    assert step.final_observation.tolist() == [[0, 8, 4], [0, 8, 4]]
    assert step.observation.tolist() == [[0, 0, 0], [0, 0, 0]]


class Fragile(Counter):
    """It breaks in its second step."""

    def step(self, action):
        if self.elapsed == 1:
            raise ZeroDivisionError("no more fuel")
        return super().step(action)


def test_an_environment_that_raises_is_named_with_the_step_and_the_cause():
    adapter = VectorAdapter(SyncVectorEnv([lambda: Fragile(0)]))
    adapter.reset(seed=0)
    adapter.step(np.array([0]))
    with pytest.raises(RuntimeError, match="Fragile raised ZeroDivisionError in step 2: no more fuel") as raised:
        adapter.step(np.array([0]))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_registered_environment_that_raises_is_named_by_its_id():
    adapter = VectorAdapter(SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")]))
    with pytest.raises(RuntimeError, match="the environment CartPole-v1 raised ResetNeeded in step 1"):
        adapter.step(np.array([0]))


def test_an_observation_space_that_is_not_supported_is_refused():
    class Talking(Counter):
        def __init__(self):
            super().__init__(0)
            self.observation_space = spaces.Text(5)

    with pytest.raises(TypeError, match="unsupported observation space Text"):
        VectorAdapter(SyncVectorEnv([Talking]))


@pytest.mark.parametrize("mode", MODES)
def test_environments_in_other_processes_give_the_same_steps(mode):
    makers = [functools.partial(gymnasium.make, "CartPole-v1", max_episode_steps=9)] * 2
    actions = [[1, time % 2] for time in range(25)]  # the first pole falls, the second is cut
    environment = AsyncVectorEnv(makers, autoreset_mode=mode, context="spawn")
    here = steps_of(SyncVectorEnv(makers, autoreset_mode=mode), actions)
    for (step, valid), (other, other_valid) in zip(steps_of(environment, actions), here, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, step, other)
        np.testing.assert_array_equal(valid, other_valid)
    environment.close()


def test_a_wrapper_that_hides_the_final_observations_is_named():
    made = gymnasium.make_vec("CartPole-v1", 2, "sync", vector_kwargs={"autoreset_mode": "SameStep"})
    with pytest.raises(TypeError, match=r'CartPole-v1 resets .* info\["final_obs"\]: take off the wrapper'):
        steps_of(DictInfoToList(made), np.zeros((100, 2), int))
