"""Tuned settings: complete, consistent, and used where a user names only the algorithm."""

import dataclasses
import importlib
import json
import math
import pathlib

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces

import kerasrl_pg as krl
from kerasrl_pg.algorithms import ALGORITHMS
from kerasrl_pg.building import environment_of, find_preset
from kerasrl_pg.envs.acrobot import Acrobot
from kerasrl_pg.envs.doom import is_doom
from kerasrl_pg.envs.make import find_spec, make_env
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.models.actor_critic import layers_of
from kerasrl_pg.policies import policy_of
from kerasrl_pg.presets import DEFAULTS, PRESETS
from kerasrl_pg.saving import settings_to_json
from kerasrl_pg.settings import linear_to_zero


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_makes_its_algorithm_and_a_model_for_its_environment(preset):
    if is_doom(preset.env):
        pytest.importorskip("vizdoom")
    assert find_spec(preset.env).id == preset.env
    settings = preset.build(preset.steps, preset.num_envs)
    assert type(settings.algorithm) is ALGORITHMS[preset.algorithm]
    assert isinstance(settings.optimizer, keras.optimizers.Optimizer)
    training = make_env(
        preset.env, num_envs=1, env_options=preset.env_options, protocol=preset.protocol
    ).make_training()
    spaces = training.observation_space, training.action_space
    policy_of(settings.algorithm, settings.model(*spaces, seed=0), *spaces)  # raises unless the outputs fit
    if isinstance(training, VectorAdapter):
        training.close()


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_says_where_it_comes_from(preset):
    assert preset.source


def schedules_of(settings) -> list[keras.optimizers.schedules.LearningRateSchedule]:
    """Those that count gradient steps; exploration counts environment steps and does not fall to zero."""
    of_algorithm = [getattr(settings.algorithm, name, None) for name in ("clip_epsilon", "entropy_coef")]
    values = [settings.optimizer._learning_rate, *of_algorithm]
    return [value for value in values if isinstance(value, keras.optimizers.schedules.LearningRateSchedule)]


@pytest.mark.parametrize("steps", [10_000, 1_000_000])
@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.algorithm in ("dqn", "nfq")])
def test_exploration_begins_with_random_actions_or_stays_and_does_not_end_after_the_training(name, steps):
    preset = PRESETS[name]
    epsilon = preset.build(steps, preset.num_envs).algorithm.epsilon
    if isinstance(epsilon, keras.optimizers.schedules.LearningRateSchedule):
        assert float(epsilon(0)) == 1.0
        if not name.startswith("pong"):  # their exploration has a length of its own
            assert float(epsilon(steps)) == float(epsilon(2**31 - 1))
        assert float(epsilon(2**31 - 1)) < 1.0


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("steps", [10_000, 1_000_000])
@pytest.mark.parametrize("times", [1, 2])
def test_what_falls_to_zero_does_so_in_the_last_update_of_a_training_however_long_and_broad_it_is(preset, steps, times):
    """As if Q-learning took gradient steps from the start, and not only once its replay has what it waits for."""
    num_envs = times * preset.num_envs
    settings = preset.build(steps, num_envs)
    for schedule in schedules_of(settings):
        if preset is PRESETS["pong-fast"] and schedule is settings.algorithm.entropy_coef:
            continue  # ends earlier, as another test says
        algorithm = settings.algorithm
        per_update = getattr(algorithm, "epochs", 1) * getattr(algorithm, "num_minibatches", 1)
        per_update *= getattr(algorithm, "gradient_steps", 1)
        last = math.ceil(steps / (algorithm.rollout_length * num_envs)) * per_update
        assert float(schedule(last)) == pytest.approx(0.0, abs=1e-12)
        assert 0 < float(schedule(last - per_update - 1)) < float(schedule(0))
        if times == 1:
            assert float(schedule(last - 1)) > 0


