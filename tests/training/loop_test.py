"""The loop: epochs and batches, what is logged when, and what ends it."""

import dataclasses
import itertools

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrl_pg as krl
from kerasrl_pg.agent import Agent
from kerasrl_pg.algorithms import A2C, Reinforce
from kerasrl_pg.envs.cartpole import CartPole
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.models import actor_critic, mlp_trunk
from kerasrl_pg.training import loop
from kerasrl_pg.training.graph_engine import GraphEngine
from kerasrl_pg.training.on_policy import OnPolicyEngine, OnPolicyProgram

UPDATES_PER_EPOCH = 4
FIVE_STEPS = A2C(rollout_length=5)


def make_engine(num_envs=2, algorithm=FIVE_STEPS):
    environment = CartPole(num_envs)
    spaces = environment.observation_space, environment.action_space
    model = actor_critic(*spaces, trunk=mlp_trunk((8,), seed=1))
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    agent = Agent(algorithm, model, optimizer, *spaces)
    return GraphEngine(agent, OnPolicyProgram(agent, environment, False), UPDATES_PER_EPOCH, jit_compile=False)


@pytest.fixture(scope="module")
def engine():
    """One trace for all tests: each goes on from where the last one stopped."""
    return make_engine()


def train(engine, steps, **arguments):
    """`steps` more environment steps; an update is 10."""
    loop.train(engine.agent, engine, steps=engine.agent.steps + steps, updates_per_epoch=UPDATES_PER_EPOCH, **arguments)


def test_an_epoch_is_a_reporting_interval_and_a_batch_an_update(engine):
    seen = []
    spy = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: seen.append("epoch"),
        on_train_batch_begin=lambda batch, logs: seen.append(batch),
        on_epoch_end=lambda epoch, logs: seen.append(logs["steps"]),
    )
    before = engine.agent.updates
    start = engine.agent.steps
    train(engine, 61, callbacks=[spy])
    assert seen == ["epoch", 0, 1, 2, 3, start + 40, "epoch", 0, 1, 2, start + 70]
    assert engine.agent.updates - before == 7


def test_a_batch_sees_its_own_metrics_and_an_epoch_their_means(engine):
    batches = []
    spy = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(logs["loss"]))
    train(engine, 40, callbacks=[spy])
    assert len(set(batches)) == 4
    assert engine.agent.history.history["loss"][-1] == pytest.approx(np.mean(batches), rel=1e-6)


def test_the_history_goes_on_where_training_does(engine):
    history = engine.agent.history
    epochs = len(history.epoch)
    train(engine, 40)
    train(engine, 40)
    assert history.epoch == list(range(epochs + 2))
    assert {len(values) for values in history.history.values()} == {epochs + 2}


def test_the_best_mean_of_100_is_kept_and_stop_return_ends_training_when_the_mean_reaches_it():
    engine = make_engine()
    train(engine, 10_000, stop_return=21.0)
    log, history = engine.agent.episodes, engine.agent.history.history
    assert len(log) >= 100
    assert log.mean_return() >= 21.0
    assert engine.agent.steps < 10_000
    best = [value for value in history["best_return"] if not np.isnan(value)]
    assert best == sorted(best)
    assert best[-1] == log.best_return >= history["episode_return"][-1]


def test_figures_of_after_the_epoch_are_in_its_log():
    engine = make_engine()
    figures = itertools.count(5)
    train(engine, 80, after_epoch=lambda: {"eval_return": float(next(figures))})
    assert engine.agent.history.history["eval_return"] == [5.0, 6.0]


def test_a_callback_ends_training_through_the_model_and_the_next_training_runs_again(engine):
    class StopAtSecondEpoch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epochs = getattr(self, "epochs", 0) + 1

        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = self.epochs == 2

    start = engine.agent.steps
    train(engine, 400, callbacks=[StopAtSecondEpoch()])
    assert engine.agent.steps == start + 80
    train(engine, 40)
    assert engine.agent.steps == start + 120


def test_a_callback_may_end_training_as_an_epoch_begins(engine):
    stop = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(engine.agent.model, "stop_training", True)
    )
    steps, epochs = engine.agent.steps, list(engine.agent.history.epoch)
    train(engine, 100, callbacks=[stop])
    assert (engine.agent.steps, engine.agent.history.epoch) == (steps, epochs)


@pytest.mark.parametrize("value", [np.array([1, 2]), "a text", None])
def test_what_a_callback_logs_must_be_a_number(engine, value):
    def log(epoch, logs):
        logs["note"] = value

    with pytest.raises(ValueError, match="callbacks may log numbers, which a history can keep: 'note' is"):
        train(engine, 10, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=log)])


