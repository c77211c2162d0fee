"""Off-policy updates in both kinds of environment: what is stored, when learning starts, what a report says."""

import contextlib
import dataclasses
import functools
import gc
import types
import weakref

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from keras.optimizers.schedules import PiecewiseConstantDecay, PolynomialDecay

import kerasrl_pg as krl
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


def drawn(engine):
    """So many transitions that each is among them."""
    if isinstance(engine, OffPolicyEngine):
        return engine._replay.sample(8_000, np.random.default_rng(0))
    batch = engine.program._replay.sample(engine.carry.replay, 8_000, tf.constant([0, 1]))
    return tf.nest.map_structure(np.array, batch)


def stored(engine):
    """Every transition that can be drawn, once: rows of observation, action, reward, discount, next observation."""
    columns = [np.reshape(x, [8_000, -1]) for x in drawn(engine)[:5]]
    return np.unique(np.concatenate(columns, axis=1), axis=0)


# What is stored


@functools.cache
def stored_in_the_graph(n_step):
    engine = graph_engine(greedily(n_step), environment=CounterGraph(), updates_per_call=1)
    run(engine, 1)
    return stored(engine)


def greedily(n_step):
    settings = {"rollout_length": 12, "epsilon": 0.0, "learning_starts": 1000, "n_step": n_step, "discount": 0.5}
    return dataclasses.replace(SMALL, **settings)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_both_engines_store_the_same_transitions_whichever_way_an_environment_resets(mode, n_step):
    """One environment without chance, written twice, and greedy actions: every ending is among its episodes."""
    engine = vector_engine(greedily(n_step), environment=counters(mode))
    for _ in range(2):  # a step that only resets costs NEXT_STEP environments a round
        run(engine)
    in_graph = stored_in_the_graph(n_step)
    assert len(in_graph) > 6
    assert {0.0, 0.5**n_step} <= set(in_graph[:, 5].tolist())
    np.testing.assert_array_equal(stored(engine), in_graph)


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


# A training from its beginning, as the loop runs it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traced(DQN):
    """DQN that counts how often its update is traced."""

    traces = []  # noqa: RUF012

    def update(self, learner, transitions):
        self.traces.append(1)
        return super().update(learner, transitions)


EPSILON = PolynomialDecay(1.0, 300, 0.4)


@pytest.fixture(scope="module", params=ENGINES)
def training(request):
    """610 steps of 10 an update, four updates an epoch, with what callbacks saw."""
    Traced.traces.clear()
    engine = ENGINES[request.param](Traced(**{**vars(SMALL), "epsilon": EPSILON}))
    batches, weights = [], [engine.agent.model.get_weights()]
    spies = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batches.append(dict(logs)),
        on_epoch_end=lambda epoch, logs: weights.append(engine.agent.model.get_weights()),
    )
    train(engine.agent, engine, steps=601, updates_per_epoch=3, callbacks=[spies])
    return types.SimpleNamespace(engine=engine, agent=engine.agent, batches=batches, weights=weights)


def test_learning_starts_with_the_update_before_which_there_are_enough_steps(training):
    """25 steps are enough: those of three updates."""
    assert ["loss" in logs for logs in training.batches] == [False] * 3 + [True] * 58
    assert training.agent.optimizer.iterations == 58
    for before, after in zip(*training.weights[:2], strict=True):
        np.testing.assert_array_equal(after, before)
    assert any((after != before).any() for before, after in zip(*training.weights[1:3], strict=True))


def test_epsilon_follows_its_schedule_in_environment_steps(training):
    told = [logs["epsilon"] for logs in training.batches[3:]]
    assert told == pytest.approx([float(EPSILON(10 * update)) for update in range(3, 61)])


