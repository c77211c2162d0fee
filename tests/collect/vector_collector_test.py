"""What is particular to collecting in Python; that its rollouts are the graph's is in `contract/rollout_test.py`."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.vector import AutoresetMode

import kerasrl_pg as krl
from kerasrl_pg.collect import VectorCollector
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.evaluate import evaluate_policy
from tests.contract.counter import LIMIT, Counter, act, counters, value

MODES = list(AutoresetMode)


def act_in_environment(observation, seed):
    action, log_prob, observation_value = act(observation, seed)
    return action, tf.cast(action, tf.int64), log_prob, observation_value


def make_collector(mode=AutoresetMode.SAME_STEP, length=3, critic=value):
    return VectorCollector(VectorAdapter(counters(mode)), length, act_in_environment, critic, seed=0)


def test_the_critic_is_asked_about_final_observations_only_where_an_episode_was_cut():
    asked = []

    def critic(observation):
        asked.append(observation.numpy())
        return value(observation)

    make_collector(length=5, critic=critic).collect(tf.constant([0, 0]))
    cut, following = asked  # the step that ended an episode, and the end of the rollout
    assert cut[1].tolist() == [1, 5, 5]
    assert following.tolist() == [[0, 2, 1], [1, 0, 0], [2, 0, 0]]


def test_the_policy_gets_another_seed_for_every_step_and_the_same_for_the_same_rollout():
    seeds = []

    def remember(observation, seed):
        seeds.append(tuple(seed.numpy().tolist()))
        return act_in_environment(observation, seed)

    collector = VectorCollector(VectorAdapter(counters(AutoresetMode.SAME_STEP)), 4, remember, value, seed=0)
    for seed in (1, 2, 1):
        collector.collect(tf.constant([seed, 0]))
    assert len(set(seeds)) == 8
    assert seeds[:4] == seeds[8:]
    assert min(min(seed) for seed in seeds) >= 0


def test_whole_episodes_begin_anew_each_time():
    collector = make_collector(length=None)
    for _ in range(2):
        rollout, episodes = collector.collect(tf.constant([0, 0]))
        assert rollout.observation[0].tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
        assert episodes.ended.sum(axis=0).tolist() == [1, 1, 1]
        assert rollout.valid.sum(axis=0).tolist() == [4, 5, 5]


def test_an_episode_without_an_end_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr("kerasrl_pg.collect.vector_collector.LONGEST_EPISODE", LIMIT - 1)
    with pytest.raises(RuntimeError, match=r"did not end within 4 steps.* such as gymnasium.wrappers.TimeLimit"):
        make_collector(length=None).collect(tf.constant([0, 0]))


def test_every_rollout_is_written_into_the_same_memory():
    collector = make_collector()
    (first, _), (second, _) = (collector.collect(tf.constant([0, time])) for time in range(2))
    assert np.shares_memory(first.observation, second.observation)


def test_time_is_accounted_for():
    collector = make_collector()
    collector.collect(tf.constant([0, 0]))
    assert collector.seconds["environment"] > 0
    assert collector.seconds["acting"] > 0


@pytest.mark.parametrize("length", [3, None])
@pytest.mark.parametrize("mode", MODES)
def test_an_evaluation_on_the_same_environments_does_not_confuse_the_next_rollout(mode, length):
    """It left them in the middle of its own episodes; under NEXT_STEP even one step before a reset."""
    collector = make_collector(mode, length)
    collector.collect(tf.constant([0, 0]))
    evaluate_policy(lambda o: act(o, None)[0].numpy(), collector.environment, episodes=4, seed=1)
    rollout, episodes = collector.collect(tf.constant([0, 1]))
    assert rollout.observation[0].tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
    assert rollout.valid[0].all()
    assert episodes.episode_length[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("length", [3, None])
def test_after_every_evaluation_on_the_same_environments_other_episodes_begin(length):
    def push_left(observation, seed):
        zeros = tf.zeros([3])
        return tf.zeros([3], tf.int32), tf.zeros([3], tf.int64), zeros, zeros

    environment = VectorAdapter(gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="sync"))
    collector = VectorCollector(environment, length, push_left, None, seed=0)
    begun = []
    for time in range(3):
        rollout, _ = collector.collect(tf.constant([0, time]))
        begun += rollout.observation[0].tolist()
        evaluate_policy(lambda o: np.zeros(3, int), environment, episodes=3, seed=100)
    assert len(np.unique(begun, axis=0)) == 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nothing:
    """An algorithm that learns nothing."""

    rollout_length = 4

    def update(self, learner, rollout, seed):
        return learner.mean(lambda own: {"loss": tf.reduce_mean(own.reward)}, rollout)


@pytest.mark.parametrize(
    "make",
    [*(lambda mode=mode: counters(mode) for mode in MODES), lambda: Counter(1)],
    ids=[*(mode.value for mode in MODES), "one environment"],
)
def test_a_users_environment_can_be_evaluated_on_while_it_is_trained_on(make):
    """Stale observations and counts would make episodes longer than the environment's limit."""
    agent = krl.fit_agent(
        make(), Nothing(), steps=60, steps_per_epoch=16, eval_episodes=2, jit_compile=False, verbose=0
    )
    assert len(agent.episodes) > 0
    assert max(agent.episodes.episode_length) <= LIMIT
    assert np.isfinite(agent.history.history["eval_return"]).all()
