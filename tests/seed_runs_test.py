"""Many seeds, compiled once: each is the training that it would have been alone, and the statistics over them."""

import csv
import dataclasses
from types import SimpleNamespace
from typing import ClassVar

import gymnasium
import keras
import numpy as np
import pytest
import scipy.stats
from keras.optimizers.schedules import PolynomialDecay

import kerasrl_pg as krl
from kerasrl_pg.algorithms import A2C, DQN, Prioritized
from kerasrl_pg.episode_log import EpisodeLog
from kerasrl_pg.models import actor_critic, mlp_trunk, q_network
from kerasrl_pg.seed_runs import Interval, SeedRun, SeedRuns, fit_seeds, fit_sweep

SHORT_A2C = A2C(rollout_length=5)
SHORT_DQN = DQN(
    rollout_length=4, replay_size=100, learning_starts=16, batch_size=8, target_every=3, sampler=Prioritized()
)
CLOCK = ("steps_per_second", "environment_share", "acting_share", "learning_share", "copying_share", "storing_share")
"""What no seed decides."""


def small(build):
    """A model builder that is quick to trace."""
    return lambda observation_space, action_space, seed: build(
        observation_space, action_space, trunk=mlp_trunk((8,), seed=seed), seed=seed
    )


def arguments_of(algorithm, **more):
    build = small(q_network if isinstance(algorithm, DQN) else actor_critic)
    arguments = {"steps": 120, "num_envs": 2, "steps_per_epoch": 40, "jit_compile": False, "verbose": 0, **more}
    return build, arguments


def seeds_of(algorithm, env="CartPole-v1", seeds=(5, 3), **more):
    build, arguments = arguments_of(algorithm, **more)
    return fit_seeds(env, algorithm, seeds=seeds, model=build, **arguments)


def alone(algorithm, seed, env="CartPole-v1", **more):
    """The same training through `fit_agent`."""
    build, arguments = arguments_of(algorithm, **more)
    return krl.fit_agent(env, algorithm, seed=seed, model=build, **arguments)


def rows_of(log):
    return list(zip(log.step, log.episode_return, log.episode_length, strict=True))


def make_runs(*returns):
    """Runs whose history is `returns`, at steps 10, 20, ..."""
    runs = []
    for seed, each in enumerate(returns):
        history = {"steps": [10.0 * (i + 1) for i in range(len(each))], "episode_return": each}
        runs.append(SeedRun(seed, history, EpisodeLog(), weights=[], optimizer_variables=[], updates=1))
    return SeedRuns(tuple(runs), SimpleNamespace(optimizer=None, environment=None, num_envs=1))


@pytest.fixture(scope="module")
def trained():
    return seeds_of(SHORT_A2C, seeds=[7, 2, 4])


