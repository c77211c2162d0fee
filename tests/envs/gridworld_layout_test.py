"""Layouts: the named ones are the lesson's, others are read, and bad ones are refused by name and place."""

import numpy as np
import pytest

from kerasrl_pg.envs.gridworld_layout import TASKS, blocked, next_cells, path_lengths, read_layout


@pytest.mark.parametrize(
    ("task", "start", "goal", "free"),
    [("simple", (2, 2), (7, 2), 50), ("obstacle", (2, 2), (2, 8), 50), ("random_goal", (2, 2), None, 50)],
)
def test_the_named_layouts_are_9_by_10_with_a_border(task, start, goal, free):
    layout = read_layout(task)
    assert layout.walls.shape == (9, 10)
    assert layout.walls[[0, -1]].all()
    assert layout.walls[:, [0, -1]].all()
    assert (layout.starts, layout.goal) == ((start,), goal)
    assert np.sum(~layout.walls) == free


def test_the_obstacle_differs_from_the_simple_layout_in_three_cells():
    simple, obstacle = read_layout("simple").walls, read_layout("obstacle").walls
    assert np.argwhere(simple != obstacle).tolist() == [[1, 6], [2, 5]]
    assert obstacle[1, 6]
    assert simple[2, 5]


def test_drawn_goals_may_be_in_every_cell_that_the_start_leads_to():
    layout = read_layout(["S.#.", "..#G"], randomize_goals=True)
    assert layout.goal is None
    assert layout.goals == ((0, 0), (0, 1), (1, 0), (1, 1))


@pytest.mark.parametrize(
    "rows",
    [["S.", "#G"], ("S.", "#G"), [["S", "."], ["#", "G"]], np.array([["S", "."], ["#", "G"]]), np.array(["S.", "#G"])],
)
def test_rows_may_be_strings_or_characters(rows):
    layout = read_layout(rows)
    assert layout.walls.tolist() == [[False, False], [True, False]]
    assert (layout.starts, layout.goal) == (((0, 0),), (1, 1))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("maze", "task must be 'simple', 'obstacle', 'random_goal' or the rows of a layout, got 'maze'"),
        ([], r"at least one row with one cell, got \[\]"),
        ([""], r"at least one row with one cell, got \[''\]"),
        (["S.G", ".."], "equally long: row 0 has 3 cells, row 1 2"),
        (["S.G", ".x."], "consists of '#', '.', 'S', 'G'; got 'x' at row 1, column 1"),
        ([[-1, 0], [0, -1]], "consists of '#', '.', 'S', 'G'; got -1 at row 0, column 0"),
        (["..G"], r"needs a start, 'S', got none in \['..G'\]"),
        (["S.."], r"needs a goal, 'G', or randomize_goals=True; got none in \['S..'\]"),
        (["SGG"], r"one goal, 'G', got 2: \(0, 1\), \(0, 2\)"),
        (["S.#", "##G"], r"the goal at \(1, 2\) cannot be reached from the start at \(0, 0\)"),
        (["SG#", "##S"], r"the goal at \(0, 1\) cannot be reached from the start at \(1, 2\)"),
    ],
)
def test_a_bad_layout_is_refused_with_what_is_wrong_and_where(rows, message):
    with pytest.raises(ValueError, match=message):
        read_layout(rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["S#S"], r"\(0, 2\) cannot be reached from \(0, 0\)"),
        (["S#."], r"no cell for a goal: the start at \(0, 0\) \(row, column\) is walled in"),
        (["G#G", "S.."], "one goal"),
    ],
)
def test_a_bad_layout_for_drawn_goals_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        read_layout(rows, randomize_goals=True)


def test_path_lengths_go_around_walls():
    walls = np.array([list(row) for row in ["...", "##.", "..."]]) == "#"
    assert path_lengths(walls, (2, 0)).tolist() == [[6, 5, 4], [-1, -1, 3], [0, 1, 2]]


@pytest.mark.parametrize("task", TASKS)
def test_path_lengths_are_those_of_the_bellman_equation(task):
    """Everywhere one more than the best neighbour's: an independent check of the search."""
    walls = read_layout(task).walls
    lengths = path_lengths(walls, (7, 2))
    neighbours = next_cells(walls)  # [H · W, 4]
    for number in np.flatnonzero(~walls):
        length = lengths.ravel()[number]
        assert length == (0 if number == 72 else 1 + lengths.ravel()[neighbours[number]].min())


def test_actions_lead_up_right_down_and_left_unless_something_is_in_the_way():
    walls = np.array([list(row) for row in ["...", "..#", "..."]]) == "#"
    assert next_cells(walls)[4].tolist() == [1, 4, 7, 3]
    assert next_cells(walls)[0].tolist() == [0, 1, 3, 0]


def test_the_edge_blocks_like_a_wall():
    walls = np.zeros((2, 3), bool)
    assert [blocked(walls, cell) for cell in [(-1, 0), (0, -1), (2, 0), (0, 3), (1, 2)]] == [True] * 4 + [False]