@pytest.mark.parametrize("steps", [3_072, 100_000])
def test_pongs_entropy_bonus_stays_for_half_of_a_training_and_is_gone_before_its_end(steps):
    algorithm = PRESETS["pong-fast"].build(steps, 24).algorithm
    last = math.ceil(steps / (algorithm.rollout_length * 24)) * algorithm.epochs * algorithm.num_minibatches
    values = [float(algorithm.entropy_coef(step)) for step in range(last + 1)]
    assert values[: last // 2 + 1] == [pytest.approx(0.03)] * (last // 2 + 1)
    assert values[round(0.85 * last) :] == [0.0] * (last + 1 - round(0.85 * last))
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(("name", "waited", "counted"), [("grid-dqn", 25, 80), ("grid-nfq", 200, 400)])
def test_a_training_takes_the_gradient_steps_that_its_schedule_counts(name, waited, counted):
    """320 steps of 4 environments: 80 updates of one gradient step or, 20 steps each, 4 updates of 100."""
    agent = krl.fit_agent(GRID, name, steps=320, num_envs=4, jit_compile=False, verbose=0)
    assert int(agent.optimizer.iterations) == counted - waited  # for the first 100 steps
    schedule = agent.optimizer._learning_rate
    assert float(schedule(counted)) == 0 < float(schedule(counted - 1))


@pytest.fixture
def results(monkeypatch):
    """The script that writes what presets reach into docs/results.md."""
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("results")


def test_the_report_of_a_preset_shows_its_schedules_its_sampler_and_its_optimizer(results):
    settings = PRESETS["grid-prioritized-dqn"].build(30_000, 1)
    line = results.listed(settings_to_json(settings.algorithm))
    assert "sampler Prioritized(exponent 0.6, offset 0.1, importance_exponent 0.4→1), epsilon 1→0.5" in line
    settings = PRESETS["cartpole-ppo"].build(100_000, 8)
    assert "clip_epsilon 0.2→0, clip_value None" in results.listed(settings_to_json(settings.algorithm))
    pong = PRESETS["pong-fast"].build(850_000, 24).algorithm
    assert "entropy_coef 0.03→0 (gradient steps 1662 to 2825)" in results.listed(settings_to_json(pong))
    config = keras.saving.serialize_keras_object(settings.optimizer)["config"]
    assert results.optimizer_line({**config, "name": "adam_30"}) == "adam, learning_rate 0.001→0"
    constant = keras.saving.serialize_keras_object(PRESETS["pong-dqn"].build(2_000_000, 8).optimizer)["config"]
    assert results.optimizer_line({**constant, "name": "fused_adam"}) == "fused_adam, learning_rate 0.0001"


def test_the_report_says_what_a_preset_has_changed_since_it_was_measured(results):
    settings = PRESETS["grid-prioritized-dqn"].build(30_000, 1)
    measured = {
        "algorithm": {"settings": json.loads(json.dumps(settings_to_json(settings.algorithm)))},
        "optimizer": {**keras.saving.serialize_keras_object(settings.optimizer)["config"], "name": "adam_7"},
    }
    assert results.changes(measured, settings) == []
    measured["algorithm"]["settings"] |= {"batch_size": 64, "a setting of old": 1}
    del measured["algorithm"]["settings"]["n_step"]  # as if it did not exist yet
    measured["optimizer"] |= {"name": "rmsprop", "epsilon": 1e-3}
    found = [
        "batch_size 64 (now 10)",
        "a setting of old 1 (now gone)",
        "optimizer rmsprop (now adam)",
        "the optimizer's epsilon 0.001 (now 1e-05)",
    ]
    assert results.changes(measured, settings) == found
    longer = results.changes(measured, PRESETS["grid-prioritized-dqn"].build(40_000, 1))
    assert [change.split()[0] for change in longer] == [
        "batch_size",
        "sampler",
        "epsilon",
        "a",
        "optimizer",
        "the",
        "the",
    ]


def test_the_report_counts_in_proper_english(results):
    assert [results.counted(number, "seed") for number in (1, 5)] == ["1 seed", "5 seeds"]


def test_a_linear_schedule_by_hand():
    # 1000 steps of 2 environments, 100 steps each: 5 updates of 2 · 4 gradient steps.
    schedule = linear_to_zero(1.0, 1000, 2, krl.PPO(rollout_length=100, epochs=2, num_minibatches=4))
    assert [float(schedule(step)) for step in (0, 10, 20, 40)] == [1.0, 0.75, 0.5, 0.0]


def test_every_algorithm_has_defaults():
    assert DEFAULTS.keys() == ALGORITHMS.keys()
    for name, build in DEFAULTS.items():
        assert build().algorithm == ALGORITHMS[name]()


ASKED: dict = {"num_envs": None, "env_options": None, "in_graph": True, "protocol": None}
"""Nothing, of `environment_of`."""


def test_what_is_asked_for_goes_before_what_the_preset_has():
    preset = dataclasses.replace(PRESETS["pong-ppo"], protocol=krl.AtariProtocol(size=64))
    made = environment_of(preset.env, preset, **ASKED)
    assert (made.protocol["size"], made.make_training().num_envs) == (64, 8)
    made = environment_of(preset.env, preset, **{**ASKED, "num_envs": 2, "protocol": krl.AtariProtocol(size=84)})
    assert (made.protocol["size"], made.make_training().num_envs) == (84, 2)


def test_doom_without_game_variables_is_still_seen_by_convolutions():
    build = PRESETS["doom-ppo"].build(1_000_000, 16).model
    model = build(spaces.Box(0, 255, (4, 60, 80), np.uint8), spaces.Discrete(4))
    assert any(isinstance(layer, keras.layers.Conv2D) for layer in layers_of(model, keras.layers.Layer))


def test_an_algorithms_name_means_the_preset_of_the_environment():
    tuned = krl.fit_agent("CartPole-v1", "ppo", steps=256, verbose=0, jit_compile=False)
    assert tuned.algorithm.epochs == PRESETS["cartpole-ppo"].build(256, 8).algorithm.epochs == 20
    plain = krl.fit_agent("CartPole-v1", krl.PPO(rollout_length=32), steps=256, verbose=0, jit_compile=False)
    assert plain.algorithm == krl.PPO(rollout_length=32)


@pytest.mark.parametrize(
    ("env", "name", "message"),
    [
        ("Acrobot-v1", "cartpole-ppo", "preset 'cartpole-ppo' is for CartPole-v1, not for Acrobot-v1"),
        ("CartPole-v1", "pppo", "unknown algorithm 'pppo'; did you mean ppo"),
        ("CartPole-v1", "zzz", "unknown algorithm 'zzz'.*Known: a2c, cross_entropy,.* policy_gradient, ppo, reinforce"),
    ],
)
def test_a_name_that_does_not_fit_is_an_error_that_helps(env, name, message):
    with pytest.raises(ValueError, match=message):
        krl.fit_agent(env, name, steps=256, verbose=0)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("steps", [1, 10])
def test_a_preset_makes_settings_for_a_training_of_a_few_steps_too(preset, steps):
    assert type(preset.build(steps, preset.num_envs).algorithm) is ALGORITHMS[preset.algorithm]


GRID = "kerasrl_pg/GridWorld-v0"


def test_an_option_changes_one_of_the_presets_and_leaves_the_others():
    agent = krl.fit_agent(GRID, "grid-nfq", steps=10, env_options={"task": "obstacle"}, verbose=0, jit_compile=False)
    assert agent.environment.options == {"task": "obstacle", "observation": "coordinates"}


def test_the_grids_preset_reads_other_observations_too():
    build = PRESETS["grid-dqn"].build(1_000, 1).model
    for observation in ("index", "one_hot", "coordinates", "grid"):
        environment = krl.GridWorld(num_envs=1, observation=observation)
        assert build(environment.observation_space, environment.action_space).output_shape == (None, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gymnasium.make("Acrobot-v1"),
        lambda: gymnasium.make_vec("Acrobot-v1", num_envs=2),
        lambda: Acrobot(num_envs=2),
        lambda: lambda: gymnasium.make("Acrobot-v1"),
    ],
    ids=["object", "vector", "graph", "function"],
)
def test_a_preset_for_another_environment_is_refused_whatever_the_environment_is(make):
    with pytest.raises(ValueError, match="preset 'cartpole-a2c' is for CartPole-v1, not for Acrobot-v1"):
        krl.fit_agent(make(), "cartpole-a2c", steps=10, verbose=0)


def test_an_object_keeps_its_own_options_number_and_time_limit():
    world = krl.GridWorld(num_envs=3, task="obstacle", observation="grid")
    assert environment_of(world, PRESETS["grid-dqn"], **ASKED).make_training() is world
    limited = gymnasium.make("CartPole-v1", max_episode_steps=7)
    made = environment_of(limited, PRESETS["cartpole-actor-critic"], **ASKED)
    assert (made.make_training().num_envs, made.max_episode_steps) == (1, 7)


def test_a_preset_is_found_for_an_id_that_names_its_module():
    assert find_preset("gymnasium:CartPole-v1", "cartpole-ppo") == ("ppo", PRESETS["cartpole-ppo"])
    assert find_preset("gymnasium:CartPole-v1", "ppo") == ("ppo", PRESETS["cartpole-ppo"])