def test_figures_are_nan_only_in_epochs_before_learning(training):
    history = training.agent.history.history
    of_learning = {"loss", "td_error", "action_value", "gradient_norm", "epsilon", "learning_rate"}
    assert of_learning <= history.keys()
    for name in of_learning:
        assert np.isnan(history[name]).tolist() == [True] + [False] * 20, name
    assert np.isfinite(history["steps_per_second"]).all()


def test_every_step_belongs_to_one_episode(training):
    log, engine = training.agent.episodes, training.engine
    outside = isinstance(engine, OffPolicyEngine)
    going_on = engine._counter.episode_length if outside else engine.carry.environment.episode_length
    assert training.agent.history.history["steps"] == [*range(30, 601, 30), 610]
    assert training.agent.steps == sum(log.episode_length) + np.sum(going_on) == 610
    assert log.episode_return == log.episode_length  # CartPole pays 1 a step
    assert len(log) > 10


def test_the_time_of_an_epoch_is_told_by_what_it_was_spent_on(training):
    outside = {"copying_share", "storing_share"} if isinstance(training.engine, OffPolicyEngine) else set()
    shares = {name for name in training.agent.history.history if name.endswith("_share")}
    assert shares == {"environment_share", "acting_share", "learning_share"} | outside
    told = np.array([training.agent.history.history[name] for name in shares])
    assert np.all(told >= 0)
    assert np.all(told.sum(axis=0) < 1.001)


@both
def test_learning_takes_the_greater_part_where_each_step_is_followed_by_twenty_gradient_steps(engine_of):
    engine = engine_of(dataclasses.replace(SMALL, learning_starts=10, gradient_steps=200))
    run(engine)
    seconds = run(engine, 3).seconds
    assert seconds["learning"] > 0.5 * sum(seconds.values())


def test_a_training_traces_its_update_once(training):
    """The updates that only collect and a last shorter epoch included."""
    assert len(Traced.traces) == 1


@pytest.mark.slow
@both
def test_a_training_that_is_compiled_by_xla_traces_its_update_once_as_well(engine_of):
    Traced.traces.clear()
    engine = engine_of(Traced(**vars(SMALL)), jit_compile=True)
    train(engine.agent, engine, steps=91, updates_per_epoch=4)
    assert engine.agent.optimizer.iterations == 7
    assert len(Traced.traces) == 1


def test_a_step_that_only_resets_is_no_step_of_the_budget():
    engine = vector_engine(environment=gymnasium.make_vec("CartPole-v1", num_envs=2))
    assert engine.environment.autoreset_mode == AutoresetMode.NEXT_STEP
    train(engine.agent, engine, steps=400, updates_per_epoch=10)
    agent = engine.agent
    assert agent.steps == sum(agent.episodes.episode_length) + engine._counter.episode_length.sum()
    assert 0 < agent.updates * 10 - agent.steps <= len(agent.episodes)
    assert 400 <= agent.steps < 410


@pytest.mark.parametrize(("learning_starts", "updates"), [(8, 1), (20, 2), (21, 3)])
def test_a_start_of_learning_within_an_update_waits_for_its_end(learning_starts, updates):
    environment = CartPole(2)
    agent = make_agent(environment, dataclasses.replace(SMALL, learning_starts=learning_starts))
    assert OffPolicyProgram(agent, environment).updates_before_learning == updates
    engine = vector_engine(agent.algorithm)
    assert [run(engine).learning for _ in range(4)].index(True) == updates


@both
def test_learning_waits_for_as_many_transitions_as_a_batch_has(engine_of):
    # After k steps of two environments there are 2 (k - 2) transitions of three steps, while no episode ends.
    algorithm = DQN(rollout_length=1, n_step=3, batch_size=8, learning_starts=8, replay_size=400, epsilon=0.0)
    engine = engine_of(algorithm, updates_per_call=1) if engine_of is graph_engine else engine_of(algorithm)
    assert [run(engine).learning for _ in range(8)].index(True) == 5


