"""The log of every episode: means over a window, and when a task counts as solved."""

import csv
import math
from typing import Any

import numpy as np
import pytest

from kerasrl_pg.episode_log import WINDOW, EpisodeLog


def make_log(*returns):
    """Episode i ends at step 10 (i + 1) and is i + 1 steps long."""
    log = EpisodeLog()
    numbers = range(1, len(returns) + 1)
    log.extend([10 * number for number in numbers], returns, list(numbers))
    return log


def test_before_the_first_episode_the_means_are_nan_and_nothing_is_solved():
    log = EpisodeLog()
    assert math.isnan(log.mean_return())
    assert math.isnan(log.mean_length())
    assert log.solved_at(-math.inf) is None
    assert len(log) == 0


def test_the_means_are_of_the_last_episodes_only():
    log = make_log(*[0.0] * 50, *[1.0] * WINDOW)
    assert log.mean_return() == 1.0
    assert log.mean_length() == 50 + (WINDOW + 1) / 2
    assert log.mean_return(window=len(log)) == pytest.approx(100 / 150)


def test_fewer_episodes_than_the_window_are_averaged_as_they_are():
    assert make_log(1.0, 2.0).mean_return() == 1.5


def test_solved_is_the_end_of_the_first_full_window_whose_mean_reaches_the_return():
    log = make_log(9.0, 0.0, 3.0, 5.0, 9.0, 0.0)
    assert log.solved_at(4.0, window=2) == 20  # (9 + 0) / 2 = 4.5, though 9 alone was above before
    assert log.solved_at(7.0, window=2) == 50  # (5 + 9) / 2; that it falls again changes nothing
    assert log.solved_at(7.1, window=2) is None
    assert log.solved_at(0.0, window=7) is None
    with pytest.raises(ValueError, match="window must be an integer of at least 1, got 0"):
        log.solved_at(0.0, window=0)


@pytest.mark.parametrize("episode_return", [20.0, 195.0, 0.1])
def test_equal_returns_are_reached_whatever_their_sum_is_rounded_to(episode_return):
    log = make_log(*[episode_return] * WINDOW)
    assert log.solved_at(log.best_return) == log.solved_at(log.mean_return()) == 10 * WINDOW


def test_the_csv_holds_every_episode(tmp_path):
    make_log(1.5, -2.0).to_csv(tmp_path / "episodes.csv")
    with open(tmp_path / "episodes.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["step", "episode_return", "episode_length"], ["10", "1.5", "1"], ["20", "-2.0", "2"]]


def test_arrays_become_plain_numbers_which_json_can_hold():
    log = EpisodeLog()
    columns: list[Any] = [np.array([4]), np.array([2.0], np.float32), np.array([4], np.int32)]
    log.extend(*columns)
    assert [type(values[0]) for values in (log.step, log.episode_return, log.episode_length)] == [int, float, int]


def test_the_best_mean_is_that_of_the_best_hundred_in_a_row_however_they_came_in():
    returns = np.random.default_rng(0).normal(size=450).cumsum()
    expected = max(np.mean(returns[end - WINDOW : end]) for end in range(WINDOW, len(returns) + 1))
    in_parts = EpisodeLog()
    for start in range(0, 450, 37):
        part = returns[start : start + 37]
        in_parts.extend(range(len(part)), part, range(len(part)))
    in_parts.extend([], [], [])
    assert in_parts.best_return == pytest.approx(expected)
    assert make_log(*returns).best_return == pytest.approx(expected)


def test_fewer_than_a_hundred_have_no_best_mean_yet():
    log = make_log(*[5.0] * (WINDOW - 1))
    assert math.isnan(log.best_return)
    log.extend([0], [5.0], [1])
    assert log.best_return == pytest.approx(5.0)
    log.extend([0], [-95.0], [1])
    assert (log.best_return, log.mean_return()) == (pytest.approx(5.0), pytest.approx(4.0))


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_another_table_is_not_taken_for_one_of_episodes(text, tmp_path):
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(ValueError, match=r"other\.csv has not the columns step, episode_return, episode_length"):
        EpisodeLog.from_csv(tmp_path / "other.csv")
