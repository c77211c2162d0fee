"""Keras' callbacks on a real training, and this package's own."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrl_pg as krl
from kerasrl_pg.training.callbacks import Checkpoint, Progress

FIVE_STEPS = krl.A2C(rollout_length=5)


def fit(steps, *callbacks, env="CartPole-v1", algorithm=FIVE_STEPS, **arguments):
    """Two updates of 10 steps an epoch. Interpreted: XLA's compilation would take most of the time."""
    settings = {"num_envs": 2, "steps_per_epoch": 20, "jit_compile": False, "verbose": 0, "callbacks": callbacks}
    if algorithm is FIVE_STEPS:
        settings["model"] = keras.Sequential([keras.layers.Dense(8)])
    return krl.fit_agent(env, algorithm, steps=steps, **{**settings, **arguments})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One training of three epochs with many callbacks at once, as users have them."""
    directory = tmp_path_factory.mktemp("callbacks")
    rates = []
    counts = {"epochs": 0, "batches": 0, "trainings": 0}

    def count(name):
        def add(*_, **__):
            counts[name] += 1

        return add

    agent = fit(
        60,
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(mine=10 * epoch)),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.01 / (epoch + 1)),
        keras.callbacks.LambdaCallback(
            on_train_begin=count("trainings"), on_epoch_end=count("epochs"), on_train_batch_end=count("batches")
        ),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: rates.append(logs["learning_rate"])),
        keras.callbacks.ModelCheckpoint(directory / "best.keras", monitor="episode_length", mode="max"),
        keras.callbacks.CSVLogger(directory / "log.csv"),
        keras.callbacks.TensorBoard(directory / "events"),
        keras.callbacks.TerminateOnNaN(),
    )
    return agent, directory, counts, rates


def test_what_a_callback_adds_to_the_logs_is_in_the_history(trained):
    agent, *_ = trained
    assert agent.history.history["mine"] == [0, 10, 20]


def test_batches_are_updates_and_epochs_are_entries_of_the_history(trained):
    agent, _, counts, _ = trained
    assert counts == {"epochs": 3, "batches": 6, "trainings": 1}
    assert agent.updates == 6
    assert len(agent.history.history["loss"]) == 3


def test_a_learning_rate_scheduler_is_obeyed_from_its_epoch_on(trained):
    agent, _, _, rates = trained
    np.testing.assert_allclose(rates, [0.01, 0.005, 0.01 / 3], rtol=1e-6)
    assert float(agent.optimizer.learning_rate) == pytest.approx(0.01 / 3)


def test_a_model_checkpoint_is_a_file_that_keras_reads(trained):
    agent, directory, _, _ = trained
    model = keras.saving.load_model(directory / "best.keras")
    observation = np.ones((5, 4), np.float32)
    assert {name: value.shape for name, value in model(observation).items()} == {"policy": (5, 2), "value": (5, 1)}
    assert model.optimizer.iterations > 0
    assert type(model.optimizer) is type(agent.optimizer)


def test_the_csv_logger_writes_the_history(trained):
    agent, directory, _, _ = trained
    with open(directory / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    for name, values in agent.history.history.items():
        assert [float(row[name]) for row in rows] == pytest.approx(values, nan_ok=True)


def test_tensorboard_events_hold_the_epochs(trained):
    agent, directory, _, _ = trained
    [file] = (directory / "events" / "train").glob("events.*")
    found: dict[str, list[float]] = {}
    for record in tf.data.TFRecordDataset(str(file)):
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
            if value.tag.startswith("epoch_"):
                found.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    np.testing.assert_allclose(found["epoch_loss"], agent.history.history["loss"], rtol=1e-6)
    assert {f"epoch_{name}" for name in ("episode_return", "best_return", "entropy", "steps_per_second")} <= set(found)


class KeepBest(keras.callbacks.Callback):
    """The weights at the end of the epoch with the highest return from epoch 5 on."""

    best = -np.inf

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= 5 and logs["episode_return"] > self.best:
            self.best, self.weights = logs["episode_return"], self.model.get_weights()


def test_early_stopping_on_the_return_stops_and_puts_the_best_weights_back():
    keep = KeepBest()
    stop = keras.callbacks.EarlyStopping(
        monitor="episode_return", mode="max", patience=3, start_from_epoch=5, restore_best_weights=True
    )
    # With a learning rate of 10, the policy is soon worse than the first one.
    agent = fit(4000, keep, stop, optimizer=keras.optimizers.SGD(10.0), steps_per_epoch=40)
    assert agent.steps < 4000
    assert stop.stopped_epoch == agent.history.epoch[-1]
    for expected, weight in zip(keep.weights, agent.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_what_is_not_known_before_an_episode_has_ended_is_not_the_best(tmp_path):
    stop = keras.callbacks.EarlyStopping("episode_return", mode="max", patience=3, restore_best_weights=True)
    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "episode_return", mode="max", save_best_only=True)
    # Pendulum's episodes end after 200 steps each: with 2 environments after 400, in the tenth epoch of 40.
    agent = fit(480, stop, best, env="Pendulum-v1", steps_per_epoch=40, optimizer=keras.optimizers.SGD(0.0))
    returns = agent.history.history["episode_return"]
    assert np.isnan(returns).tolist() == [True] * 9 + [False] * 3
    assert stop.best == best.best == returns[9]
    assert (agent.steps, stop.best_epoch) == (480, 9)


def test_a_schedulers_rate_takes_the_place_of_a_presets_schedule():
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    agent = krl.fit_agent(
        "CartPole-v1", "ppo", steps=512, steps_per_epoch=256, callbacks=[scheduler], jit_compile=False, verbose=0
    )
    np.testing.assert_allclose(agent.history.history["learning_rate"], [5e-4, 2.5e-4], rtol=1e-6)


def test_callbacks_are_told_how_many_epochs_there_will_be():
    agent = fit(60, keras.callbacks.ProgbarLogger())
    assert agent.history.params["epochs"] == 3
    fit(40, keras.callbacks.ProgbarLogger(), algorithm=agent)
    assert agent.history.params["epochs"] == 5


def test_reduce_on_plateau_lowers_the_rate_that_the_next_epoch_learns_with():
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="steps", mode="min", factor=0.1, patience=1, min_delta=0)
    agent = fit(60, plateau, optimizer=keras.optimizers.SGD(0.1))  # `steps` only grows: no epoch is better
    np.testing.assert_allclose(agent.history.history["learning_rate"], [0.1, 0.1, 0.01], rtol=1e-6)
    assert float(agent.optimizer.learning_rate) == pytest.approx(0.001)


def test_terminate_on_nan_ends_a_training_that_diverged(capsys):
    agent = fit(10_000, keras.callbacks.TerminateOnNaN(), optimizer=keras.optimizers.Adam(1e30))
    assert agent.steps < 100
    assert not np.isfinite(agent.history.history["loss"][-1])
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all("Invalid loss, terminating training" in line for line in lines)  # Keras' own; verbose=0 adds none


def test_a_stop_at_a_return_ends_training_after_the_first_epoch_that_reaches_the_bar():
    stop = krl.StopAtReturn(monitor="episodes", value=1)
    agent = fit(10_000, stop)
    assert [count > 0 for count in agent.history.history["episodes"]] == [False] * (len(agent.history.epoch) - 1) + [
        True
    ]
    assert stop.stopped_epoch == agent.history.epoch[-1]


def test_the_highest_return_that_there_is_can_be_a_bar():
    stop = krl.StopAtReturn(value=500)
    stop.set_model(keras.Sequential())
    stop.on_epoch_end(3, {"eval_return": 499.9})
    assert stop.stopped_epoch is None
    stop.on_epoch_end(4, {"eval_return": 500.0})
    assert stop.stopped_epoch == 4
    assert stop.model.stop_training


def test_a_stop_at_a_return_that_is_not_measured_is_an_error():
    with pytest.raises(ValueError, match="StopAtReturn: monitor must be one of loss, steps, got 'eval_return'"):
        krl.StopAtReturn(value=180).on_epoch_end(0, {"loss": 1.0, "steps": 20})


@pytest.mark.parametrize("value", ["475", None, True, float("nan")])
def test_the_bar_of_a_stop_at_a_return_is_a_number(value):
    with pytest.raises(ValueError, match="StopAtReturn: value must be a number, got"):
        krl.StopAtReturn(value=value)


def test_verbose_1_is_a_progress_bar_over_environment_steps(capsys):
    agent = fit(41, verbose=1)
    out = capsys.readouterr().out
    assert agent.steps == 50
    assert "20/41" in out.replace("\x1b[1m", "").replace("\x1b[0m", "")
    last = out.strip().splitlines()[-1].split("\r")[-1].replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert "41/41" in last
    assert all(name in last for name in ("episode_return", "best_return", "steps_per_second"))


def test_verbose_2_is_a_line_an_epoch(capsys):
    fit(40, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" - ")[0] for line in lines] == ["step 20/40", "step 40/40"]
    assert "episode_return: " in lines[-1]


def test_a_checkpoint_holds_what_the_last_callback_left(trained, tmp_path):
    agent, *_ = trained
    checkpoint = Checkpoint(agent, tmp_path / "agent")
    checkpoint.on_epoch_end(0)
    assert krl.load_agent(tmp_path / "agent").steps == agent.steps
    bias = agent.model.trainable_variables[-1]
    bias.assign_add([1.0])
    checkpoint.on_train_end()
    restored = krl.load_agent(tmp_path / "agent").model.trainable_variables[-1]
    np.testing.assert_array_equal(restored, bias)
    bias.assign_sub([1.0])
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


def test_progress_shows_nothing_of_a_training_that_had_nothing_to_do(trained, capsys):
    agent, *_ = trained
    progress = Progress(agent, steps=10, verbose=1)
    progress.on_train_begin()
    progress.on_train_end({})
    assert capsys.readouterr().out == ""