@both
def test_a_replay_that_can_never_hold_a_batch_is_refused(engine_of):
    algorithm = DQN(rollout_length=1, n_step=5, batch_size=16, learning_starts=16, replay_size=20)
    with pytest.raises(ValueError, match=r"replay_size=20 keeps at most 1[02] transitions .* fewer than a batch of 16"):
        engine_of(algorithm)


def test_several_workers_must_wait_until_each_has_a_batch_for_sure():
    environment = VectorAdapter(SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2))
    for learning_starts, enough in ((39, False), (40, True)):
        agent = make_agent(environment, dataclasses.replace(SMALL, learning_starts=learning_starts))
        agent.learner.num_workers = 2
        with contextlib.nullcontext() if enough else pytest.raises(ValueError, match="at least 40 with 2 workers"):
            OffPolicyEngine(agent, environment, False, None, False)


def test_calls_of_many_updates_stop_where_learning_starts_and_are_those_of_as_many_calls():
    together, one_by_one = graph_engine(), graph_engine()
    collecting, report = run(together, 4), run(together, 4)
    assert (len(collecting.steps), len(report.steps)) == (3, 4)
    reports = [run(one_by_one, 1) for _ in range(7)]
    for name, values in report.metrics.items():
        np.testing.assert_array_equal(values, np.concatenate([single.metrics[name] for single in reports[3:]]))
    carries = [tf.nest.flatten(engine.carry) for engine in (together, one_by_one)]  # environments, replay and all
    for one, other in zip(*carries, strict=True):
        np.testing.assert_array_equal(one, other)
    for expected, weight in zip(together.agent.model.get_weights(), one_by_one.agent.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


# Exploring and learning at rate 0, where a transition's error is always the same


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spying(DQN):
    """DQN that tells the largest and the mean importance weight of its batches."""

    def loss(self, q, target_q, batch):
        loss, metrics, error = super().loss(q, target_q, batch)
        weights = {"largest_weight": tf.reduce_max(batch.weight), "mean_weight": tf.reduce_mean(batch.weight)}
        return loss, {**metrics, **weights}, error


SAMPLER = Prioritized(exponent=0.5, offset=0.2, importance_exponent=1.0)


@pytest.fixture(scope="module", params=ENGINES)
def frozen(request):
    """Random actions for 200 steps, then greedy ones; 40 batches of 8 an update, more than there are transitions."""
    settings = {"rollout_length": 100, "epsilon": PiecewiseConstantDecay([199], [1.0, 0.0]), "learning_starts": 200}
    algorithm = Spying(**{**vars(SMALL), **settings, "replay_size": 600, "gradient_steps": 40, "sampler": SAMPLER})
    engine = ENGINES[request.param](algorithm, learning_rate=0.0)
    run(engine, 1)
    random = stored(engine)
    largest = []
    for _ in range(2):
        largest.append(priorities_of(engine).max())
        report = run(engine, 1)
        assert report.learning
    rows = stored(engine)
    known = {tuple(row) for row in random.tolist()}
    greedy = np.array([row for row in rows.tolist() if tuple(row) not in known])
    return types.SimpleNamespace(engine=engine, report=report, rows=rows, random=random, greedy=greedy, largest=largest)


def priorities_of(engine):
    """[places], 0 where there is nothing to draw."""
    outside = isinstance(engine, OffPolicyEngine)
    return engine._replay.sampler.priorities if outside else engine.carry.replay.tree[0].numpy()


def values_of(engine, observations):
    return engine.agent.policy.action_values(observations.astype(np.float32)).numpy()


def test_what_is_done_follows_epsilon(frozen):
    assert len(frozen.random) > 190
    assert len(frozen.greedy) > 380
    for rows, share in ((frozen.random, 0.5), (frozen.greedy, 1.0)):
        best = values_of(frozen.engine, rows[:, :4]).argmax(axis=1)
        assert np.mean(rows[:, 4] == best) == pytest.approx(share, abs=0.12 * (share < 1))


def test_an_update_may_draw_more_than_is_there(frozen):
    """Draws are with replacement: NFQ fits a little experience many times."""
    assert len(frozen.random) < 40 * SMALL.batch_size
    assert frozen.engine.agent.optimizer.iterations == 2 * 40
    assert np.isfinite(frozen.report.metrics["loss"]).all()


def test_the_largest_importance_weight_of_every_batch_is_1(frozen):
    np.testing.assert_allclose(frozen.report.metrics["largest_weight"], 1.0, rtol=1e-6)  # the mean over 40 batches
    assert frozen.report.metrics["mean_weight"][0] < 0.99


def test_priorities_are_those_of_the_errors(frozen):
    engine, batch = frozen.engine, drawn(frozen.engine)
    places, first = np.unique(batch.index, return_index=True)
    observation, action, reward, discount, following = (x[first] for x in batch[:5])
    own = np.take_along_axis(values_of(engine, observation), action[:, None].astype(int), axis=1)[:, 0]
    error = reward + discount * values_of(engine, following).max(axis=1) - own
    learned = np.sqrt(np.abs(error) + SAMPLER.offset)
    found = priorities_of(engine)[places]
    as_learned = np.isclose(found, learned, rtol=0, atol=1e-4)
    assert np.mean(as_learned) > 0.4
    # Who was not drawn yet has the largest priority that there was when it came.
    assert frozen.largest[0] == 1.0
    assert np.all(as_learned | np.isin(found, frozen.largest))


@both
def test_the_importance_exponent_follows_its_schedule_in_environment_steps(engine_of):
    sampler = Prioritized(importance_exponent=PiecewiseConstantDecay([50], [0.0, 1.0]))
    engine = engine_of(Spying(**{**vars(SMALL), "sampler": sampler}))
    batches = []
    spy = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(dict(logs)))
    train(engine.agent, engine, steps=100, updates_per_epoch=4, callbacks=[spy])
    after_30, after_40, after_50, *later = [logs["mean_weight"] for logs in batches[3:]]
    assert after_30 == after_40 == after_50 == 1.0
    assert len(later) == 4
    assert max(later) < 0.999


