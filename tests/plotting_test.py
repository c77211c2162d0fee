"""Learning curves: what is drawn, and that nothing else is touched."""

import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasrl_pg.episode_log import EpisodeLog
from kerasrl_pg.fit import fit_agent
from kerasrl_pg.plotting import PALETTE, _running_std, plot_episodes, plot_history, plot_seeds, running_mean
from kerasrl_pg.seed_runs import fit_sweep


@pytest.fixture(scope="module")
def agent():
    return fit_agent("CartPole-v1", "ppo", steps=1024, seed=0, jit_compile=False, verbose=0)


def make_log(steps, returns):
    log = EpisodeLog()
    log.extend(steps, returns, [1] * len(steps))
    return log


def make_runs(*curves):
    """What `fit_seeds` returns, of a curve `(steps, returns)` per seed."""
    runs = [types.SimpleNamespace(history={"steps": steps, "episode_return": returns}) for steps, returns in curves]
    return types.SimpleNamespace(runs=runs, agent=types.SimpleNamespace(environment=None, algorithm=None))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.integers(1, 40))
def test_the_running_mean_is_the_mean_of_the_last_values(values, window):
    expected = [np.mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
    np.testing.assert_allclose(running_mean(values, window), expected, atol=1e-9)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.integers(1, 40))
def test_the_running_deviation_is_that_of_the_last_values(values, window):
    expected = [np.std(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
    np.testing.assert_allclose(_running_std(values, window), expected, atol=1e-3)


def test_one_agent_shows_every_episode_the_mean_and_the_threshold(agent):
    axes = plot_history(agent, window=5).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {"solved: 475", "one episode", "mean of the last 5 episodes"}
    assert lines["one episode"].get_xdata().tolist() == agent.episodes.step
    assert lines["one episode"].get_ydata().tolist() == agent.episodes.episode_return
    mean = lines["mean of the last 5 episodes"].get_ydata()
    assert mean[-1] == pytest.approx(agent.episodes.mean_return(window=5))
    assert axes.get_title(loc="left") == "CartPole-v1, PPO"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps", "episode return")


def test_several_runs_show_their_mean_and_their_spread():
    low, high = make_log([0, 100], [0.0, 10.0]), make_log([0, 100], [20.0, 30.0])
    axes = plot_history([low, high], window=1).axes[0]
    average = axes.lines[-1]
    np.testing.assert_allclose(average.get_ydata(), 10 + average.get_xdata() / 10)
    band = axes.collections[0].get_paths()[0].vertices
    at_start = band[band[:, 0] == 0, 1]
    assert (at_start.min(), at_start.max()) == (0.0, 20.0)


def test_numpys_integers_are_numbers_of_episodes():
    log = make_log([1, 2], [0.0, 1.0])
    assert plot_history(log, window=np.int64(2)).axes[0].lines[-1].get_ydata().tolist() == [0.0, 0.5]


def test_the_mean_of_runs_ends_where_the_shortest_run_ends():
    short, long = make_log([10, 50], [1.0, 1.0]), make_log([20, 900], [1.0, 1.0])
    average = plot_history([short, long]).axes[0].lines[-1].get_xdata()
    assert (average[0], average[-1]) == (20, 50)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_figure_is_written_in_the_format_of_the_suffix(tmp_path, suffix):
    path = tmp_path / f"curve.{suffix}"
    plot_history(make_log([1, 2], [0.0, 1.0]), path)
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert path.read_bytes().startswith(magic[suffix])


def test_runs_that_cannot_be_drawn_together_are_an_error_that_says_why():
    log = make_log([1], [1.0])
    with pytest.raises(ValueError, match=r"every run needs a finished episode, got \[1, 0\]"):
        plot_history([log, EpisodeLog()])
    with pytest.raises(ValueError, match=r"no steps in common: one starts at 9, another ends at 1"):
        plot_history([log, make_log([9], [1.0])])
    for window in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"window must be an integer of at least 1, got {window}"):
            plot_history(log, window=window)
    with pytest.raises(TypeError, match="a run must be an Agent or an EpisodeLog, got ndarray"):
        plot_history(np.zeros(3))


def test_seeds_show_their_mean_and_their_deviation_in_one_colour_per_method():
    low = make_runs(([10, 20], [0.0, 10.0]), ([10, 20], [20.0, 30.0]))
    high = make_runs(([10, 20], [50.0, 50.0]))
    axes = plot_seeds({"low": low, "high": high}).axes[0]
    assert [(line.get_label(), line.get_color()) for line in axes.lines] == list(
        zip(["low", "high"], PALETTE, strict=False)
    )
    np.testing.assert_allclose(axes.lines[0].get_ydata(), axes.lines[0].get_xdata())
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.0, 30.0)
    assert axes.get_title(loc="left") == "mean ± std over 1 to 2 seeds"


