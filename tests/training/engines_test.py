"""How updates are run: one trace for all of a training, the same result however they are grouped."""

import dataclasses
import functools

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg import ops
from kerasrl_pg.agent import Agent
from kerasrl_pg.algorithms import A2C, Reinforce
from kerasrl_pg.envs.cartpole import CartPole
from kerasrl_pg.envs.make import make_env
from kerasrl_pg.models import actor_critic, mlp_trunk, nature_conv_trunk, small_conv_trunk
from kerasrl_pg.models.actor_critic import layers_of
from kerasrl_pg.models.preprocessing import RunningNormalizer
from kerasrl_pg.training.graph_engine import GraphEngine, uses_xla
from kerasrl_pg.training.loop import train
from kerasrl_pg.training.on_policy import OnPolicyEngine, OnPolicyProgram


def make_agent(observation_space, action_space, algorithm, **options):
    model = actor_critic(observation_space, action_space, trunk=mlp_trunk((8,), seed=1), seed=2, **options)
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    return Agent(algorithm, model, optimizer, observation_space, action_space)


def graph_engine(algorithm=None, *, updates_per_call=4, jit_compile=False, num_envs=2, **options):
    environment = CartPole(num_envs)
    its_spaces = environment.observation_space, environment.action_space
    agent = make_agent(*its_spaces, algorithm or A2C(rollout_length=5), **options)
    return GraphEngine(agent, OnPolicyProgram(agent, environment, jit_compile), updates_per_call, jit_compile)


def vector_engine(env, algorithm=None, *, clip_reward=False, **options):
    environment = make_env(env).make_evaluation(2)
    its_spaces = environment.observation_space, environment.action_space
    agent = make_agent(*its_spaces, algorithm or A2C(rollout_length=5), **options)
    return OnPolicyEngine(agent, environment, clip_reward, jit_compile=False)


def run(engine, updates):
    """As the loop does it: the agent counts the updates."""
    report = engine.run(updates)
    engine.agent.updates += updates
    return report


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_training_traces_its_update_once_the_last_shorter_epoch_included(jit_compile):
    engine = graph_engine(jit_compile=jit_compile)
    train(engine.agent, engine, steps=91, updates_per_epoch=4)
    assert engine.agent.history.history["steps"] == [40, 80, 100]
    assert engine._iterate.experimental_get_tracing_count() == 1


def test_whole_episodes_of_any_length_share_one_trace():
    engine = graph_engine(Reinforce(), updates_per_call=1)
    lengths = [int(run(engine, 1).steps[0]) for _ in range(3)]
    assert len(set(lengths)) > 1
    assert engine._iterate.experimental_get_tracing_count() == 1


def test_updates_in_one_call_are_those_of_as_many_calls():
    together, one_by_one = graph_engine(), graph_engine()
    report = run(together, 4)
    reports = [run(one_by_one, 1) for _ in range(4)]
    for name, values in report.metrics.items():
        np.testing.assert_array_equal(values, np.concatenate([single.metrics[name] for single in reports]))
    for expected, weight in zip(together.agent.model.get_weights(), one_by_one.agent.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_report_has_a_row_for_every_update():
    engine = graph_engine()
    report = run(engine, 3)
    assert report.steps.tolist() == [10, 10, 10]
    assert report.episodes.ended.shape == (3, 5, 2)
    assert {values.shape for values in report.metrics.values()} == {(3,)}


class Counter(gymnasium.Env):
    """Episodes of four steps; each pays `reward`."""

    observation_space = spaces.Box(0, 4, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, reward):
        self._reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self._steps += 1
        return np.full(1, self._steps, np.float32), self._reward, self._steps == 4, False, {}


@pytest.mark.parametrize(
    ("engine_of", "outside"), [(graph_engine, set()), (lambda: vector_engine(lambda: Counter(1.0)), {"copying"})]
)
def test_a_report_says_where_the_time_went(engine_of, outside):
    report = run(engine_of(), 1)
    assert set(report.seconds) == {"environment", "acting", "learning"} | outside
    assert min(report.seconds.values()) >= 0
    assert sum(report.seconds.values()) > 0


def test_clipped_rewards_are_learned_from_but_logged_whole():
    small, large = (vector_engine(lambda pay=pay: Counter(pay), clip_reward=True) for pay in (1.0, 7.0))
    for _ in range(2):
        of_one, of_seven = run(small, 1), run(large, 1)
    np.testing.assert_array_equal(of_one.metrics["loss"], of_seven.metrics["loss"])
    for expected, weight in zip(small.agent.model.get_weights(), large.agent.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert of_one.episodes.episode_return[of_one.episodes.ended].tolist() == [4.0] * 2
    assert of_seven.episodes.episode_return[of_seven.episodes.ended].tolist() == [28.0] * 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting:
    """Learns nothing; tells how many observations are in the statistics that it would learn by."""

    rollout_length = 4

    def update(self, learner, rollout, seed):
        (layer,) = layers_of(learner.policy.model, RunningNormalizer)
        return {"observations": tf.identity(tf.convert_to_tensor(layer.count))}


@pytest.mark.parametrize(
    "engine_of", [graph_engine, functools.partial(vector_engine, "CartPole-v1")], ids=["graph", "gymnasium"]
)
def test_an_update_learns_by_the_statistics_that_its_rollout_was_acted_with(engine_of):
    engine = engine_of(Counting(), normalize_observation=True)
    assert [run(engine, 1).metrics["observations"][0] for _ in range(3)] == [0, 8, 16]


def test_a_state_of_as_many_environments_is_gone_on_from_and_of_another_number_not():
    engine = graph_engine()
    run(engine, 2)
    state = engine.agent.environment_state
    again = GraphEngine(engine.agent, OnPolicyProgram(engine.agent, CartPole(2), False), 4, False)
    np.testing.assert_array_equal(again.carry.observation, engine.carry.observation)
    more = GraphEngine(engine.agent, OnPolicyProgram(engine.agent, CartPole(3), False), 4, False)
    assert more.carry.episode_length.numpy().tolist() == [0, 0, 0]
    assert engine.agent.environment_state is state


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3])])
def test_a_policy_that_diverged_draws_actions_that_exist_and_its_log_prob_is_nan(action_space):
    distribution = ops.action_distribution(action_space, tf.fill([4, ops.parameter_size(action_space)], np.nan))
    action = ops.sample(action_space, distribution, tf.constant([0, 1]))
    assert all(action_space.contains(row) for row in ops.to_environment(action_space, action).numpy())
    assert np.isnan(distribution.log_prob(action)).all()


def test_xla_is_chosen_for_products_of_matrices_and_not_for_convolutions_on_a_cpu():
    discrete = spaces.Discrete(2)
    assert uses_xla(actor_critic(spaces.Box(-1, 1, (3,)), discrete))
    image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    assert uses_xla(actor_critic(image, discrete, trunk=small_conv_trunk()))
    assert not uses_xla(actor_critic(image, discrete, trunk=nature_conv_trunk(width=0.1)))