@both
def test_no_transition_of_n_steps_is_learned_before_there_is_one(engine_of):
    """Five rows of one step are needed; until then a replay in the graph would hand out zeros."""
    engine = engine_of(dataclasses.replace(SMALL, rollout_length=1, n_step=5, batch_size=1, learning_starts=1))
    learning = [run(engine, 1).learning for _ in range(6)]
    assert learning.index(True) >= 4


@both
def test_a_diverged_network_is_seen_by_callbacks_and_breaks_nothing(engine_of):
    engine = engine_of(dataclasses.replace(SMALL, sampler=Prioritized(), huber_delta=None), learning_rate=1e30)
    train(engine.agent, engine, steps=400, updates_per_epoch=1, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert engine.agent.steps < 400
    assert not np.isfinite(engine.agent.history.history["loss"][-1])


def test_nfq_copies_its_network_once_an_update():
    """At each update's end the copy is what the network was at its beginning."""
    engine = vector_engine(NFQ(rollout_length=5, gradient_steps=4, learning_starts=10, replay_size=200))
    run(engine)
    for _ in range(3):
        before = engine.agent.model.get_weights()
        run(engine)
        for expected, weight in zip(before, engine.agent.q_learner.target.model.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, expected)


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


def test_an_evaluation_on_the_same_environment_begins_new_episodes_and_what_was_stored_stays():
    engine = vector_engine()
    for _ in range(4):
        run(engine)
    transitions = len(engine._replay)
    engine.environment.reset(seed=9)
    engine.environment.step(np.zeros(2, int))
    report = run(engine)
    assert len(engine._replay) == transitions + 10
    assert report.learning
    assert (engine._counter.episode_length <= 5).all()


def test_after_every_evaluation_on_the_same_environment_other_episodes_begin(monkeypatch):
    environment = gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="sync")
    engine, seeds = vector_engine(environment=environment), []
    reset = engine.environment.reset
    monkeypatch.setattr(engine.environment, "reset", lambda seed: seeds.append(seed) or reset(seed))
    engine.restart()
    for _ in range(2):
        run(engine)
        engine.environment.reset(seed=9)  # as an evaluation does
    run(engine)
    of_training = seeds[::2]  # between them are the evaluations'
    assert len({seed + number for seed in of_training for number in range(3)}) == 9


