"""A Q-learning agent from `fit_agent` on: every variant, every door, every mistake."""

import csv

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from keras.optimizers.schedules import PolynomialDecay

import kerasrl_pg as krl
from kerasrl_pg.algorithms import DQN, NFQ, Prioritized
from kerasrl_pg.models import actor_critic, dueling_q_network, mlp_trunk, q_network
from tests.learning.tasks import Corridor, GymnasiumSalary, Salary, true_values
from tests.training_aids import FirstWeights, replicas

CARTPOLE = gymnasium.spec("CartPole-v1").make().unwrapped
SPACES = CARTPOLE.observation_space, CARTPOLE.action_space

SMALL = DQN(rollout_length=5, batch_size=8, learning_starts=20, replay_size=200, target_every=3, epsilon=0.5)
"""With two environments an update is 10 steps, and the third is the first to learn."""


def small(**settings):
    return DQN(**{**vars(SMALL), **settings})


def fit(algorithm=SMALL, *, env="CartPole-v1", **arguments):
    """Interpreted: XLA's compilation would take most of the time."""
    settings = {"steps": 60, "num_envs": 2, "steps_per_epoch": 20, "jit_compile": False, "verbose": 0}
    return krl.fit_agent(env, algorithm, **{**settings, **arguments})


# Variants


def own_trunk():
    return keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.1)])


def own_model():
    inputs = keras.Input((4,))
    return keras.Model(inputs, {"action_values": keras.layers.Dense(2)(keras.layers.Dense(8, "relu")(inputs))})


class OwnSubclass(keras.Model):
    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units, self.hidden, self.head = units, keras.layers.Dense(units, "relu"), keras.layers.Dense(2)

    def call(self, observation, training=False):
        return {"action_values": self.head(self.hidden(observation))}

    def get_config(self):
        return {**super().get_config(), "units": self.units}


VARIANTS = {
    "dqn": (SMALL, None),
    "double": (small(double=True), None),
    "prioritized": (small(sampler=Prioritized()), None),
    "n-step": (small(n_step=3), None),
    "no target network": (small(target_every=None), None),
    "all at once": (small(double=True, sampler=Prioritized(), n_step=3, gradient_steps=2, max_gradient_norm=1.0), None),
    "dueling by the mean": (SMALL, lambda: dueling_q_network(*SPACES)),
    "dueling by the maximum": (SMALL, lambda: dueling_q_network(*SPACES, baseline="max")),
    "own trunk": (SMALL, own_trunk),
    "own model": (SMALL, own_model),
    "own subclass": (SMALL, lambda: OwnSubclass(9)),
    "nfq": (NFQ(rollout_length=5, gradient_steps=3, learning_starts=20, replay_size=200), None),
}


CONTAINED = {"dqn", "double", "prioritized", "n-step", "dueling by the maximum"}
"""Variants of which the others run every part: "all at once", and dueling by the mean."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in CONTAINED else name for name in VARIANTS]
)
def test_every_variant_moves_all_its_weights_acts_and_is_evaluated(name):
    algorithm, build = VARIANTS[name]
    first = FirstWeights()
    agent = fit(algorithm, model=None if build is None else build(), in_graph=False, callbacks=[first])
    assert agent.optimizer.iterations >= 4 * algorithm.gradient_steps  # more where some steps only reset
    assert np.isfinite(agent.history.history["loss"][1:]).all()
    for before, variable in zip(first.weights, agent.model.trainable_variables, strict=True):
        assert np.isfinite(variable).all(), variable.path
        assert (variable.numpy() != before).any(), variable.path
    result = agent.evaluate(episodes=2, seed=1)
    assert result.returns.tolist() == result.lengths.tolist()  # CartPole pays 1 a step
    assert agent.act(np.zeros((7, 4))).shape == (7,)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_in_the_graph(name, jit_compile):
    algorithm, build = VARIANTS[name]
    agent = fit(algorithm, model=None if build is None else build(), jit_compile=jit_compile)
    assert agent.optimizer.iterations == 4 * algorithm.gradient_steps
    assert np.isfinite(agent.history.history["loss"][1:]).all()


def test_a_whole_model_is_used_as_it_is_and_a_trunk_gets_a_head():
    model, trunk = own_model(), own_trunk()
    assert fit(model=model, in_graph=False, steps=10).model is model
    with_head = fit(model=trunk, in_graph=False, steps=10).model
    assert trunk in with_head.layers
    assert with_head(np.zeros((3, 4), np.float32))["action_values"].shape == (3, 2)


# What a training tells


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One training in the graph with the callbacks that users have, its first epoch without any learning."""
    directory = tmp_path_factory.mktemp("callbacks")
    agent = fit(
        callbacks=[
            keras.callbacks.CSVLogger(directory / "log.csv"),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.EarlyStopping("episode_return", mode="max", patience=50),
            keras.callbacks.ModelCheckpoint(directory / "best.keras", "td_error", mode="min", save_best_only=True),
            keras.callbacks.TensorBoard(directory / "events"),
        ],
        eval_episodes=1,
        model=mlp_trunk((8,), seed=1),
    )
    return agent, directory


