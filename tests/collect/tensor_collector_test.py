"""What is particular to collecting in a graph; that its rollouts are the others' is in `contract/rollout_test.py`."""

import numpy as np
import pytest
import tensorflow as tf

from kerasrl_pg.collect import TensorCollector
from kerasrl_pg.envs.cartpole import CartPole
from tests.contract.counter import CounterGraph, act, value


def test_whole_episodes_need_a_time_limit():
    endless = CounterGraph()
    endless.max_episode_steps = None
    with pytest.raises(ValueError, match="whole episodes need an environment with a time limit"):
        TensorCollector(endless, None)
    TensorCollector(endless, 5)


def test_whole_episodes_stop_when_the_last_one_has_ended():
    """CartPole's limit is 500 steps; a pole that falls at once is not stepped on, and the rest is not valid."""
    environment = CartPole(num_envs=3)
    calls = tf.Variable(0)

    def push_left(observation, seed):
        calls.assign_add(1)
        nothing = tf.zeros([3])
        return tf.zeros([3], tf.int32), nothing, nothing

    collector = TensorCollector(environment, None)
    collect = tf.function(lambda carry: collector.collect(carry, push_left, None, tf.constant([0, 0])))
    _, rollout, episodes = collect(collector.start(tf.constant([0, 0])))
    lengths = rollout.valid.numpy().sum(axis=0)
    assert rollout.reward.shape == (500, 3)
    assert int(calls) == lengths.max() < 20
    assert episodes.ended.numpy().sum(axis=0).tolist() == [1, 1, 1]
    assert episodes.episode_length.numpy()[episodes.ended.numpy()].tolist() == sorted(lengths)


def test_the_critic_runs_on_final_observations_only_if_something_was_cut():
    calls = tf.Variable(0)

    def counting(observation):
        calls.assign_add(1)
        return value(observation)

    collector = TensorCollector(CounterGraph(), 12)
    collect = tf.function(lambda carry: collector.collect(carry, act, counting, tf.constant([0, 0])))
    collect(collector.start(tf.constant([0, 0])))
    assert int(calls) == 2 + 1  # phase 1 is cut twice; and once for the end of the rollout


def test_the_carry_holds_unfinished_episodes():
    collector = TensorCollector(CounterGraph(), 3)
    carry, _, _ = collector.collect(collector.start(tf.constant([0, 0])), act, value, tf.constant([0, 0]))
    assert carry.episode_length.numpy().tolist() == [3, 3, 3]
    np.testing.assert_allclose(carry.episode_return, [0.0, 1.5, 1.0])
    carry, _, _ = collector.collect(carry, act, value, tf.constant([0, 0]))
    assert carry.episode_length.numpy().tolist() == [2, 1, 1]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_seed_decides_and_is_another_for_every_step(jit_compile):
    def draw(observation, seed):
        noise = tf.random.stateless_uniform([3], seed, None, None, tf.int32)
        return tf.cast(noise > 0, tf.int32), tf.cast(noise, tf.float32), tf.zeros([3])

    collector = TensorCollector(CounterGraph(), 50)
    collect = tf.function(
        lambda seed: collector.collect(collector.start(seed), draw, None, seed)[1].log_prob, jit_compile=jit_compile
    )
    first, again, other = (collect(tf.constant([seed, 0])).numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    assert len(np.unique(first)) == first.size