@both
def test_schedules_go_on_by_steps_with_another_number_of_environments(engine_of):
    """An update is ten steps first, then five."""
    algorithm = dataclasses.replace(SMALL, epsilon=PolynomialDecay(1.0, 100, 0.0), learning_starts=8)
    engine = engine_of(algorithm)
    run(engine)
    run(engine)
    if engine_of is graph_engine:
        again = GraphEngine(engine.agent, OffPolicyProgram(engine.agent, CartPole(1)), 1, False)
    else:
        environment = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")], autoreset_mode=AutoresetMode.SAME_STEP)
        engine.agent.forget_environment()
        again = OffPolicyEngine(engine.agent, VectorAdapter(environment), False, None, False)
    found = []
    for _ in range(4):
        steps = engine.agent.steps
        report = run(again)
        found += [(steps, float(report.metrics["epsilon"][0]))] if report.learning else []
    assert len(found) == 2
    assert [epsilon for _, epsilon in found] == pytest.approx([1 - steps / 100 for steps, _ in found])


@pytest.mark.parametrize("in_graph", [True, False])
def test_a_training_that_stopped_while_its_replay_was_filled_anew_goes_on_filling(in_graph, tmp_path):
    def fit(algorithm, steps, num_envs):
        settings = {"in_graph": in_graph, "jit_compile": False, "verbose": 0, "steps_per_epoch": 5 * num_envs}
        return krl.fit_agent("CartPole-v1", algorithm, steps=steps, num_envs=num_envs, **settings)

    agent = fit(SMALL, 40, 2)
    agent.forget_environment()
    begun_at = agent.steps
    fit(agent, 15, 2)
    history = fit(krl.load_agent(agent.save(tmp_path / "agent")), 40, 2).history.history
    ahead = np.array([0, *history["steps"][:-1]])
    expected = np.where(ahead < begun_at, ahead, ahead - begun_at) >= SMALL.learning_starts
    assert np.isfinite(history["loss"]).tolist() == expected.tolist()
    assert expected[-1]


def test_a_training_that_goes_on_in_one_process_goes_on_with_the_replay_itself():
    engine = vector_engine()
    run(engine, 1)
    again = OffPolicyEngine(engine.agent, engine.environment, False, None, False)
    assert again._replay is engine._replay
    run(again)
    assert len(again._replay) == 20


def test_before_a_replay_is_made_the_old_ones_memory_is_free():
    engine = vector_engine()
    run(engine, 1)
    old = weakref.ref(engine._replay)
    engine.agent.replay = None

    def make_replay():
        gc.collect()
        assert old() is None
        return OffPolicyEngine._make_replay(engine)

    engine._make_replay = make_replay
    engine.restart()
    assert engine.agent.replay is None


def test_a_replay_that_does_not_fit_is_filled_anew_before_learning_goes_on():
    """That of two environments in the graph is of no use to three, nor outside the graph."""
    engine = graph_engine()
    run(engine, 3)
    assert run(engine, 2).learning
    again = GraphEngine(engine.agent, OffPolicyProgram(engine.agent, CartPole(3)), 4, False)
    assert [run(again, 1).learning for _ in range(3)] == [False, False, True]
    environment = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    outside = OffPolicyEngine(engine.agent, VectorAdapter(environment), False, None, False)
    assert [run(outside).learning for _ in range(4)] == [False, False, False, True]