@pytest.mark.parametrize("in_graph", [True, False])
@pytest.mark.parametrize("algorithm", [SHORT_A2C, SHORT_DQN], ids=["a2c", "dqn"])
def test_each_training_is_the_one_that_fit_agent_does_with_that_seed(algorithm, in_graph):
    runs = seeds_of(algorithm, in_graph=in_graph, eval_episodes=1)
    agent = alone(algorithm, 3, in_graph=in_graph, eval_episodes=1)  # the second seed, on what the first compiled
    run = runs.runs[1]
    assert run.seed == 3
    assert rows_of(run.episodes) == rows_of(agent.episodes)
    assert len(run.episodes) > 2
    assert (run.updates, run.history["steps"][-1]) == (agent.updates, agent.steps)
    for name, values in agent.history.history.items():
        if name not in CLOCK:
            np.testing.assert_array_equal(run.history[name], values)
    for found, expected in zip(run.weights, agent.model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(run.optimizer_variables, agent.optimizer.variables, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert any((a != b).any() for a, b in zip(runs.runs[0].weights, run.weights, strict=True))


def test_each_seed_has_the_optimizer_asked_for_anew_and_stops_at_the_return():
    more = {
        "steps": 50_000,
        "num_envs": 8,
        "stop_return": 1.0,  # after 100 episodes, for every step pays 1
        "optimizer": keras.optimizers.SGD(PolynomialDecay(0.02, 200, 0.001), momentum=0.9),
    }
    runs, agent = seeds_of(SHORT_A2C, **more), alone(SHORT_A2C, 3, **more)
    steps = [run.history["steps"][-1] for run in runs.runs]
    assert max(steps) < 5_000
    assert steps[1] == agent.steps
    run = runs.runs[1]
    assert rows_of(run.episodes) == rows_of(agent.episodes)
    assert len(run.episodes) >= 100
    np.testing.assert_array_equal(run.history["learning_rate"], agent.history.history["learning_rate"])
    for found, expected in zip(run.weights, agent.model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(run.optimizer_variables, agent.optimizer.variables, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_vector_environment_is_used_by_one_seed_after_the_other():
    vector = gymnasium.make_vec("CartPole-v1", num_envs=2)
    runs = seeds_of(SHORT_A2C, env=vector, num_envs=None)
    agent = alone(SHORT_A2C, 3, env=gymnasium.make_vec("CartPole-v1", num_envs=2), num_envs=None)
    assert rows_of(runs.runs[1].episodes) == rows_of(agent.episodes)
    vector.reset()  # it is the user's: left open
    vector.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountingTraces(A2C):
    """A2C that counts how often TensorFlow reads its Python."""

    traces: list = dataclasses.field(default_factory=list)

    def update(self, learner, rollout, seed):
        """A2C's."""
        self.traces.append(1)
        return super().update(learner, rollout, seed)


@pytest.mark.parametrize("in_graph", [True, False])
def test_what_is_compiled_is_compiled_once_for_all_seeds(in_graph):
    one, three = (CountingTraces(rollout_length=5) for _ in range(2))
    for algorithm, seeds in ((one, 1), (three, 3)):
        seeds_of(algorithm, seeds=seeds, steps=20, in_graph=in_graph)
    assert len(three.traces) == len(one.traces) == 1


def test_callbacks_are_made_for_each_seed_and_may_change_the_learning_rate():
    asked = []

    def callbacks(seed):
        asked.append(seed)
        return [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)]

    runs = seeds_of(SHORT_A2C, callbacks=callbacks)
    assert asked == [5, 3]
    first, second = (run.history["learning_rate"] for run in runs.runs)
    assert first == second  # each began at the whole rate
    assert first[1] == pytest.approx(first[0] / 2)


def test_a_scheduler_may_take_the_place_of_a_presets_schedule():
    runs = krl.fit_seeds(
        "CartPole-v1",
        "ppo",
        seeds=1,
        steps=512,
        steps_per_epoch=256,
        callbacks=lambda seed: [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)],
        jit_compile=False,
        verbose=0,
    )
    np.testing.assert_allclose(runs.runs[0].history["learning_rate"], [5e-4, 2.5e-4], rtol=1e-6)


def test_a_preset_brings_its_environments_and_its_options():
    runs = fit_seeds("kerasrl_pg/GridWorld-v0", "grid-dqn", seeds=1, steps=150, jit_compile=False, verbose=0)
    assert runs.agent.environment is not None
    assert runs.agent.environment.options["observation"] == "grid"
    assert max(runs.runs[0].episodes.episode_length) <= 50


def test_a_line_tells_how_each_seed_did(capsys):
    seeds_of(SHORT_A2C, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["seed 5", "seed 3"]
    assert lines[0].endswith(" after 120 steps")


def test_the_agent_of_a_seed_acts_as_that_seed_learned_to(trained):
    observation = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    agent = trained.agent_of(2)
    values = [np.array(agent.policy(observation).value)]
    assert (agent.seed, agent.steps, agent.updates, agent.replay_begun_at) == (2, 120, 12, (120, 12))
    assert (agent.history.history, agent.history.epoch) == (trained.runs[1].history, [0, 1, 2])
    assert agent.episodes.step == trained.runs[1].episodes.step
    values += [np.array(trained.agent_of(seed).policy(observation).value) for seed in (7, 2)]
    assert (values[0] != values[1]).any()
    np.testing.assert_array_equal(values[0], values[2])
    with pytest.raises(ValueError, match=r"seed must be one of \[7, 2, 4\], got 0"):
        trained.agent_of(0)


def test_the_agent_of_a_seed_can_be_trained_further_and_saved(tmp_path):
    runs = seeds_of(SHORT_A2C)
    agent = krl.fit_agent("CartPole-v1", runs.agent_of(5), steps=40, num_envs=2, jit_compile=False, verbose=0)
    assert (agent.steps, agent.history.epoch[:4]) == (160, [0, 1, 2, 3])
    assert int(agent.optimizer.iterations) == 16
    loaded = krl.load_agent(agent.save(tmp_path / "agent"))
    assert loaded.describe()["seed"] == 5
    assert (runs.curve()[0][-1], max(runs.runs[0].episodes.step, default=0) <= 120) == (120, True)


def test_the_agent_of_a_seed_is_that_seeds_whatever_another_was_trained_further_with():
    runs = seeds_of(SHORT_A2C, env_options={"max_episode_steps": 20})
    before = runs.agent_of(3).describe()
    other = {"num_envs": 3, "env_options": {"max_episode_steps": 30}, "optimizer": keras.optimizers.SGD(0.1)}
    krl.fit_agent("CartPole-v1", runs.agent_of(5), steps=30, jit_compile=False, verbose=0, **other)
    agent = runs.agent_of(3)
    assert (agent.describe(), agent.model.optimizer is agent.optimizer) == (before, True)
    np.testing.assert_array_equal(agent.optimizer.variables[-1], runs.runs[1].optimizer_variables[-1])


def test_statistics_over_the_seeds_by_hand():
    runs = make_runs([0.0, 2.0], [4.0, 6.0], [5.0, 10.0])
    steps, values = runs.curve()
    assert steps.tolist() == [10, 20]
    assert values.tolist() == [[0, 2], [4, 6], [5, 10]]
    np.testing.assert_allclose(runs.mean(), [3, 6])
    np.testing.assert_allclose(runs.std(), [np.sqrt((9 + 1 + 4) / 3), np.sqrt((16 + 0 + 16) / 3)])


def test_curves_end_with_the_shortest_training():
    runs = make_runs([1.0, 2.0, 3.0], [5.0])
    assert runs.curve()[1].tolist() == [[1.0], [5.0]]
    assert runs.mean().tolist() == [3.0]
    assert runs.interquartile_mean().value == 4.0  # of each one's last


def test_where_seeds_count_different_steps_the_curve_is_at_their_mean():
    runs = make_runs([1.0, 2.0], [5.0, 6.0])
    runs.runs[1].history["steps"][:] = [30, 60]
    assert runs.curve()[0].tolist() == [20, 40]


def test_the_interquartile_mean_leaves_a_quarter_out_at_either_end():
    runs = make_runs(*([float(x)] for x in (0, 100, 3, 4, 5, 6, 900, 1)))
    interval = runs.interquartile_mean()
    assert interval.value == pytest.approx((3 + 4 + 5 + 6) / 4)
    assert interval.value == pytest.approx(scipy.stats.trim_mean([0, 1, 3, 4, 5, 6, 100, 900], 0.25))


def test_its_interval_is_the_percentile_bootstrap():
    last = np.random.default_rng(1).normal(100, 20, 12)
    interval = make_runs(*([x] for x in last)).interquartile_mean(confidence=0.9)
    rng = np.random.default_rng(2)
    resampled = np.sort(rng.choice(last, (9999, 12)), axis=1)[:, 3:-3].mean(axis=1)
    np.testing.assert_allclose([interval.low, interval.high], np.percentile(resampled, [5, 95]), atol=0.7)
    assert interval.low < interval.value < interval.high
    assert interval == make_runs(*([x] for x in last)).interquartile_mean(confidence=0.9)  # no luck in it


def test_equal_seeds_and_single_ones_have_an_interval_of_no_width():
    assert make_runs([7.0], [7.0]).interquartile_mean() == Interval(7.0, 7.0, 7.0)
    assert str(make_runs([7.0]).interquartile_mean()) == "7.0 [7.0, 7.0]"


def test_a_table_of_all_histories_is_written(tmp_path):
    make_runs([1.0, 2.5], [5.0]).to_csv(tmp_path / "runs.csv")
    with open(tmp_path / "runs.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["seed", "steps", "episode_return"],
        ["0", "10.0", "1.0"],
        ["0", "20.0", "2.5"],
        ["1", "10.0", "5.0"],
    ]


def test_a_column_that_only_some_seeds_have_stands_under_its_name_in_the_table(tmp_path):
    runs = make_runs([1.0], [5.0])
    runs.runs[1].history.update({"extra": [7.0], **{name: runs.runs[1].history.pop(name) for name in ("steps",)}})
    runs.to_csv(tmp_path / "runs.csv")
    with open(tmp_path / "runs.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["seed", "steps", "episode_return", "extra"],
        ["0", "10.0", "1.0", "nan"],
        ["1", "10.0", "5.0", "7.0"],
    ]
    with pytest.raises(ValueError, match="name must be one of steps, episode_return, got 'extra'"):
        runs.interquartile_mean("extra")


def test_a_sweep_is_a_training_of_each_with_the_same_seeds(trained):
    coefs = {coef: dataclasses.replace(SHORT_A2C, entropy_coef=coef) for coef in (SHORT_A2C.entropy_coef, 5.0)}
    build, arguments = arguments_of(SHORT_A2C)
    runs = fit_sweep("CartPole-v1", coefs, seeds=[7, 2], model=build, **arguments)
    assert list(runs) == [SHORT_A2C.entropy_coef, 5.0]
    same, other = runs.values()
    for found, expected in zip(same.runs[1].weights, trained.runs[1].weights, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert other.mean("entropy")[-1] > same.mean("entropy")[-1]


def test_seeds_models_and_callbacks_that_do_not_fit_are_named(trained):
    for seeds in (0, [], [1, 2, 1], 2.0, True):
        with pytest.raises(ValueError, match="seeds must be a positive number of seeds or different seeds, got"):
            seeds_of(SHORT_A2C, seeds=seeds)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        seeds_of(SHORT_A2C, seeds=[-1])
    with pytest.raises(TypeError, match="a function that builds one for each seed, got the model 'one'"):
        fit_seeds("CartPole-v1", "a2c", seeds=2, steps=10, model=keras.Sequential(name="one"))
    with pytest.raises(TypeError, match=r"callbacks must be a list of keras\.callbacks\.Callback objects, got 'none'"):
        seeds_of(SHORT_A2C, callbacks=lambda seed: "none")
    with pytest.raises(ValueError, match="callbacks must move the learning rate of every seed, or of none"):
        seeds_of(
            SHORT_A2C,
            callbacks=lambda seed: [keras.callbacks.ReduceLROnPlateau("loss")] if seed == 3 else [],
        )
    with pytest.raises(TypeError, match=r"it takes an algorithm or a name, got <.*Agent"):
        seeds_of(trained.agent)
    with pytest.raises(ValueError, match=r"name must be one of .*steps.*, got 'losss'"):
        trained.curve("losss")
    with pytest.raises(ValueError, match=r"name must be one of .*steps.*, got 'losss'"):
        trained.interquartile_mean("losss")
    with pytest.raises(ValueError, match=r"confidence must be between 0 and 1, such as 0\.95, got 95"):
        trained.interquartile_mean(confidence=95)
    with pytest.raises(ValueError, match="algorithms must name at least one"):
        fit_sweep("CartPole-v1", {}, steps=10)
    with pytest.raises(TypeError, match="algorithms must be a dict"):
        fit_sweep("CartPole-v1", [SHORT_A2C], steps=10)
    with pytest.raises(TypeError, match="callbacks must be a function from a seed to a list of callbacks"):
        seeds_of(SHORT_A2C, callbacks=[])
    with pytest.raises(ValueError, match=r"seed must be an integer of at least 0, got \[1, 2\]"):
        seeds_of(SHORT_A2C, seeds=[[1, 2]])


def test_seeds_may_be_numpys():
    assert [run.seed for run in seeds_of(SHORT_A2C, seeds=np.arange(2)).runs] == [0, 1]
    assert [run.seed for run in seeds_of(SHORT_A2C, seeds=np.int64(1)).runs] == [0]


def test_a_sweep_names_a_wrong_algorithm_before_it_trains_any(capsys):
    with pytest.raises(ValueError, match="unknown algorithm 'pppo'"):
        fit_sweep("CartPole-v1", {"right": SHORT_A2C, "wrong": "pppo"}, seeds=1, steps=10)
    assert capsys.readouterr().out == ""


class Opened(gymnasium.Wrapper):
    """An environment that is known to be open until it is closed."""

    now: ClassVar[set[int]] = set()

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.now.add(id(self))

    def close(self):
        self.now.discard(id(self))
        super().close()


@pytest.mark.parametrize(
    "fit", [lambda **more: krl.fit_agent(Opened, **more), lambda **more: fit_seeds(Opened, **more)], ids=["one", "many"]
)
def test_environments_are_closed_where_what_is_to_be_trained_is_refused(fit):
    with pytest.raises(TypeError, match=r"model must be a keras\.Model or a function"):
        fit(algorithm="a2c", model=lambda *spaces, seed: "no model", steps=100)
    assert Opened.now == set()
    fit(algorithm=SHORT_A2C, eval_episodes=1, steps=10, jit_compile=False, verbose=0)
    assert Opened.now == set()


@pytest.mark.parametrize("algorithm", [SHORT_A2C, SHORT_DQN], ids=["a2c", "dqn"])
def test_evaluations_of_one_seed_do_not_change_the_episodes_of_the_next(algorithm):
    """Where all of them play on the same object."""
    runs = seeds_of(algorithm, env=gymnasium.make("CartPole-v1"), num_envs=None, eval_episodes=1)
    single = alone(algorithm, 3, env=gymnasium.make("CartPole-v1"), num_envs=None, eval_episodes=1)
    assert rows_of(runs.runs[1].episodes) == rows_of(single.episodes)
    for weight, expected in zip(runs.runs[1].weights, single.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_seed_without_a_number_leaves_no_interval():
    interval = make_runs([1.0], [2.0], [np.nan], [3.0]).interquartile_mean()
    assert np.isnan(dataclasses.astuple(interval)).all()
