"""Off-policy updates in both kinds of environment: what is stored, when learning starts, what a report says."""

import dataclasses

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from keras.optimizers.schedules import PiecewiseConstantDecay, PolynomialDecay

from kerasrl_pg.agent import Agent
from kerasrl_pg.algorithms import DQN, NFQ, Prioritized
from kerasrl_pg.envs.cartpole import CartPole
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.models import mlp_trunk, q_network
from kerasrl_pg.training.graph_engine import GraphEngine
from kerasrl_pg.training.loop import train
from kerasrl_pg.training.off_policy import OffPolicyEngine, OffPolicyProgram
from tests.contract.counter import CounterGraph, counters

SMALL = DQN(rollout_length=5, batch_size=8, learning_starts=25, replay_size=400, target_every=3, epsilon=0.5)
"""With two environments an update is 10 steps, and the fourth is the first to learn."""

NEXT_STEP = AutoresetMode.NEXT_STEP


def make_agent(environment, algorithm, learning_rate=0.01, seed=0):
    its_spaces = environment.observation_space, environment.action_space
    model = q_network(*its_spaces, trunk=mlp_trunk((8,), seed=1), seed=2)
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(model.trainable_variables)
    return Agent(algorithm, model, optimizer, *its_spaces, seed=seed)


def graph_engine(algorithm=SMALL, *, environment=None, updates_per_call=4, jit_compile=False, **settings):
    environment = environment or CartPole(2)
    agent = make_agent(environment, algorithm, **settings)
    return GraphEngine(agent, OffPolicyProgram(agent, environment), updates_per_call, jit_compile)


def vector_engine(algorithm=SMALL, *, environment=None, clip_reward=False, jit_compile=False, **settings):
    if environment is None:
        makers = [lambda: gymnasium.make("CartPole-v1")] * 2
        environment = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    adapter = VectorAdapter(environment)
    agent = make_agent(adapter, algorithm, **settings)
    return OffPolicyEngine(agent, adapter, clip_reward, None, jit_compile)


ENGINES = {"graph": graph_engine, "gymnasium": vector_engine}
both = pytest.mark.parametrize("engine_of", ENGINES.values(), ids=ENGINES)


def run(engine, updates=1):
    """As the loop does it: the agent counts updates and steps."""
    report = engine.run(updates)
    engine.agent.updates += len(report.steps)
    engine.agent.steps += int(report.steps.sum())
    return report


def stored(engine, draws=4_000):
    """Every transition that can be drawn, once: rows of observation, action, reward, discount, next observation."""
    if isinstance(engine, OffPolicyEngine):
        batch = engine._replay.sample(len(engine._replay), np.random.default_rng(0))
        parts = [engine._replay.sample(len(engine._replay), np.random.default_rng(i)) for i in range(40)]
        batch = tf.nest.map_structure(lambda *rows: np.concatenate(rows), *parts)
    else:
        batch = engine.program._replay.sample(engine.carry.replay, draws, tf.constant([0, 1]))
    columns = [np.reshape(np.array(x), [len(batch.action), -1]) for x in batch[:5]]
    return np.unique(np.concatenate(columns, axis=1), axis=0)


# What is stored


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_both_engines_store_the_same_transitions_whichever_way_an_environment_resets(mode, n_step):
    """One environment without chance, written twice, and greedy actions: every ending is among its episodes."""
    settings = {"rollout_length": 12, "epsilon": 0.0, "learning_starts": 1000, "n_step": n_step, "discount": 0.5}
    greedy = dataclasses.replace(SMALL, **settings)
    graph = graph_engine(greedy, environment=CounterGraph(), updates_per_call=1)
    vector = vector_engine(greedy, environment=counters(mode))
    run(graph, 1)
    for _ in range(2):  # a step that only resets costs NEXT_STEP environments a round
        run(vector, 1)
    in_graph, outside = stored(graph), stored(vector)
    assert len(in_graph) > 6
    assert {0.0, 0.5**n_step} <= set(in_graph[:, 5].tolist())
    np.testing.assert_array_equal(outside, in_graph)


