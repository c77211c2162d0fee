"""The graph twin of the grid world is the Gymnasium environment, step for step."""

import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from kerasrl_pg.envs.graph_envs import make_tensor_env
from kerasrl_pg.envs.gridworld import GridWorld, GridWorldState
from kerasrl_pg.envs.gridworld_gymnasium import GRIDWORLD_ID
from kerasrl_pg.envs.gridworld_layout import TASKS
from kerasrl_pg.envs.gridworld_observations import OBSERVATIONS
from kerasrl_pg.envs.make import make_env
from kerasrl_pg.envs.tensor_env import check_tensor_env
from kerasrl_pg.seeding import make_seed

UP, RIGHT, DOWN, LEFT = range(4)
WIDTH = 10
TWO_STARTS = ["S.....", ".##.#.", "......", ".#G..S"]
"""No border: the edge is a wall. With drawn goals, too."""

every_kind = pytest.mark.parametrize(("task", "observation"), list(itertools.product(TASKS, OBSERVATIONS)))


def cell(y, x):
    return y * WIDTH + x


def state_at(agent, goal, elapsed=0):
    """A single grid of ten columns."""
    return GridWorldState(tf.constant([cell(*agent)]), tf.constant([cell(*goal)]), tf.constant([elapsed]))


def assert_equal_to_gymnasium(options, num_envs=40, steps=250):
    """Where episodes start is copied across, since the two draw from different generators."""
    env = GridWorld(num_envs, **options)
    originals: list[Any] = [gymnasium.make(GRIDWORLD_ID, disable_env_checker=True, **options) for _ in range(num_envs)]
    width = env.layout.walls.shape[1]
    step_once = tf.function(env.step, jit_compile=True, autograph=False)
    random, seen = np.random.default_rng(0), np.zeros(3, int)

    def start_like(state, n):
        originals[n].reset()
        originals[n].unwrapped.agent = divmod(int(state.agent[n]), width)
        originals[n].unwrapped.goal = divmod(int(state.goal[n]), width)

    state, _ = env.reset(make_seed(0))
    for n in range(num_envs):
        start_like(state, n)
    for time in range(steps):
        actions = random.integers(0, 4, num_envs)
        state, step = step_once(state, tf.constant(actions, tf.int32), make_seed(time + 1))
        results = [original.step(action) for original, action in zip(originals, actions, strict=True)]
        observation, reward, terminated, truncated = map(np.array, list(zip(*results, strict=True))[:4])
        np.testing.assert_array_equal(step.final_observation, observation)
        np.testing.assert_array_equal(step.reward, reward)
        np.testing.assert_array_equal(step.terminated, terminated)
        np.testing.assert_array_equal(step.truncated, truncated)
        seen += [np.sum(reward < 0), np.sum(terminated), np.sum(truncated)]
        for n in np.flatnonzero(terminated | truncated).tolist():
            start_like(state, n)
            np.testing.assert_array_equal(step.observation[n], originals[n].unwrapped._observe())
    assert np.all(seen > 0), f"walls, goals and time limits met: {seen}"


@every_kind
def test_10000_random_steps_equal_those_of_gymnasium(task, observation):
    assert_equal_to_gymnasium({"task": task, "observation": observation})


@pytest.mark.parametrize("randomize_goals", [False, True])
def test_a_layout_of_ones_own_with_two_starts_equals_gymnasium_too(randomize_goals):
    options = {"task": TWO_STARTS, "observation": "grid", "randomize_goals": randomize_goals, "max_episode_steps": 30}
    assert_equal_to_gymnasium(options, steps=100)


@every_kind
def test_the_checker_accepts_it(task, observation):
    check_tensor_env(GridWorld(3, task, observation, max_episode_steps=10), steps=12)


@every_kind
def test_spaces_and_time_limit_are_those_of_gymnasium(task, observation):
    env = GridWorld(2, task, observation)
    original: Any = gymnasium.make(GRIDWORLD_ID, task=task, observation=observation)
    assert env.observation_space == original.observation_space
    assert env.action_space == original.action_space
    assert env.max_episode_steps == original.spec.max_episode_steps == 200


