"""The graph environments are Gymnasium's classic control, step for step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from kerasrl_pg.envs import acrobot, cartpole, mountain_car, pendulum
from kerasrl_pg.envs.graph_envs import GRAPH_ENVIRONMENTS, make_tensor_env
from kerasrl_pg.envs.gridworld_gymnasium import GRIDWORLD_ID
from kerasrl_pg.envs.tensor_env import check_tensor_env
from kerasrl_pg.seeding import fold_in, make_seed
from kerasrl_pg.types import Step

NUM_ENVS = 10
NUM_STEPS = 1_000


@dataclasses.dataclass(frozen=True)
class Case:
    """What a test must know about an environment, besides what Gymnasium knows."""

    skilled: Callable[[np.ndarray], np.ndarray]
    """A policy that succeeds, from observations [N, D]: random actions alone do not reach every ending."""
    endings: set[str]
    """The kinds of ending that skilled and random play together must show."""
    initial_low: list[float]
    initial_high: list[float]
    """Bounds of the uniform initial state, from Gymnasium's documentation."""
    extreme_low: list[float]
    extreme_high: list[float]
    """Bounds of the states that a step must be right in, reached by a policy or not."""
    extreme_tolerance: float = 1e-5


CASES = {
    "CartPole-v1": Case(
        skilled=lambda o: (o @ np.array([0.1, 0.3, 1.0, 0.3]) > 0).astype(np.int32),
        endings={"terminated", "truncated"},
        initial_low=[-0.05] * 4,
        initial_high=[0.05] * 4,
        extreme_low=[-3.0, -5.0, -0.4, -5.0],
        extreme_high=[3.0, 5.0, 0.4, 5.0],
    ),
    "Acrobot-v1": Case(
        skilled=lambda o: np.where(o[:, 4] > 0, 0, 2).astype(np.int32),
        endings={"terminated", "truncated"},
        initial_low=[-0.1] * 4,
        initial_high=[0.1] * 4,
        extreme_low=[-np.pi, -np.pi, -4 * np.pi, -9 * np.pi],
        extreme_high=[np.pi, np.pi, 4 * np.pi, 9 * np.pi],
        extreme_tolerance=1e-2,  # 28 rad/s is too fast for a Runge-Kutta step of 0.2 s: it amplifies rounding
    ),
    "MountainCar-v0": Case(
        skilled=lambda o: np.where(o[:, 1] < 0, 0, 2).astype(np.int32),
        endings={"terminated", "truncated"},
        initial_low=[-0.6, 0.0],
        initial_high=[-0.4, 0.0],
        extreme_low=[-1.2, -0.07],
        extreme_high=[0.6, 0.07],
    ),
    "MountainCarContinuous-v0": Case(
        # Beyond the limits, so that clipping matters.
        skilled=lambda o: np.where(o[:, 1:] < 0, -1.5, 1.5).astype(np.float32),
        endings={"terminated", "truncated"},
        initial_low=[-0.6, 0.0],
        initial_high=[-0.4, 0.0],
        extreme_low=[-1.2, -0.07],
        extreme_high=[0.6, 0.07],
    ),
    "Pendulum-v1": Case(
        skilled=lambda o: 3 * np.sign(o[:, 2:]).astype(np.float32),  # pumps energy until it spins
        endings={"truncated"},
        initial_low=[-np.pi, -1.0],
        initial_high=[np.pi, 1.0],
        extreme_low=[-80.0, -8.0],
        extreme_high=[80.0, 8.0],
    ),
}

every_environment = pytest.mark.parametrize("gymnasium_id", CASES)


def test_every_graph_environment_is_tested():
    assert GRAPH_ENVIRONMENTS.keys() == CASES.keys() | {GRIDWORLD_ID}  # which gridworld_test.py tests