def test_both_kinds_of_environment_log_the_same_names_but_for_the_time_it_takes_to_store(trained):
    in_graph, outside = trained[0].history.history.keys(), fit(in_graph=False, eval_episodes=1).history.history.keys()
    assert outside - in_graph == {"copying_share", "storing_share"}
    assert in_graph - outside == set()


def test_keras_callbacks_bear_an_epoch_without_learning(trained):
    agent, directory = trained
    history = agent.history.history
    assert agent.steps == 60
    assert np.isnan(history["loss"]).tolist() == [True, False, False]
    with open(directory / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name, values in history.items():
        assert [float(row[name]) for row in rows] == pytest.approx(values, nan_ok=True)
    assert list((directory / "events" / "train").glob("events.*"))


def test_the_best_models_file_is_a_network_that_keras_reads(trained):
    agent, directory = trained
    model = keras.saving.load_model(directory / "best.keras")
    assert model(np.zeros((5, 4), np.float32))["action_values"].shape == (5, 2)
    assert type(model.optimizer) is type(agent.optimizer)


@pytest.mark.slow
def test_many_seeds_are_the_trainings_of_each_seed():
    runs = krl.fit_seeds(
        "CartPole-v1", small(sampler=Prioritized()), seeds=(3, 4), steps=60, num_envs=2, steps_per_epoch=20,
        model=q_network, jit_compile=False, verbose=0,
    )  # fmt: skip
    alone = fit(small(sampler=Prioritized()), seed=4)
    for weight, expected in zip(runs.runs[1].weights, alone.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert runs.runs[1].episodes.episode_return == alone.episodes.episode_return
    np.testing.assert_array_equal(runs.runs[1].history["loss"], alone.history.history["loss"])


# Acting


def test_the_best_action_is_taken_or_drawn_with_the_exploration_rate_that_training_ended_with():
    agent = fit(small(epsilon=PolynomialDecay(1.0, 10, 0.4)), in_graph=False)
    observations = np.random.default_rng(0).uniform(-1, 1, (4000, 4)).astype(np.float32)
    best = agent.policy.action_values(observations).numpy().argmax(axis=1)
    np.testing.assert_array_equal(agent.act(observations), best)
    drawn = agent.act(observations, sample=True, seed=3)
    np.testing.assert_array_equal(agent.act(observations, sample=True, seed=3), drawn)
    assert np.mean(drawn == best) == pytest.approx(0.6 + 0.4 / 2, abs=0.03)


def test_action_values_are_the_networks_for_one_observation_and_for_a_batch(trained):
    agent, _ = trained
    observations = np.random.default_rng(1).uniform(-1, 1, (7, 4)).astype(np.float32)
    values = agent.action_values(observations)
    np.testing.assert_allclose(values, agent.model(observations)["action_values"], rtol=1e-6)
    assert values.argmax(axis=1).tolist() == agent.act(observations).tolist()
    np.testing.assert_allclose(agent.action_values(observations[2]), values[2], rtol=1e-6)


def test_who_learns_a_policy_is_not_asked_for_action_values():
    agent = krl.Agent(krl.A2C(), actor_critic(*SPACES), keras.optimizers.Adam(), *SPACES)
    with pytest.raises(ValueError, match="A2C learns no action values"):
        agent.action_values(np.zeros(4))


def test_a_film_is_made_of_an_agent_of_action_values(tmp_path):
    path = krl.record_video(fit(in_graph=False, steps=10), tmp_path / "film.gif")
    assert path.stat().st_size > 0


def test_a_trained_agent_is_exported_with_its_settings(trained, tmp_path):
    agent, _ = trained
    loaded = krl.load_policy(agent.export(tmp_path / "policy"))
    assert loaded.metadata["algorithm"]["name"] == "DQN"
    assert loaded.metadata["algorithm"]["settings"]["target_every"] == 3
    observations = np.random.default_rng(1).uniform(-1, 1, (50, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.act(observations), agent.act(observations))


# Time limits and exact values

TABLE = keras.optimizers.Adam(PolynomialDecay(0.1, 1_500, 0.0))


def learn_table(env, algorithm, steps=6_000):
    """One-hot states and no hidden layer: a table of action values, learned from what random play shows."""
    identity = keras.Sequential([keras.layers.Identity()])
    return krl.fit_agent(env, algorithm, steps=steps, model=identity, optimizer=TABLE, jit_compile=False, verbose=0)


def exploring(algorithm=DQN, **settings):
    """16 environments make an update of 64 steps, and 94 updates of 16 gradient steps in all."""
    common = {"rollout_length": 4, "gradient_steps": 16, "batch_size": 64, "discount": 0.9, "epsilon": 1.0}
    return algorithm(**{**common, "learning_starts": 64, "replay_size": 4_000, **settings})


def values_of(agent, states):
    return agent.policy.action_values(tf.range(states)).numpy()


@pytest.mark.parametrize("terminates", [True, False], ids=["terminated", "truncated"])
def test_a_time_limit_is_not_the_end_of_the_task(terminates):
    """Of a salary of 1 a step, cut after ten, 1 / (1 - γ) = 10 is to be had at every step, and not a bit less."""
    agent = learn_table(Salary(terminates), exploring(target_every=16, n_step=3))
    wanted = true_values(terminates, discount=0.9)
    np.testing.assert_allclose(values_of(agent, 10), np.stack([wanted, wanted], axis=1), rtol=0.01)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_nor_is_it_in_gymnasium_whichever_way_it_resets(mode):
    env = SyncVectorEnv([lambda: GymnasiumSalary(terminates=False)] * 16, autoreset_mode=mode)
    agent = learn_table(env, exploring(NFQ, gradient_steps=16))
    np.testing.assert_allclose(values_of(agent, 10), 10.0, rtol=0.01)


def best_of_corridor(discount=0.9) -> np.ndarray:
    """[6, 2] by hand: the reward is 1 on leaving the last place; who goes left has to come back."""
    to_go = Corridor.length - 1 - np.arange(Corridor.length)
    right = discount**to_go
    left = discount * right[np.maximum(np.arange(Corridor.length) - 1, 0)]
    return np.stack([left, right], axis=1)


@pytest.mark.parametrize(
    "algorithm",
    [
        exploring(target_every=16, sampler=Prioritized(importance_exponent=0.5), double=True),
        pytest.param(exploring(NFQ), marks=pytest.mark.slow),
    ],
    ids=["double, prioritized", "nfq"],
)
def test_the_optimal_action_values_are_found_exactly(algorithm):
    """Some episodes reach the end and terminate, others are cut after 40 steps somewhere in between."""
    agent = learn_table(Corridor(), algorithm)
    np.testing.assert_allclose(values_of(agent, Corridor.length), best_of_corridor(), atol=5e-3)
    assert set(agent.episodes.episode_return) == {0.0, 1.0}
    assert agent.evaluate(episodes=4).lengths.tolist() == [Corridor.length] * 4


# Replicas


MEDIAN = 0.9
"""Of the gradient's norm: as its bound it clips some updates and leaves others alone."""


def distributed(count, in_graph, algorithm):
    """By plain gradient descent, for Adam would hide a gradient of twice the size."""
    return krl.fit_agent(
        "CartPole-v1", algorithm, steps=20 * 20, num_envs=4, model=mlp_trunk((16,), seed=1), seed=2,
        optimizer=keras.optimizers.SGD(0.01), strategy=replicas(count), in_graph=in_graph, jit_compile=False,
        verbose=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("in_graph", "counts"),
    [
        (False, (2,)),
        pytest.param(True, (1, 2, 4), marks=pytest.mark.slow),
        pytest.param(False, (1, 4), marks=pytest.mark.slow),
    ],
)
def test_replicas_do_not_change_what_is_learned(in_graph, counts):
    """Priorities, importance weights, clipping and copies to the target network included."""
    algorithm = small(sampler=Prioritized(), double=True, n_step=2, max_gradient_norm=MEDIAN, gradient_steps=2)
    alone = distributed(0, in_graph, algorithm)
    assert alone.updates >= 20  # more where some steps only reset
    norms = alone.history.history["gradient_norm"]
    assert np.nanmin(norms) < MEDIAN < np.nanmax(norms)
    for count in counts:
        other = distributed(count, in_graph, algorithm)
        for name in ("loss", "td_error", "gradient_norm"):
            np.testing.assert_allclose(other.history.history[name], alone.history.history[name], rtol=1e-4)
        assert other.episodes.episode_return == alone.episodes.episode_return
        for one, same in (
            (alone.model, other.model), (alone.q_learner.target.model, other.q_learner.target.model),
        ):  # fmt: skip
            for weight, expected in zip(same.get_weights(), one.get_weights(), strict=True):
                np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-5)


def test_a_batch_that_replicas_cannot_share_is_refused():
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 2 replicas of a process, got 9"):
        fit(small(batch_size=9), strategy=replicas(2), in_graph=False)


# Mistakes


def outputs_of(make):
    inputs = keras.Input((4,))
    return keras.Model(inputs, make(keras.layers.Dense(8)(inputs)), name="mine")


MISTAKES = {
    "continuous actions": (
        lambda **more: fit("dqn", env="Pendulum-v1", **more),
        TypeError, r"action values are for Discrete action spaces, got Box\(.*policy gradients take others",
    ),
    "a policy's outputs": (
        lambda **more: fit(model=outputs_of(lambda x: {"policy": keras.layers.Dense(2)(x)}), **more),
        ValueError, r'output must be {"action_values": \[B, 2\]}; \'mine\' returns shapes',
    ),
    "too many action values": (
        lambda **more: fit(model=outputs_of(lambda x: {"action_values": keras.layers.Dense(3)(x)}), **more),
        ValueError, r"\[B, 2\]}; 'mine' returns shapes \{'action_values': \(2, 3\)\}",
    ),
    "action values for PPO": (
        lambda **more: fit(krl.PPO(rollout_length=4), model=own_model(), **more),
        ValueError, r'outputs must be {"policy": \[B, 2\]',
    ),
    "a model that cannot be copied": (
        lambda **more: fit(model=Uncopyable(9), **more),
        ValueError, r"the target network is a copy of the model, and '.*' cannot be copied: let its __init__",
    ),
    "a replay smaller than an environment needs": (
        lambda **more: fit(small(replay_size=8, batch_size=8, n_step=5), **more),
        ValueError, r"a capacity of 8 is 4 observations for each of 2 environments; n_step=5 needs",
    ),
    "a replay larger than the machine": (
        lambda **more: fit(small(replay_size=10**12), **more),
        MemoryError, r"a replay of 1,000,000,000,000 places takes",
    ),
    "an unknown name": (
        lambda **more: fit("dpn", **more),
        ValueError, r"unknown algorithm 'dpn'; did you mean dqn",
    ),
}  # fmt: skip


class Uncopyable(keras.Model):
    """Without a config, Keras would copy it with other units."""

    def __init__(self, units=8):
        super().__init__()
        self.hidden, self.head = keras.layers.Dense(units), keras.layers.Dense(2)

    def call(self, observation, training=False):
        return {"action_values": self.head(self.hidden(observation))}


IN_GRAPH = [(name, True) for name in MISTAKES]
OUTSIDE = [(name, False) for name in MISTAKES if "replay" in name]  # each kind of environment has a replay of its own


@pytest.mark.parametrize(("name", "in_graph"), IN_GRAPH + OUTSIDE)
def test_a_mistake_is_one_clear_error_and_nothing_is_written(name, in_graph, tmp_path):
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        call(checkpoint=tmp_path / "agent", in_graph=in_graph)
    assert list(tmp_path.iterdir()) == []


def test_another_algorithms_checkpoint_is_refused(tmp_path):
    fit(krl.A2C(rollout_length=5), steps=10, checkpoint=tmp_path / "agent", in_graph=False)
    with pytest.raises(ValueError, match=r"checkpoint .* holds an agent of A2C, not of 'dqn'"):
        fit("dqn", checkpoint=tmp_path / "agent")
