"""Exact values, an agent's values, and whether its greedy policy walks by a shortest path."""

import numpy as np
import pytest

from kerasrl_pg.envs.gridworld_layout import TASKS
from kerasrl_pg.envs.gridworld_observations import OBSERVATIONS
from kerasrl_pg.envs.gridworld_values import (
    action_values_of_cells,
    greedy_path_lengths,
    optimal_action_values,
    shortest_path_lengths,
)

UP, RIGHT, DOWN, LEFT = range(4)


def test_optimal_values_of_a_corridor_worked_by_hand():
    """Right: 10, or half of what comes next; a wall: -5 + half of what staying is worth."""
    far, near, goal = optimal_action_values(["S.G"], discount=0.5)[0]
    assert far.tolist() == [-5 + 2.5, 5.0, -5 + 2.5, -5 + 2.5]
    assert near.tolist() == [-5 + 5.0, 10.0, -5 + 5.0, 2.5]
    assert goal.tolist() == [0.0] * 4


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("task", TASKS)
def test_the_value_of_a_cell_is_10_discounted_by_the_steps_to_the_goal(task, discount):
    """V = 10 γ^(d - 1): value iteration and breadth-first search, which know nothing of each other, agree."""
    goal = (7, 2)
    lengths = shortest_path_lengths(task, goal)
    values = optimal_action_values(task, discount, goal).max(axis=-1)
    away = lengths > 0
    np.testing.assert_allclose(values[away], 10 * discount ** (lengths[away] - 1), rtol=1e-12)
    assert np.array_equal(np.isnan(values), lengths < 0)


def test_optimal_values_satisfy_the_bellman_equation_in_the_start_of_the_obstacle():
    q = optimal_action_values("obstacle")
    assert shortest_path_lengths("obstacle")[2, 2] == 8
    assert q[2, 2].max() == pytest.approx(10 * 0.9**7)
    np.testing.assert_allclose(q[2, 3, RIGHT], -5 + 0.9 * q[2, 3].max())  # a wall
    np.testing.assert_allclose(q[2, 2, LEFT], 0.9 * q[2, 1].max())


def test_where_no_path_leads_there_is_no_value():
    q = optimal_action_values(["S.G", "###", "#.#"])
    assert np.isnan(q[1:]).all()
    assert np.isfinite(q[0]).all()


@pytest.mark.parametrize("task", ["simple", "obstacle"])
def test_the_optimal_policy_walks_by_a_shortest_path_from_every_cell(task):
    lengths = greedy_path_lengths(task, optimal_action_values(task))
    np.testing.assert_array_equal(lengths, shortest_path_lengths(task))
    assert np.sum(lengths >= 0) == 50


def test_a_detour_and_a_circle_are_noticed():
    q = optimal_action_values("simple")
    q[5, 2] = [0, 1, 0, 0]  # to the right, from where it goes down
    q[1, 8] = [1, 0, 0, 0]  # into the wall for ever
    lengths, shortest = greedy_path_lengths("simple", q), shortest_path_lengths("simple")
    assert (lengths[5, 2], shortest[5, 2]) == (4, 2)
    assert (lengths[1, 8], shortest[1, 8]) == (-1, 12)
    assert lengths[7, 3] == shortest[7, 3] == 1


def test_a_policy_that_walks_into_the_wall_never_arrives():
    lengths = greedy_path_lengths("simple", np.zeros((9, 10, 4)))  # of equal values the first counts: up
    assert np.argwhere(lengths >= 0).tolist() == [[7, 2]]


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_an_agents_values_are_asked_for_in_every_free_cell(observation):
    """The agent here knows its cell in each of the four kinds, and says where it is."""

    def own_cell(observations):
        match observation:
            case "index":
                number = observations
            case "one_hot":
                number = observations.reshape(-1, 90).argmax(axis=-1)
            case "grid":
                number = observations[..., 1].reshape(-1, 90).argmax(axis=-1)
            case "coordinates":
                number = 10 * observations[:, 0] + observations[:, 1]
        return number[:, None] + np.array([0.0, 0.25, 0.5, 0.75])

    q = action_values_of_cells(own_cell, "obstacle", observation)
    assert q[7, 3].tolist() == [73.0, 73.25, 73.5, 73.75]
    assert np.isnan(q[2, 4]).all()
    assert np.sum(np.isfinite(q)) == 50 * 4


def test_an_object_with_action_values_is_asked_as_well_and_sees_the_goal_that_is_given():
    class Agent:
        def action_values(self, observations):
            return observations  # the agent's y and x, the goal's y and x

    q = action_values_of_cells(Agent(), "random_goal", goal=(5, 6))
    assert q[3, 2].tolist() == [3.0, 2.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimal_action_values("simple", 1.1), "discount must be from 0 to 1, got 1.1"),
        (lambda: optimal_action_values("random_goal"), r"give one, goal=\(y, x\); got None for 'random_goal'"),
        (lambda: shortest_path_lengths("simple", (0, 0)), r"goal must be a free cell \(y, x\), got \(0, 0\)"),
        (lambda: shortest_path_lengths("simple", (90, 1)), r"goal must be a free cell \(y, x\), got \(90, 1\)"),
        (lambda: greedy_path_lengths("simple", np.zeros((9, 10))), r"shape \(9, 10, 4\), got \(9, 10\)"),
        (lambda: action_values_of_cells(lambda o: o[:, :3], "simple"), r"shape \(50, 4\), got \(50, 3\)"),
        (lambda: action_values_of_cells(lambda o: o, "simple", "pixels"), "observation must be one of"),
    ],
)
def test_cells_and_values_that_do_not_fit_the_layout_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