def test_a_sweep_over_numbers_is_named_by_them():
    runs = make_runs(([10, 20], [0.0, 10.0]))
    figure = plot_seeds({0.0: runs, 0.1: runs})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0.0", "0.1"]


def test_a_run_that_stopped_early_goes_on_counting_and_the_mean_is_dashed_from_there():
    axes = plot_seeds(make_runs(([10, 20], [0.0, 100.0]), ([10, 40], [0.0, 0.0]))).axes[0]
    whole, held = axes.lines
    assert (whole.get_xdata()[[0, -1]].tolist(), whole.get_linestyle()) == ([10, 20], "-")
    assert (held.get_xdata()[[0, -1]].tolist(), held.get_linestyle()) == ([20, 40], "--")
    assert set(held.get_ydata()) == {50.0}


def test_a_curve_begins_where_every_seed_has_had_an_episode():
    nan = float("nan")
    axes = plot_seeds(make_runs(([10, 20, 30], [nan, 1.0, 3.0]), ([10, 20, 30], [5.0, 5.0, 5.0]))).axes[0]
    assert (axes.lines[0].get_xdata()[0], axes.lines[0].get_ydata()[0]) == (20, 3.0)


def test_a_sweep_of_whole_episodes_is_drawn_though_its_seeds_count_different_steps(tmp_path):
    settings = {"seeds": 2, "steps": 300, "num_envs": 4, "jit_compile": False, "verbose": 0}
    runs = fit_sweep("CartPole-v1", {"a": "reinforce", "b": "reinforce"}, **settings)
    assert len({tuple(run.history["steps"]) for run in runs["a"].runs}) == 2
    figure = plot_seeds(runs, tmp_path / "sweep.png")
    assert figure.axes[0].get_title(loc="left") == "CartPole-v1, mean ± std over 2 seeds"
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert plot_seeds(runs["a"], name="entropy").axes[0].get_title(loc="left").startswith("CartPole-v1, Reinforce, ")


def test_episodes_are_drawn_by_number_returns_above_and_lengths_below():
    log = EpisodeLog()
    log.extend(range(40), [0.0, 2.0] * 20, [1, 3] * 20)
    above, below = plot_episodes(log).axes
    dots, mean = above.lines
    assert dots.get_ydata().tolist() == log.episode_return
    assert mean.get_label() == "mean ± std of the last 2"  # a twentieth of 40
    assert mean.get_ydata()[1:].tolist() == [1.0] * 39
    band = above.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.0, 2.0)
    assert below.lines[0].get_ydata().tolist() == log.episode_length
    assert below.lines[1].get_ydata()[-1] == 2.0  # of the last 10
    assert (above.get_ylabel(), below.get_ylabel(), below.get_xlabel()) == (
        "episode return", "episode length", "episode",
    )  # fmt: skip


def test_episodes_of_an_agent_say_whose(agent, tmp_path):
    figure = plot_episodes(agent, tmp_path / "episodes.png")
    assert figure.get_suptitle() == "CartPole-v1, PPO"
    assert (tmp_path / "episodes.png").stat().st_size > 10_000


def test_seeds_and_episodes_that_cannot_be_drawn_are_an_error_that_says_why():
    runs = make_runs(([10], [1.0]))
    with pytest.raises(ValueError, match="name must be one of steps, episode_return, got 'loss'"):
        plot_seeds(runs, name="loss")
    with pytest.raises(ValueError, match="runs must be of 1 to 8 methods, got 9"):
        plot_seeds(dict.fromkeys(range(9), runs))
    with pytest.raises(ValueError, match="every run needs a number in its 'episode_return', one has none"):
        plot_seeds(make_runs(([10], [float("nan")])))
    with pytest.raises(TypeError, match="runs must be SeedRuns, or a dict of them by name, got EpisodeLog"):
        plot_seeds(EpisodeLog())
    with pytest.raises(ValueError, match="a plot of episodes needs one that has ended, got none"):
        plot_episodes(EpisodeLog())