def test_a_budget_that_is_used_up_already_trains_nothing(engine):
    before, weights = engine.agent.steps, engine.agent.model.get_weights()
    loop.train(engine.agent, engine, steps=before, updates_per_epoch=4)
    assert engine.agent.steps == before
    for expected, weight in zip(weights, engine.agent.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_an_episode_is_logged_at_the_step_at_which_it_ended():
    engine = make_engine(num_envs=1)
    train(engine, 200)
    log = engine.agent.episodes
    assert len(log) > 2
    assert log.step == np.cumsum(log.episode_length).tolist()
    assert log.episode_return == log.episode_length  # CartPole pays 1 a step


def test_side_by_side_the_steps_of_all_environments_count():
    engine = make_engine()
    train(engine, 400)
    log, going_on = engine.agent.episodes, engine.carry.episode_length.numpy()
    assert len(log) > 4
    assert log.step == sorted(log.step)
    assert engine.agent.steps - sum(log.episode_length) == sum(going_on)
    rounds = np.array(log.step) / 2
    began = [*(rounds - log.episode_length), *(engine.agent.steps / 2 - going_on)]
    assert sorted(began) == sorted([0, 0, *rounds])  # every other one where one before it ended


def test_of_whole_episodes_only_the_steps_that_were_played_count():
    """The time limit has 500 rows; who has ended waits for the longest and takes no steps."""
    engine = make_engine(num_envs=3, algorithm=Reinforce())
    loop.train(engine.agent, engine, steps=1, updates_per_epoch=1)
    log = engine.agent.episodes
    assert engine.agent.steps == sum(log.episode_length) < 500
    expected = [sum(min(row, length) for length in log.episode_length) for row in log.episode_length]
    assert log.step == expected


def test_a_step_that_only_resets_is_no_step_of_the_budget():
    vector = gymnasium.make_vec("CartPole-v1", num_envs=2)  # NEXT_STEP: an episode's end costs a step
    environment = VectorAdapter(vector)
    model = actor_critic(environment.observation_space, environment.action_space, trunk=mlp_trunk((8,)))
    optimizer = keras.optimizers.Adam(0.0)
    agent = Agent(A2C(rollout_length=5), model, optimizer, environment.observation_space, environment.action_space)
    engine = OnPolicyEngine(agent, environment, clip_reward=False, jit_compile=False)
    loop.train(agent, engine, steps=400, updates_per_epoch=10)
    resets = agent.updates * 10 - agent.steps
    assert 0 < resets <= len(agent.episodes)
    assert 400 <= agent.steps < 410


class SometimesMore(keras.callbacks.Callback):
    """Logs a figure of its own in every second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch % 2:
            logs["more"] = float(epoch)


def test_every_column_has_an_entry_for_every_epoch():
    """NaN where a callback logged nothing, or had not begun to; also when an agent is trained further."""
    settings = {"steps": 40, "num_envs": 2, "steps_per_epoch": 10, "jit_compile": False, "verbose": 0}
    agent = krl.fit_agent("CartPole-v1", krl.A2C(rollout_length=5), callbacks=[SometimesMore()], **settings)
    history = agent.history.history
    np.testing.assert_array_equal(history["more"], [np.nan, 1.0, np.nan, 3.0])
    krl.fit_agent("CartPole-v1", agent, eval_episodes=1, **settings)
    assert {len(values) for values in history.values()} == {8}
    np.testing.assert_array_equal(history["more"], [np.nan, 1.0, np.nan, 3.0, *[np.nan] * 4])
    assert np.isnan(history["eval_return"]).tolist() == [True] * 4 + [False] * 4


@dataclasses.dataclass(frozen=True)
class Returning:
    """Learns nothing, and returns what it was made with."""

    metrics: dict
    other: object = None
    rollout_length = 5

    def update(self, learner, rollout, seed):
        return {name: tf.constant(value) for name, value in self.metrics.items()}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"steps": 1.0}, "update returned a metric of a name that training uses itself: steps"),
        ({f"metric_{i}": 0.0 for i in range(30)}, "an update has room for 24 metrics, got 3[01]: "),
        ({"rows": [1.0, 2.0]}, "metric 'rows' must be a scalar, got "),
    ],
    ids=["a name of ours", "too many", "no scalar"],
)
def test_metrics_that_cannot_be_logged_are_named(metrics, message):
    with pytest.raises(ValueError, match=message):
        krl.fit_agent("CartPole-v1", Returning(metrics), steps=10, num_envs=2, jit_compile=False, verbose=0)


def test_a_setting_that_json_does_not_hold_is_refused_where_it_would_be_saved(tmp_path):
    algorithm = Returning({"figure": 1.0}, other={1, 2})
    settings = {"steps": 10, "num_envs": 2, "jit_compile": False, "verbose": 0}
    with pytest.raises(TypeError, match=r"Returning\(other=\{1, 2\}\) cannot be saved: JSON does not hold it"):
        krl.fit_agent("CartPole-v1", algorithm, checkpoint=tmp_path / "agent", **settings)
    assert list(tmp_path.iterdir()) == []
    assert krl.fit_agent("CartPole-v1", algorithm, **settings).steps == 10