def mixed_actions(gymnasium_id: str, observation: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Random actions in the first half of the environments, skilled ones in the second."""
    half = len(observation) // 2
    space = GRAPH_ENVIRONMENTS[gymnasium_id](1).action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        by_chance = random.integers(0, space.n, half).astype(np.int32)
    else:
        assert isinstance(space, gymnasium.spaces.Box)
        by_chance = random.uniform(1.2 * space.low, 1.2 * space.high, (half, 1)).astype(np.float32)
    return np.concatenate([by_chance, CASES[gymnasium_id].skilled(observation[half:])])


@dataclasses.dataclass(frozen=True)
class Moment:
    physics: np.ndarray  # [N, state dimensions] before the step, without the elapsed steps
    action: np.ndarray  # [N, ...]
    step: Step  # [N, ...]


def play(gymnasium_id: str, steps: int, seed: int = 0) -> list[Moment]:
    env = GRAPH_ENVIRONMENTS[gymnasium_id](NUM_ENVS)
    compiled_step = tf.function(env.step, jit_compile=True)
    random = np.random.default_rng(0)
    state, observation = env.reset(make_seed(seed))
    moments = []
    for time in range(steps):
        physics = np.stack(state[:-1], axis=-1)  # [N, state dimensions]
        action = mixed_actions(gymnasium_id, observation.numpy(), random)
        state, step = compiled_step(state, tf.constant(action), fold_in(make_seed(seed + 1), time))
        observation = step.observation
        moments.append(Moment(physics, action, tf.nest.map_structure(lambda x: x.numpy(), step)))
    return moments


@every_environment
def test_10000_steps_equal_those_of_gymnasium_and_show_every_ending(gymnasium_id):
    """Gymnasium is set to our state before each step, so that float32 cannot drift away from its float64."""
    moments = play(gymnasium_id, NUM_STEPS)
    seen = {"terminated": 0, "truncated": 0}
    for n in range(NUM_ENVS):
        original: Any = gymnasium.make(gymnasium_id, disable_env_checker=True)
        original.reset(seed=0)
        for moment in moments:
            original.unwrapped.state = moment.physics[n].astype(np.float64)
            observation, reward, terminated, truncated, _ = original.step(moment.action[n])
            np.testing.assert_allclose(moment.step.final_observation[n], observation, rtol=2e-5, atol=2e-5)
            np.testing.assert_allclose(moment.step.reward[n], reward, rtol=1e-5, atol=1e-5)
            assert moment.step.terminated[n] == terminated
            assert moment.step.truncated[n] == truncated  # Gymnasium's TimeLimit counts the steps
            seen["terminated"] += terminated
            seen["truncated"] += truncated
            if terminated or truncated:
                original.reset()
        original.close()
    assert {kind for kind, count in seen.items() if count} == CASES[gymnasium_id].endings, seen


STATES: dict[str, Callable] = {
    "CartPole-v1": cartpole.CartPoleState,
    "Acrobot-v1": acrobot.AcrobotState,
    "MountainCar-v0": mountain_car.MountainCarState,
    "MountainCarContinuous-v0": mountain_car.MountainCarState,
    "Pendulum-v1": pendulum.PendulumState,
}


@every_environment
def test_one_step_from_anywhere_equals_that_of_gymnasium(gymnasium_id):
    """Also where no policy goes: at the speed limits, rolling backwards at the goal, outside the bounds."""
    case, num_envs = CASES[gymnasium_id], 1_000
    env: Any = GRAPH_ENVIRONMENTS[gymnasium_id](num_envs)
    random = np.random.default_rng(0)
    physics = random.uniform(case.extreme_low, case.extreme_high, (num_envs, len(case.extreme_low)))
    physics = physics.astype(np.float32)  # [N, state dimensions]
    observation = random.standard_normal((num_envs, *env.observation_space.shape))
    action = mixed_actions(gymnasium_id, observation, random)
    state = STATES[gymnasium_id](*tf.unstack(physics, axis=-1), elapsed=tf.zeros([num_envs], tf.int32))
    _, step = env.step(state, tf.constant(action), make_seed(0))

    original: Any = gymnasium.make(gymnasium_id, disable_env_checker=True)
    for n in range(num_envs):
        original.reset(seed=0)
        original.unwrapped.state = physics[n].astype(np.float64)
        observation, reward, terminated, _, _ = original.step(action[n])
        tolerance = case.extreme_tolerance
        np.testing.assert_allclose(step.final_observation[n], observation, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(step.reward[n], reward, rtol=tolerance, atol=tolerance)
        assert step.terminated[n] == terminated


JUST_BEFORE_SUCCESS_OR_FAILURE: dict[str, tuple[Any, Any]] = {
    "CartPole-v1": ([2.39, 1.0, 0.0, 0.0], 1),
    "Acrobot-v1": ([2.0, 0.0, 4.0, 0.0], 1),
    "MountainCar-v0": ([0.49, 0.05], 2),
    "MountainCarContinuous-v0": ([0.44, 0.05], [1.0]),
}


@pytest.mark.parametrize("gymnasium_id", JUST_BEFORE_SUCCESS_OR_FAILURE)
def test_an_episode_that_ends_at_the_time_limit_is_terminated_and_truncated(gymnasium_id):
    physics, action = JUST_BEFORE_SUCCESS_OR_FAILURE[gymnasium_id]
    env: Any = GRAPH_ENVIRONMENTS[gymnasium_id](1)
    state = STATES[gymnasium_id](*(tf.constant([x]) for x in physics), elapsed=tf.constant([env.max_episode_steps - 1]))
    state, step = env.step(state, tf.constant([action]), make_seed(0))

    original: Any = gymnasium.make(gymnasium_id, max_episode_steps=1, disable_env_checker=True)
    original.reset(seed=0)
    original.unwrapped.state = np.array(physics)
    _, reward, terminated, truncated, _ = original.step(np.array(action))
    assert (terminated, truncated) == (True, True)
    assert (step.terminated[0], step.truncated[0]) == (True, True)
    np.testing.assert_allclose(step.reward[0], reward, rtol=1e-6)
    assert state.elapsed[0] == 0


def test_the_left_wall_stops_the_mountain_car():
    state = mountain_car.MountainCarState(tf.constant([-1.19]), tf.constant([-0.06]), tf.constant([0]))
    next_state, _, _ = mountain_car.dynamics(state, tf.constant([0]))
    assert next_state.position[0] == np.float32(-1.2)
    assert next_state.velocity[0] == 0.0


def test_pendulum_reward_wraps_the_angle():
    """A pendulum that went round several times costs what its angle costs."""
    angle = tf.constant([1.0, 1.0 + 2 * np.pi, 1.0 - 6 * np.pi], tf.float32)
    state = pendulum.PendulumState(angle, tf.zeros([3]), tf.zeros([3], tf.int32))
    _, reward, _ = pendulum.dynamics(state, tf.zeros([3, 1]))
    np.testing.assert_allclose(reward, [-1.0, -1.0, -1.0], rtol=1e-5)


@every_environment
def test_spaces_and_time_limit_are_those_of_gymnasium(gymnasium_id):
    env = GRAPH_ENVIRONMENTS[gymnasium_id](2)
    original = gymnasium.make(gymnasium_id)
    assert env.observation_space == original.observation_space
    assert env.action_space == original.action_space
    assert env.gymnasium_id == gymnasium_id
    assert original.spec is not None
    assert env.max_episode_steps == original.spec.max_episode_steps


def initial_physics(gymnasium_id: str, num_envs: int, seed: int = 0) -> np.ndarray:
    state, _ = GRAPH_ENVIRONMENTS[gymnasium_id](num_envs).reset(make_seed(seed))
    return np.stack(state[:-1], axis=-1)  # [N, state dimensions]


@every_environment
def test_initial_states_are_uniform_within_the_bounds_of_gymnasium(gymnasium_id):
    case, num_envs = CASES[gymnasium_id], 20_000
    low, high = np.array(case.initial_low), np.array(case.initial_high)
    physics = initial_physics(gymnasium_id, num_envs)
    assert np.all(physics >= low - 1e-6)
    assert np.all(physics <= high + 1e-6)
    width = high - low
    standard_error = width / np.sqrt(12 * num_envs)
    assert np.all(np.abs(physics.mean(axis=0) - (low + high) / 2) <= 4 * standard_error + 1e-7)
    np.testing.assert_allclose(physics.std(axis=0), width / np.sqrt(12), rtol=0.02, atol=1e-7)
    varying = physics[:, width > 0]
    correlation = np.atleast_2d(np.corrcoef(varying, rowvar=False))
    assert np.all(np.abs(correlation - np.eye(varying.shape[1])) < 0.03)


@every_environment
def test_the_bounds_of_the_initial_state_are_those_that_gymnasium_draws_from(gymnasium_id):
    original: Any = gymnasium.make(gymnasium_id, disable_env_checker=True)
    drawn = []
    for seed in range(500):
        original.reset(seed=seed)
        drawn.append(np.array(original.unwrapped.state))
    low, high = np.array(CASES[gymnasium_id].initial_low), np.array(CASES[gymnasium_id].initial_high)
    margin = 0.03 * (high - low)
    assert np.all(np.abs(np.min(drawn, axis=0) - low) <= margin)
    assert np.all(np.abs(np.max(drawn, axis=0) - high) <= margin)


@every_environment
def test_environments_of_a_batch_start_differently_and_seeds_differ(gymnasium_id):
    physics = initial_physics(gymnasium_id, 64)
    assert len(np.unique(physics, axis=0)) == 64
    np.testing.assert_array_equal(physics, initial_physics(gymnasium_id, 64))
    assert not np.any(np.all(physics == initial_physics(gymnasium_id, 64, seed=1), axis=-1))


@every_environment
def test_environments_of_a_batch_do_not_influence_each_other(gymnasium_id):
    """Changing the first environment's state and action leaves the others alone, bit for bit."""
    env = GRAPH_ENVIRONMENTS[gymnasium_id](4)
    state, observation = env.reset(make_seed(0))
    action = CASES[gymnasium_id].skilled(observation.numpy())
    other_state = tf.nest.map_structure(lambda x: tf.concat([x[:1] * 0, x[1:]], axis=0), state)
    other_action = np.concatenate([action[:1] * 0 + (action[:1] == 0), action[1:]])
    _, step = env.step(state, tf.constant(action), make_seed(1))
    _, other_step = env.step(other_state, tf.constant(other_action), make_seed(1))
    assert not np.array_equal(step.observation[0], other_step.observation[0])
    for one, other in zip(step, other_step, strict=True):
        np.testing.assert_array_equal(one[1:], other[1:])


@every_environment
def test_eager_graph_and_xla_agree(gymnasium_id):
    """Over one step from many states, on both sides of the time limit; longer runs drift by rounding."""
    env: Any = GRAPH_ENVIRONMENTS[gymnasium_id](64)
    state, observation = env.reset(make_seed(3))
    state = state._replace(elapsed=tf.constant([0, env.max_episode_steps - 1] * 32))
    action = tf.constant(mixed_actions(gymnasium_id, observation.numpy(), np.random.default_rng(0)))
    eager = env.step(state, action, make_seed(4))
    assert 0 < np.sum(eager[1].truncated) < 64
    for jit_compile in (False, True):
        compiled = tf.function(env.step, jit_compile=jit_compile)(state, action, make_seed(4))
        for one, other in zip(tf.nest.flatten(eager), tf.nest.flatten(compiled), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@every_environment
def test_same_seed_same_trajectory_and_another_seed_another(gymnasium_id):
    steps = 250
    first, again, other = (
        np.stack([moment.step.observation for moment in play(gymnasium_id, steps, seed=seed)]) for seed in (0, 0, 7)
    )  # [T, N, D] each
    np.testing.assert_array_equal(first, again)
    assert not np.any(np.all(first[0] == other[0], axis=-1))


@every_environment
def test_final_observation_differs_from_observation_exactly_where_an_episode_ended(gymnasium_id):
    ended_steps = 0
    for moment in play(gymnasium_id, 260):
        ended = np.logical_or(moment.step.terminated, moment.step.truncated)
        differs = np.any(moment.step.observation != moment.step.final_observation, axis=-1)
        np.testing.assert_array_equal(differs, ended)
        ended_steps += np.sum(ended)
    # Acrobot's and the continuous car's limits lie beyond 260 steps: there, only the skilled half ends.
    assert ended_steps >= NUM_ENVS // 2


@every_environment
def test_the_environment_after_a_reset_is_the_fresh_one(gymnasium_id):
    """After an ending, `observation` lies where episodes start and the step count is 0."""
    env: Any = GRAPH_ENVIRONMENTS[gymnasium_id](32)
    state, observation = env.reset(make_seed(0))
    state = state._replace(elapsed=tf.fill([32], env.max_episode_steps - 1))
    action = tf.constant(CASES[gymnasium_id].skilled(observation.numpy()))
    state, step = env.step(state, action, make_seed(1))
    physics = np.stack(state[:-1], axis=-1)  # [N, state dimensions]
    assert np.all(step.truncated)
    assert np.all(state.elapsed == 0)
    assert np.all(physics >= np.array(CASES[gymnasium_id].initial_low) - 1e-6)
    assert np.all(physics <= np.array(CASES[gymnasium_id].initial_high) + 1e-6)
    assert len(np.unique(step.observation, axis=0)) == 32


@every_environment
def test_the_checker_accepts_it(gymnasium_id):
    check_tensor_env(GRAPH_ENVIRONMENTS[gymnasium_id](3), steps=30)


@every_environment
def test_num_envs_may_be_numpys(gymnasium_id):
    env = GRAPH_ENVIRONMENTS[gymnasium_id](np.int64(2))
    assert (env.num_envs, type(env.num_envs)) == (2, int)


@pytest.mark.parametrize("max_episode_steps", [0, -1, 2.0, None, True])
def test_cartpoles_time_limit_must_be_a_positive_int(max_episode_steps):
    with pytest.raises(
        ValueError, match=f"max_episode_steps must be an integer of at least 1, got {max_episode_steps}"
    ):
        cartpole.CartPole(1, max_episode_steps)


def test_cartpole_with_another_time_limit_is_no_longer_gymnasiums():
    env = cartpole.CartPole(1, max_episode_steps=np.int64(3))
    assert (env.max_episode_steps, type(env.max_episode_steps), env.gymnasium_id) == (3, int, None)
    assert cartpole.CartPole(1, max_episode_steps=500).gymnasium_id == "CartPole-v1"
    state, _ = env.reset(make_seed(0))
    truncated = []
    for time in range(3):
        state, step = env.step(state, tf.constant([time % 2]), make_seed(time))
        truncated.append(bool(step.truncated[0]))
    assert truncated == [False, False, True]


@every_environment
def test_num_envs_must_be_a_positive_int(gymnasium_id):
    wrong: list[Any] = [0, -1, 2.0]
    for num_envs in wrong:
        with pytest.raises(ValueError, match=f"num_envs must be an integer of at least 1, got {num_envs}"):
            make_tensor_env(gymnasium_id, num_envs)


@every_environment
def test_an_action_that_would_broadcast_is_refused(gymnasium_id):
    env = GRAPH_ENVIRONMENTS[gymnasium_id](4)
    state, observation = env.reset(make_seed(0))
    action = CASES[gymnasium_id].skilled(observation.numpy())
    wrong = action[:, 0] if action.ndim == 2 else action[:, None]
    with pytest.raises(ValueError, match="action must have shape"):
        env.step(state, tf.constant(wrong), make_seed(1))


def test_an_environment_without_a_graph_twin_is_answered_with_none():
    assert make_tensor_env("LunarLander-v3", 8) is None
    assert make_tensor_env("CartPole-v0", 8) is None  # 200 steps, not 500