@every_kind
def test_observations_lie_in_their_space(task, observation):
    env = GridWorld(4, task, observation)
    _, observations = env.reset(make_seed(0))
    for one in observations.numpy():
        assert env.observation_space.contains(one)


def test_a_wall_costs_5_and_the_agent_stays():
    env = GridWorld(1)
    state, step = env.step(state_at((1, 1), (7, 2)), tf.constant([LEFT]), make_seed(0))
    assert (step.reward[0], step.terminated[0], step.truncated[0]) == (-5.0, False, False)
    assert step.observation[0] == cell(1, 1)
    assert state.elapsed[0] == 1


def test_an_empty_cell_pays_nothing():
    _, step = GridWorld(1).step(state_at((2, 2), (7, 2)), tf.constant([RIGHT]), make_seed(0))
    assert (step.reward[0], step.terminated[0]) == (0.0, False)
    assert step.observation[0] == cell(2, 3)


def test_the_goal_pays_10_and_terminates_and_the_last_observation_shows_the_agent_there():
    state, step = GridWorld(1).step(state_at((6, 2), (7, 2), elapsed=4), tf.constant([DOWN]), make_seed(0))
    assert (step.reward[0], step.terminated[0], step.truncated[0]) == (10.0, True, False)
    assert step.final_observation[0] == cell(7, 2)
    assert step.observation[0] == cell(2, 2)
    assert (state.agent[0], state.elapsed[0]) == (cell(2, 2), 0)


def test_the_time_limit_truncates_and_does_not_terminate():
    env = GridWorld(1)
    _, before = env.step(state_at((2, 2), (7, 2), elapsed=198), tf.constant([UP]), make_seed(0))
    _, at_limit = env.step(state_at((2, 2), (7, 2), elapsed=199), tf.constant([UP]), make_seed(0))
    assert (before.terminated[0], before.truncated[0]) == (False, False)
    assert (at_limit.terminated[0], at_limit.truncated[0]) == (False, True)
    assert at_limit.final_observation[0] == cell(1, 2)


def test_the_goal_at_the_last_moment_terminates_and_truncates_as_in_gymnasium():
    _, step = GridWorld(1).step(state_at((6, 2), (7, 2), elapsed=199), tf.constant([DOWN]), make_seed(0))
    original: Any = gymnasium.make(GRIDWORLD_ID, max_episode_steps=1)
    original.reset(seed=0)
    original.unwrapped.agent = (6, 2)
    assert original.step(DOWN)[1:4] == (10.0, True, True)
    assert (step.reward[0], step.terminated[0], step.truncated[0]) == (10.0, True, True)


def test_the_shortest_way_through_the_obstacle_takes_8_steps():
    env = GridWorld(1, "obstacle", "coordinates")
    state, _ = env.reset(make_seed(0))
    rewards = []
    for action in (RIGHT, UP, RIGHT, RIGHT, DOWN, RIGHT, RIGHT, RIGHT):
        state, step = env.step(state, tf.constant([action]), make_seed(0))
        rewards.append(float(step.reward[0]))
    assert rewards == [0.0] * 7 + [10.0]
    assert step.final_observation[0].numpy().tolist() == [2.0, 8.0, 2.0, 8.0]


def chi_square_in_standard_deviations(counts):
    """How far the statistic of a uniform distribution lies from its mean."""
    expected, degrees = np.sum(counts) / len(counts), len(counts) - 1
    return (np.sum((counts - expected) ** 2 / expected) - degrees) / np.sqrt(2 * degrees)


@pytest.mark.parametrize("options", [{"task": "random_goal"}, {"task": "simple", "randomize_goals": True}])
def test_drawn_goals_are_uniform_over_the_free_cells_but_the_start(options):
    env = GridWorld(49_000, **options)
    state, _ = env.reset(make_seed(0))
    goals, counts = np.unique(state.goal, return_counts=True)
    free = np.flatnonzero(~env.layout.walls)
    assert goals.tolist() == [number for number in free if number != cell(2, 2)]
    assert abs(chi_square_in_standard_deviations(counts)) < 4


