"""The grid world as a Gymnasium environment: its contract, its rules, its pictures."""

import importlib
import itertools
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from kerasrl_pg.envs import gridworld_gymnasium
from kerasrl_pg.envs.gridworld_gymnasium import GRIDWORLD_ID, GridWorldEnv
from kerasrl_pg.envs.gridworld_layout import TASKS
from kerasrl_pg.envs.gridworld_observations import OBSERVATIONS
from kerasrl_pg.envs.gridworld_rendering import AGENT_COLOR, FREE_COLOR, GOAL_COLOR, LINE_COLOR, WALL_COLOR

UP, RIGHT, DOWN, LEFT = range(4)


@pytest.mark.parametrize(
    ("task", "observation", "render_mode"), list(itertools.product(TASKS, OBSERVATIONS, [None, "rgb_array", "ansi"]))
)
def test_gymnasiums_checker_accepts_it_without_a_warning(task, observation, render_mode):
    check_env(gymnasium.make(GRIDWORLD_ID, task=task, observation=observation, render_mode=render_mode).unwrapped)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_a_corridor_passes_the_checker_too(observation):
    """All its rows are 0: a space from 0 to 0 would be warned of."""
    env: Any = gymnasium.make(GRIDWORLD_ID, task=["S..G"], observation=observation, randomize_goals=True)
    check_env(env.unwrapped)


def test_the_id_has_the_time_limit_and_the_threshold():
    spec = gymnasium.spec(GRIDWORLD_ID)
    assert (spec.max_episode_steps, spec.reward_threshold) == (200, 10.0)


def test_importing_the_module_again_registers_nothing_twice():
    before = gymnasium.spec(GRIDWORLD_ID)
    importlib.reload(gridworld_gymnasium)  # Gymnasium's warning would be an error here
    assert gymnasium.spec(GRIDWORLD_ID) is before


def test_what_each_kind_of_observation_shows():
    def first(observation):
        return GridWorldEnv("simple", observation).reset(seed=0)[0]

    assert first("index") == 22
    assert np.argwhere(first("one_hot")).tolist() == [[2, 2]]
    assert first("coordinates").tolist() == [2.0, 2.0, 7.0, 2.0]
    walls, agent, goal = np.moveaxis(first("grid"), -1, 0)
    assert walls.sum() == 40
    assert walls[2, 4] == walls[0, 0] == 1.0
    assert np.argwhere(agent).tolist() == [[2, 2]]
    assert np.argwhere(goal).tolist() == [[7, 2]]


def test_walking_to_the_goal_by_hand():
    env = GridWorldEnv("simple", "coordinates")
    env.reset(seed=0)
    env.agent = (6, 1)
    assert env.step(LEFT)[1:] == (-5.0, False, False, {})
    assert env.agent == (6, 1)
    assert env.step(DOWN)[1:] == (0.0, False, False, {})
    observation, *rest = env.step(RIGHT)
    assert rest == [10.0, True, False, {}]
    assert observation.tolist() == [7.0, 2.0, 7.0, 2.0]


def test_the_edge_of_a_layout_without_border_is_a_wall():
    env = GridWorldEnv(["S.", ".G"])
    env.reset(seed=0)
    assert [env.step(action)[1] for action in (UP, LEFT)] == [-5.0, -5.0]
    assert env.agent == (0, 0)


def test_the_time_limit_truncates_and_does_not_terminate():
    env = gymnasium.make(GRIDWORLD_ID)
    env.reset(seed=0)
    ends = [env.step(UP)[2:4] for _ in range(200)]
    assert ends == [(False, False)] * 199 + [(False, True)]


def test_drawn_goals_are_uniform_over_the_free_cells_but_the_start():
    env = GridWorldEnv("random_goal")
    env.reset(seed=0)
    counts: dict = {}
    for _ in range(9_800):
        env.reset()
        counts[env.goal] = counts.get(env.goal, 0) + 1
    assert len(counts) == 49
    assert (2, 2) not in counts
    assert not any(env.layout.walls[goal] for goal in counts)
    statistic = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert abs(statistic - 48) < 4 * np.sqrt(2 * 48)


@pytest.mark.parametrize("options", [{"task": "random_goal"}, {"task": ["S..S", "...."], "randomize_goals": True}])
def test_the_same_seed_draws_the_same_episodes_and_another_seed_others(options):
    def drawn(seed):
        env = GridWorldEnv(**options, observation="coordinates")
        return [env.reset(seed=seed if episode == 0 else None)[0].tolist() for episode in range(10)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_a_fixed_goal_stays_where_it_is():
    env = GridWorldEnv("obstacle")
    assert {(env.reset(seed=seed)[0], env.goal) for seed in range(20)} == {(22, (2, 8))}


@pytest.mark.parametrize("action", [-1, 4, 1.0, "up", None])
def test_an_action_that_there_is_not_is_refused(action):
    env = GridWorldEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"one of 0 \(up\), 1 \(right\), 2 \(down\), 3 \(left\), got"):
        env.step(action)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"observation": "pixels"},
            "one of 'index', 'one_hot', 'grid', 'coordinates', got 'pixels'",
        ),
        ({"task": "maze"}, "got 'maze'"),
        ({"task": ["S#G"]}, "cannot be reached"),
        ({"render_mode": "human"}, r"render_mode must be None or one of \['rgb_array', 'ansi'\], got 'human'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GridWorldEnv(**options)


def test_the_picture_shows_walls_goal_and_agent_where_they_are():
    env = GridWorldEnv("obstacle", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert (picture.shape, picture.dtype) == ((360, 400, 3), np.uint8)

    def color(y, x):
        return tuple(picture[40 * y + 20, 40 * x + 20])

    assert color(0, 0) == color(2, 4) == WALL_COLOR
    assert color(1, 1) == color(7, 8) == FREE_COLOR
    assert tuple(picture[40 * 6, 40 * 6 + 20]) == tuple(picture[40 * 6 + 20, 40 * 6]) == LINE_COLOR  # between cells
    assert color(2, 8) == GOAL_COLOR
    assert color(2, 2) == AGENT_COLOR
    env.step(RIGHT)
    assert not np.array_equal(picture, env.render())
    assert tuple(env.render()[40 * 2 + 20, 40 * 3 + 20]) == AGENT_COLOR


def test_the_text_shows_the_agent_in_the_layout():
    env = GridWorldEnv(["S.#", "..G"], render_mode="ansi")
    env.reset(seed=0)
    env.step(DOWN)
    assert env.render() == "..#\nA.G"


def test_rendering_without_a_mode_says_what_to_do():
    env = GridWorldEnv()
    env.reset(seed=0)
    with pytest.warns(UserWarning, match='pass render_mode="rgb_array" or "ansi"'):
        assert env.render() is None


def test_importing_the_package_is_enough_for_gymnasium_to_know_it():
    code = (
        f"import kerasrl_pg, gymnasium, sys; gymnasium.make({GRIDWORLD_ID!r}); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
