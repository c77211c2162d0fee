import importlib
import json
import pathlib
import re
import sys

import numpy as np
import pytest

from kerasrl_pg.presets import PRESETS

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
WORK = {
    "parameters": 9155,
    "num_envs": 8,
    "rollout_length": 32,
    "minibatch_size": 256,
    "env_steps": 10_240,
    "gradient_steps": 800,
    "precision": ["float32"],
}


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("compare")


@pytest.mark.parametrize("script", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_a_script_finds_what_it_imports(script, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    importlib.import_module(script)


def measured(rate, **least_ratios):
    side = {"title": "ours", "library": "ours", "least_ratios": least_ratios, "most_seconds": None}
    done = [{"steps_per_second": one, "seconds": 100 / one, "evaluation_return": None} for one in rate]
    return side, done


def config(schedule):
    """What makes two schedules equal; a constant is itself."""
    return schedule if isinstance(schedule, float) else schedule.get_config()


@pytest.mark.parametrize(
    ("workload", "preset"),
    [("cartpole-zoo", "cartpole-ppo"), ("cartpole-solved", "cartpole-ppo"), ("pong", "pong-ppo")],
)
def test_the_timed_settings_are_those_of_the_preset(compare, workload, preset):
    timed = compare.WORKLOADS[workload]
    task = timed.task
    algorithm, optimizer = compare.our_settings(task, timed.steps)
    settings = PRESETS[preset].build(timed.steps, task.num_envs)
    own, tuned = vars(algorithm).copy(), vars(settings.algorithm).copy()
    assert config(own.pop("clip_epsilon")) == config(tuned.pop("clip_epsilon"))
    assert own == tuned
    assert {**optimizer.get_config(), "name": None} == {**settings.optimizer.get_config(), "name": None}
    assert (task.env, task.num_envs) == (PRESETS[preset].env, PRESETS[preset].num_envs)


@pytest.mark.parametrize("fact", ["parameters", "num_envs", "rollout_length", "minibatch_size"])
def test_a_comparison_of_unequal_settings_is_an_error(compare, fact):
    with pytest.raises(ValueError, match=fact):
        compare.check_same_work("cartpole", {"graph": WORK, "sb3": {**WORK, fact: WORK[fact] + 1}})


def test_we_may_do_a_little_more_work_than_the_peer_but_never_less(compare):
    compare.check_same_work("cartpole", {"vector": {**WORK, "gradient_steps": 820}, "sb3": WORK})
    for gradient_steps in (799, 900):
        with pytest.raises(ValueError, match="gradient_steps"):
            compare.check_same_work("cartpole", {"vector": {**WORK, "gradient_steps": gradient_steps}, "sb3": WORK})
    with pytest.raises(ValueError, match="env_steps"):
        compare.check_same_work("cartpole", {"vector": {**WORK, "env_steps": 10_240 - 256}, "sb3": WORK})


def test_what_is_asked_for_is_judged_against_the_faster_side_of_each_library(compare):
    side, done = measured([90.0, 100.0, 110.0], sb3=20.0, rejax=1.0)
    peers = {"sb3": [1.0, 1.0, 1.0], "sb3-1-thread": [9.0, 10.0, 10.0], "rejax": [50.0, 100.0, 100.0]}
    row = compare.figures(side, done, {name: measured(rate)[1] for name, rate in peers.items()})
    assert row[4:7] == ["100.0 (90.0 - 110.0)", "10.0 (10.0 - 11.0)", "1.0 (1.0 - 1.8)"]
    assert row[7] == "≥ 20× sb3: missed, ≥ 1× rejax: met"


def test_a_library_that_was_skipped_is_not_judged(compare):
    side, done = measured([100.0], sb3=20.0, rejax=1.0)
    assert compare.figures(side, done, {"sb3": measured([1.0])[1]})[-2] == "≥ 20× sb3: met"


def test_the_shares_of_our_time_are_in_the_report_and_the_peers_are_not(compare):
    assert compare.time_shares({"steps": [1, 2, 3], "acting_share": [0.9, 0.25, 0.75]}) == {"acting": 0.5}
    sides = {"graph": {"title": "ours"}, "sb3": {"title": "theirs"}}
    done = {"graph": [{"work": {"time_shares": {"acting": 0.5}}}], "sb3": [{"work": {}}]}
    (found,) = compare.where_our_time_goes(sides, done)
    assert found.splitlines()[-1] == "| ours | 50% |"
    assert compare.where_our_time_goes(sides, {"sb3": done["sb3"]}) == []


def test_a_peer_that_is_not_installed_is_named(compare, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')  # -S: no site-packages, so no peer
    python.chmod(0o755)
    assert "stable_baselines3, ale_py, cv2" in compare.missing_peer(compare.WORKLOADS["pong"], "sb3", str(python))
    assert "has no rejax" in compare.missing_peer(compare.WORKLOADS["cartpole"], "rejax", str(python))


def test_how_far_two_libraries_are_apart_by_hand(monkeypatch):
    """Of four seeds the middle two count: 2.5 against 11 on average."""
    monkeypatch.syspath_prepend(str(FOLDER))
    learning = importlib.import_module("learning")
    apart = learning.difference(np.array([0.0, 2.0, 3.0, 100.0]), np.array([10.0, 12.0, 13.0, -7.0]))
    assert re.fullmatch(r"-8\.5 \[-\d+\.\d, \d+\.\d\]", apart)
    assert learning.difference(np.full(4, 500.0), np.full(4, 480.0)) == "20.0"


@pytest.mark.slow
def test_our_side_counts_its_work_and_leaves_the_warm_up_out_of_the_time(compare):
    workload = compare.dataclasses.replace(compare.WORKLOADS["cartpole"], steps=10_240)
    result = json.loads(json.dumps(compare.measure(workload, "graph", seed=0)))
    shares = result["work"].pop("time_shares")
    assert 0.9 < sum(shares.values()) < 1.0
    assert result["work"] == {**WORK, "rollout_length": 128, "gradient_steps": 160}
    assert result["steps"] == 10_240 - 1024
