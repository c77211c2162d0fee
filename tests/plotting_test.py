"""Learning curves: what is drawn, and that nothing else is touched."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerasrl_pg.episode_log import EpisodeLog
from kerasrl_pg.fit import fit_agent
from kerasrl_pg.plotting import plot_history, running_mean


@pytest.fixture(scope="module")
def agent():
    return fit_agent("CartPole-v1", "ppo", steps=1024, seed=0, jit_compile=False, verbose=0)


def make_log(steps, returns):
    log = EpisodeLog()
    log.extend(steps, returns, [1] * len(steps))
    return log


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.integers(1, 40))
def test_the_running_mean_is_the_mean_of_the_last_values(values, window):
    expected = [np.mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
    np.testing.assert_allclose(running_mean(values, window), expected, atol=1e-9)


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


def test_bad_input_is_named():
    log = make_log([1], [1.0])
    with pytest.raises(ValueError, match=r"every run needs a finished episode, got \[1, 0\]"):
        plot_history([log, EpisodeLog()])
    with pytest.raises(ValueError, match=r"no steps in common: one starts at 9, another ends at 1"):
        plot_history([log, make_log([9], [1.0])])
    with pytest.raises(ValueError, match="window must be a positive number of episodes, got 0"):
        plot_history(log, window=0)
    with pytest.raises(TypeError, match="a run must be an Agent or an EpisodeLog, got ndarray"):
        plot_history(np.zeros(3))
