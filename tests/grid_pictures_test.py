"""Pictures of grid worlds: what is drawn where, and that it can be written."""

from typing import Any

import numpy as np
import pytest
from matplotlib.patches import FancyArrow, Polygon, Rectangle

from kerasrl_pg.envs.gridworld_values import layout_and_goal, optimal_action_values
from kerasrl_pg.grid_pictures import plot_action_values, plot_grid, plot_policy, plot_values

RIGHT = 1


def texts(figure):
    """What is written, by (y, x)."""
    return {(text.get_position()[1], text.get_position()[0]): text for text in figure.axes[0].texts}


def written(figure):
    return {place: text.get_text() for place, text in texts(figure).items()}


def patches(figure, kind):
    return [patch for patch in figure.axes[0].patches if type(patch) is kind]


def test_the_grid_shows_starts_and_goal_and_a_pale_cell_where_there_is_no_wall():
    figure = plot_grid("obstacle")
    assert written(figure) == {(2, 2): "S", (2, 8): "G"}
    assert len(patches(figure, Rectangle)) == 50 + 1  # free cells, and the goal's mark


def test_a_drawn_goal_is_shown_only_if_it_is_given():
    assert written(plot_grid("random_goal")) == {(2, 2): "S"}
    assert written(plot_grid("random_goal", goal=(5, 5))) == {(2, 2): "S", (5, 5): "G"}


def test_the_agent_stands_where_it_is_said_to():
    patches: list[Any] = list(plot_grid("simple", agent=(4, 2)).axes[0].patches)
    head, *eyes, smile = patches[-4:]
    assert head.center == (2, 4)  # (x, y)
    assert [eye.center[1] < 4 for eye in eyes] == [True, True]  # y grows downwards: above the middle
    assert smile.center == (2, 4)


def test_values_are_written_in_their_cells_red_below_zero_and_blue_above():
    figure = plot_values(["S.#G", "...."], [[-2.0, 1.0, 99.0, 99.0], [0.0, np.nan, 2.0, 0.5]])
    assert written(figure) == {
        (0, 3): "G", (0, 0): "-2.0", (0, 1): "1.0", (1, 0): "0.0", (1, 2): "2.0", (1, 3): "0.5",
    }  # fmt: skip
    colors = {patch.get_xy(): patch.get_facecolor() for patch in patches(figure, Rectangle)}
    red, _, blue, _ = colors[(-0.5, -0.5)]
    assert red > blue
    red, _, blue, _ = colors[(1.5, 0.5)]
    assert blue > red


def test_each_action_value_stands_on_the_side_to_which_it_leads():
    q = np.zeros((3, 3, 4))
    q[1, 1] = [1.0, 2.0, 3.0, 4.0]
    figure = plot_action_values(["S..", "...", "..G"], q)
    inside = {place: text for place, text in texts(figure).items() if max(abs(place[0] - 1), abs(place[1] - 1)) < 0.5}
    sides = {(np.sign(y - 1), np.sign(x - 1)): text for (y, x), text in inside.items()}
    shown = {side: (text.get_text(), text.get_fontweight()) for side, text in sides.items()}
    assert shown == {
        (-1, 0): ("1.0", "normal"), (0, 1): ("2.0", "normal"), (1, 0): ("3.0", "normal"), (0, -1): ("4.0", "bold"),
    }  # fmt: skip
    triangles = [patch.get_xy() for patch in patches(figure, Polygon)]
    assert len(triangles) == 8 * 4  # the goal has none
    middle = [corners[1:3] for corners in triangles if corners[0].tolist() == [1, 1]]  # (x, y)
    assert [corners.mean(axis=0).tolist() for corners in middle] == [[1, 0.5], [1.5, 1], [1, 1.5], [0.5, 1]]
    assert [np.ptp(corners, axis=0).tolist() for corners in middle] == [[1, 0], [0, 1]] * 2


def test_the_policy_is_an_arrow_along_its_action():
    (arrow,) = patches(plot_policy(["SG"], [[RIGHT, 0]]), FancyArrow)
    points = arrow.get_xy()
    assert points[:, 0].max() == pytest.approx(0.3)
    assert points[:, 0].min() == pytest.approx(-0.3)
    assert np.abs(points[:, 1]).max() == pytest.approx(0.1)
    assert arrow.get_alpha() == 1.0


def test_a_policy_of_chance_has_an_arrow_per_possible_action_as_dark_as_it_is_probable():
    arrows = patches(plot_policy(["SG"], [[[0.25, 0.75, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]]), FancyArrow)
    assert [arrow.get_alpha() for arrow in arrows] == [0.25, 0.75]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_every_picture_can_be_written(tmp_path, suffix):
    q = optimal_action_values("obstacle")
    for name, draw in {
        "grid": lambda path: plot_grid("obstacle", path, agent=(2, 2)),
        "values": lambda path: plot_values("obstacle", q.max(axis=-1), path),
        "action_values": lambda path: plot_action_values("obstacle", q, path),
        "policy": lambda path: plot_policy("obstacle", q.argmax(axis=-1), path),
    }.items():
        path = tmp_path / f"{name}.{suffix}"
        draw(path)
        assert path.read_bytes()[:4] == {"png": b"\x89PNG", "svg": b"<?xm", "pdf": b"%PDF"}[suffix]


def test_the_two_pictures_of_one_world_are_as_large_as_the_world_is():
    small, large = plot_grid(["S.G"]).get_size_inches(), plot_grid("simple").get_size_inches()
    assert large[0] - small[0] == pytest.approx(7 * 0.7)
    assert large[1] - small[1] == pytest.approx(8 * 0.7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_values("simple", np.zeros((9, 9))), r"values must have shape \(9, 10\), got \(9, 9\)"),
        (lambda: plot_action_values("simple", np.zeros((9, 10))), r"action_values must have shape \(9, 10, 4\)"),
        (lambda: plot_policy("simple", np.zeros((9, 10, 3))), r"policy must have shape \(9, 10, 4\), got \(9, 10, 3\)"),
        (lambda: plot_policy(["S.G"], [[1, 4, 0]]), "actions 0 to 3, got 4 at row 0, column 1"),
        (lambda: plot_policy(["SG"], [[[0, 0, 1.5, 0], [0, 0, 0, 0]]]), "probabilities from 0 to 1, got 1.5"),
        (lambda: plot_values("random_goal", np.zeros((9, 10))), r"give one, goal=\(y, x\)"),
        (lambda: plot_grid("simple", agent=(0, 0)), r"agent must be a free cell \(y, x\), got \(0, 0\)"),
        (lambda: plot_grid("simple", goal=(2.0, 3.0)), r"goal must be a free cell \(y, x\), got \(2\.0, 3\.0\)"),
        (lambda: plot_grid("simple", goal=5), r"goal must be a free cell \(y, x\), got 5"),
        (lambda: plot_grid("maze"), "got 'maze'"),
    ],
)
def test_values_and_cells_that_do_not_fit_the_layout_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("cell", [[2, 3], np.array([2, 3]), (np.int64(2), 3)])
def test_a_cell_may_be_any_pair_of_integers(cell):
    assert layout_and_goal("simple", cell)[1] == (2, 3)