def test_clipped_rewards_are_stored_but_logged_whole():
    class Paying(gymnasium.Env):
        observation_space = spaces.Box(0, 4, (1,))
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self._steps = 0
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self._steps += 1
            return np.full(1, self._steps, np.float32), 7.0, self._steps == 4, False, {}

    environment = SyncVectorEnv([Paying] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    engine = vector_engine(environment=environment, clip_reward=True)
    report = run(engine)
    assert set(stored(engine)[:, 2]) == {1.0}
    assert report.episodes.episode_return[report.episodes.ended].tolist() == [28.0] * 2


def actions_and_values(engine):
    """`(actions [B], action values [B, A])` of everything stored, in the order of time where there is one."""
    rows = stored(engine)
    return rows[:, 4].astype(int), engine.agent.policy.action_values(rows[:, :4].astype(np.float32)).numpy()


@both
def test_epsilon_is_the_share_of_random_actions(engine_of):
    engine = engine_of(dataclasses.replace(SMALL, rollout_length=150, epsilon=0.5, learning_starts=10**6))
    run(engine)
    actions, values = actions_and_values(engine)
    assert np.mean(actions == values.argmax(axis=1)) == pytest.approx(0.75, abs=0.08)  # half of the random ones too


# When and how learning happens


@both
def test_learning_starts_with_the_update_before_which_there_are_enough_steps(engine_of):
    engine = engine_of()
    before = engine.agent.model.get_weights()
    learned = []
    for _ in range(6):
        report = run(engine, 1)
        moved = any((a != b).any() for a, b in zip(engine.agent.model.get_weights(), before, strict=True))
        learned.append((report.learning, moved, int(engine.agent.optimizer.iterations)))
    assert learned == [(False, False, 0)] * 3 + [(True, True, 1), (True, True, 2), (True, True, 3)]
    assert engine.agent.steps == 60


@pytest.mark.parametrize(("learning_starts", "updates"), [(8, 1), (19, 2), (20, 2), (21, 3)])
def test_a_start_of_learning_within_an_update_waits_for_its_end(learning_starts, updates):
    environment = CartPole(2)
    agent = make_agent(environment, dataclasses.replace(SMALL, learning_starts=learning_starts))
    assert OffPolicyProgram(agent, environment).updates_before_learning == updates
    engine = vector_engine(agent.algorithm)
    assert [run(engine).learning for _ in range(4)].index(True) == updates


def test_a_call_of_many_updates_stops_where_learning_starts():
    engine = graph_engine()
    assert [len(run(engine, 4).steps) for _ in range(2)] == [3, 4]


@both
@pytest.mark.parametrize("batch_size", [1, 8])
def test_no_transition_of_n_steps_is_learned_before_there_is_one(engine_of, batch_size):
    """Four rows of five steps are needed; until then a replay in the graph would hand out zeros."""
    algorithm = dataclasses.replace(
        SMALL, rollout_length=1, n_step=5, batch_size=batch_size, learning_starts=batch_size, sampler=Prioritized()
    )
    engine = engine_of(algorithm)
    learning = [run(engine, 1).learning for _ in range(6)]
    assert learning.index(True) >= 4
    assert np.isfinite(engine.agent.model.get_weights()[0]).all()


@both
def test_epsilon_follows_its_schedule_in_environment_steps(engine_of):
    schedule = PolynomialDecay(1.0, 60, 0.4)
    engine = engine_of(dataclasses.replace(SMALL, epsilon=schedule))
    for _ in range(4):
        report = run(engine, 1)
    rates = [*report.metrics["epsilon"], *run(engine, 1).metrics["epsilon"]]  # of the fourth update and the fifth
    assert rates == pytest.approx([float(schedule(30)), float(schedule(40))])


@both
def test_what_is_done_follows_the_schedule_too(engine_of):
    """Random until step 300, greedy from then on. At learning rate 0 what is greedy does not change."""
    until = PiecewiseConstantDecay([299], [1.0, 0.0])
    algorithm = dataclasses.replace(SMALL, rollout_length=150, epsilon=until, replay_size=600, learning_starts=10**6)
    engine = engine_of(algorithm, learning_rate=0.0)
    run(engine, 1)
    first = {tuple(row) for row in stored(engine).tolist()}
    run(engine, 1)
    rows = np.array([row for row in stored(engine).tolist() if tuple(row) not in first])
    values = engine.agent.policy.action_values(rows[:, :4].astype(np.float32)).numpy()
    assert len(rows) > 250
    np.testing.assert_array_equal(rows[:, 4], values.argmax(axis=1))


@both
@pytest.mark.parametrize("sampler", [None, Prioritized()])
def test_an_update_may_take_more_from_the_replay_than_is_in_it(engine_of, sampler):
    """Draws are with replacement: NFQ fits a small batch of experience many times."""
    engine = engine_of(dataclasses.replace(SMALL, gradient_steps=30, learning_starts=8, sampler=sampler))
    run(engine, 1)
    report = run(engine, 1)
    assert report.learning
    assert engine.agent.optimizer.iterations == 30
    assert np.isfinite(report.metrics["loss"]).all()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spying(DQN):
    """DQN that tells the largest and the mean importance weight of its batches."""

    def loss(self, q, target_q, batch):
        loss, metrics, error = super().loss(q, target_q, batch)
        weights = {"largest_weight": tf.reduce_max(batch.weight), "mean_weight": tf.reduce_mean(batch.weight)}
        return loss, {**metrics, **weights}, error


@both
def test_the_largest_importance_weight_of_every_batch_is_1(engine_of):
    sampler = Prioritized(exponent=1.0, offset=0.01, importance_exponent=1.0)
    algorithm = Spying(**{**vars(SMALL), "gradient_steps": 6, "batch_size": 4, "sampler": sampler})
    engine = engine_of(algorithm)
    for _ in range(6):
        report = run(engine, 1)
    np.testing.assert_allclose(report.metrics["largest_weight"], 1.0, rtol=1e-6)  # the mean over six batches
    assert report.metrics["mean_weight"][0] < 0.95


def priorities_of(engine):
    if isinstance(engine, OffPolicyEngine):
        return engine._replay.sampler.priorities.copy()
    return engine.carry.replay.tree[0].numpy()


@both
def test_priorities_are_those_of_the_errors(engine_of):
    """At learning rate 0, and so equal networks, the error of a transition is always the same."""
    sampler = Prioritized(exponent=0.5, offset=0.2)
    algorithm = dataclasses.replace(SMALL, sampler=sampler, batch_size=16, gradient_steps=4)
    engine = engine_of(algorithm, learning_rate=0.0)
    for _ in range(8):
        run(engine, 1)
    rows = stored(engine, draws=20_000)
    q = lambda x: engine.agent.policy.action_values(x.astype(np.float32)).numpy()  # noqa: E731
    own = np.take_along_axis(q(rows[:, :4]), rows[:, 4:5].astype(int), axis=1)[:, 0]
    error = rows[:, 5] + rows[:, 6] * q(rows[:, 7:11]).max(axis=1) - own
    learned = np.sqrt(np.abs(error) + 0.2)
    found = priorities_of(engine)
    found = found[found > 0]
    new = max(1.0, learned.max())  # who was not drawn yet has the largest priority so far
    nearest = np.abs(found[:, None] - np.concatenate([learned, [1.0, new]])).min(axis=1)
    assert nearest.max() < 1e-4
    assert np.mean(np.abs(found[:, None] - learned).min(axis=1) < 1e-4) > 0.5


# Reports and counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traced(DQN):
    """DQN that counts how often its update is traced."""

    traces = []  # noqa: RUF012

    def update(self, learner, transitions):
        self.traces.append(1)
        return super().update(learner, transitions)


@pytest.mark.parametrize("jit_compile", [False, True])
@both
def test_a_training_traces_its_update_once(engine_of, jit_compile):
    """The updates that only collect, an evaluation's worth of epochs and a last shorter epoch included."""
    Traced.traces.clear()
    engine = engine_of(Traced(**vars(SMALL)), jit_compile=jit_compile)
    train(engine.agent, engine, steps=91, updates_per_epoch=4)
    assert engine.agent.history.history["steps"] == [40, 80, 100]
    assert engine.agent.optimizer.iterations == 7
    assert len(Traced.traces) == 1


def test_updates_in_one_call_are_those_of_as_many_calls():
    together, one_by_one = graph_engine(), graph_engine()
    run(together, 4)
    report = run(together, 4)
    reports = [run(one_by_one, 1) for _ in range(7)]
    for name, values in report.metrics.items():
        np.testing.assert_array_equal(values, np.concatenate([single.metrics[name] for single in reports[3:]]))
    for one, other in zip(
        tf.nest.flatten(together.carry), tf.nest.flatten(one_by_one.carry), strict=True
    ):  # environments, replay and all
        np.testing.assert_array_equal(one, other)
    for expected, weight in zip(together.agent.model.get_weights(), one_by_one.agent.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


@both
def test_every_step_belongs_to_one_episode(engine_of):
    engine = engine_of()
    train(engine.agent, engine, steps=600, updates_per_epoch=7)
    log = engine.agent.episodes
    outside = isinstance(engine, OffPolicyEngine)
    going_on = engine._episode_length if outside else engine.carry.environment.episode_length
    assert engine.agent.steps == sum(log.episode_length) + np.sum(going_on) == 600
    assert log.episode_return == log.episode_length  # CartPole pays 1 a step
    assert len(log) > 10


def test_a_step_that_only_resets_is_no_step_of_the_budget():
    engine = vector_engine(environment=gymnasium.make_vec("CartPole-v1", num_envs=2))
    assert engine.environment.autoreset_mode == NEXT_STEP
    train(engine.agent, engine, steps=400, updates_per_epoch=10)
    agent = engine.agent
    assert agent.steps == sum(agent.episodes.episode_length) + engine._episode_length.sum()
    assert 0 < agent.updates * 10 - agent.steps <= len(agent.episodes)
    assert 400 <= agent.steps < 410


@both
def test_figures_are_nan_only_in_epochs_before_learning(engine_of):
    engine = engine_of()
    train(engine.agent, engine, steps=60, updates_per_epoch=2)
    history = engine.agent.history.history
    of_learning = {"loss", "td_error", "action_value", "gradient_norm", "epsilon", "learning_rate"}
    assert of_learning <= history.keys()
    for name in of_learning:
        assert np.isnan(history[name]).tolist() == [True, False, False], name
    assert np.isfinite(history["steps_per_second"]).all()


@both
def test_a_report_says_where_the_time_went(engine_of):
    engine = engine_of()
    for _ in range(4):
        report = run(engine, 1)
    outside = {"storing"} if isinstance(engine, OffPolicyEngine) else set()
    assert set(report.seconds) == {"environment", "acting", "learning"} | outside
    assert min(report.seconds.values()) >= 0
    assert report.seconds["learning"] > 0


# Beginning again


@both
def test_a_restarted_training_is_the_same_again(engine_of):
    engine = engine_of()
    agent = engine.agent
    first_weights, fresh = agent.model.get_weights(), [np.array(variable) for variable in agent.optimizer.variables]
    found = []
    for seed in (0, 1, 0):
        agent.restart(seed, first_weights, fresh)
        engine.restart()
        train(agent, engine, steps=80, updates_per_epoch=4)
        found.append((agent.model.get_weights(), list(agent.episodes.episode_length)))
    for expected, again in zip(found[0][0], found[2][0], strict=True):
        np.testing.assert_array_equal(again, expected)
    assert found[0][1] == found[2][1]
    assert any((one != other).any() for one, other in zip(found[0][0], found[1][0], strict=True))


def test_an_evaluation_on_the_same_environment_begins_new_episodes_and_what_was_learned_stays():
    engine = vector_engine()
    for _ in range(4):
        run(engine)
    transitions = len(engine._replay)
    engine.environment.reset(seed=9)
    engine.environment.step(np.zeros(2, int))
    report = run(engine)
    assert len(engine._replay) == transitions + 10
    assert report.learning
    assert (engine._episode_length <= 5).all()


def test_a_replay_that_does_not_fit_is_filled_anew_before_learning_goes_on():
    """That of two environments is of no use to three."""
    engine = graph_engine()
    for _ in range(5):
        run(engine, 1)
    agent = engine.agent
    again = GraphEngine(agent, OffPolicyProgram(agent, CartPole(3)), 4, False)
    assert [run(again, 1).learning for _ in range(3)] == [False, False, True]


def test_an_agent_that_learned_in_a_graph_fills_a_replay_outside_before_it_learns_on():
    in_graph = graph_engine()
    for _ in range(5):
        run(in_graph, 1)
    environment = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    outside = OffPolicyEngine(in_graph.agent, VectorAdapter(environment), False, None, False)
    assert [run(outside, 1).learning for _ in range(4)] == [False, False, False, True]


def test_a_diverged_network_is_seen_by_callbacks_and_breaks_nothing():
    for engine_of in ENGINES.values():
        for sampler in (None, Prioritized()):
            engine = engine_of(dataclasses.replace(SMALL, sampler=sampler, huber_delta=None), learning_rate=1e30)
            train(engine.agent, engine, steps=400, updates_per_epoch=1, callbacks=[keras.callbacks.TerminateOnNaN()])
            assert engine.agent.steps < 400
            assert not np.isfinite(engine.agent.history.history["loss"][-1])


def test_nfq_copies_its_network_once_an_update():
    """At each update's end the copy is what the network was at its beginning."""
    algorithm = NFQ(rollout_length=5, gradient_steps=4, learning_starts=10, replay_size=200)
    engine = graph_engine(algorithm, updates_per_call=1)
    run(engine, 1)
    for _ in range(3):
        before = engine.agent.model.get_weights()
        run(engine, 1)
        for expected, weight in zip(before, engine.agent.q_learner.target.model.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, expected)