def test_goals_are_drawn_anew_when_an_episode_ends_and_kept_until_then():
    env = GridWorld(49_000, "random_goal")
    state, _ = env.reset(make_seed(0))
    state = state._replace(elapsed=tf.where(tf.range(49_000) < 24_500, 199, 0))
    later, step = env.step(state, tf.fill([49_000], UP), make_seed(1))
    ended = np.logical_or(step.terminated, step.truncated)
    before, after = state.goal.numpy(), later.goal.numpy()
    np.testing.assert_array_equal(after[~ended], before[~ended])
    _, counts = np.unique(after[ended], return_counts=True)
    assert len(counts) == 49
    assert abs(chi_square_in_standard_deviations(counts)) < 4
    assert abs(np.mean(after[ended] == before[ended]) - 1 / 49) < 0.01


def test_several_starts_are_equally_likely_and_no_goal_is_a_start_of_its_own_episode():
    env = GridWorld(20_000, TWO_STARTS, randomize_goals=True)
    state, _ = env.reset(make_seed(0))
    starts, counts = np.unique(state.agent, return_counts=True)
    assert starts.tolist() == [0, 23]
    assert abs(counts[0] / 20_000 - 0.5) < 0.015
    assert not np.any(state.agent.numpy() == state.goal.numpy())
    for start in starts:  # 20 free cells: the 19 others, the other start among them
        goals, counts = np.unique(state.goal.numpy()[state.agent.numpy() == start], return_counts=True)
        assert len(goals) == 19
        assert abs(chi_square_in_standard_deviations(counts)) < 4


def test_the_same_seed_draws_the_same_goals_and_another_seed_others():
    env = GridWorld(100, "random_goal", "coordinates")
    first, again, other = (env.reset(make_seed(seed))[1].numpy() for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first == other) < 0.9


@pytest.mark.parametrize("max_episode_steps", [0, -1, 2.0, None, True])
def test_the_time_limit_must_be_a_positive_int(max_episode_steps):
    with pytest.raises(
        ValueError, match=f"max_episode_steps must be an integer of at least 1, got {max_episode_steps}"
    ):
        GridWorld(1, max_episode_steps=max_episode_steps)


def test_numpys_integers_are_integers():
    env = GridWorld(np.int64(2), max_episode_steps=np.int64(200))
    assert (type(env.num_envs), type(env.max_episode_steps), env.gymnasium_id) == (int, int, GRIDWORLD_ID)


@pytest.mark.parametrize("num_envs", [0, 2.0])
def test_num_envs_must_be_a_positive_int(num_envs):
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1"):
        GridWorld(num_envs)


def test_an_action_that_would_broadcast_is_refused():
    env = GridWorld(4)
    state, _ = env.reset(make_seed(0))
    with pytest.raises(ValueError, match="action must have shape"):
        env.step(state, tf.zeros([4, 1], tf.int32), make_seed(0))


def test_int64_actions_are_taken_too():
    _, step = GridWorld(1).step(state_at((2, 2), (7, 2)), tf.constant([RIGHT], tf.int64), make_seed(0))
    assert step.observation[0] == cell(2, 3)


def test_the_id_leads_to_the_twin():
    env = make_tensor_env(GRIDWORLD_ID, 5)
    assert isinstance(env, GridWorld)
    assert (env.num_envs, env.gymnasium_id) == (5, GRIDWORLD_ID)


def test_a_twin_with_options_is_evaluated_on_itself_and_not_on_the_default_task():
    twin = GridWorld(2, "obstacle", "coordinates")
    assert twin.gymnasium_id is None  # an id alone would stand for the task "simple"
    observation = make_env(twin).make_evaluation(2).reset(seed=0)
    np.testing.assert_array_equal(observation, [[2.0, 2.0, 2.0, 8.0]] * 2)
