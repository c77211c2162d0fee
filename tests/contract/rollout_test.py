"""Both collectors fill the same rollout, whatever the autoreset mode; an exact critic leaves no advantage."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from gymnasium.vector import AutoresetMode

from kerasrl_pg import ops
from kerasrl_pg.envs.tensor_env import check_tensor_env
from kerasrl_pg.envs.tensor_vector import TensorVectorEnv
from tests.contract.counter import (
    DISCOUNT,
    FLAT,
    LIMIT,
    PARTS,
    PHASES,
    VALUE_OF_THE_END,
    CounterGraph,
    collect_from,
    collect_in_graph,
    counters,
    rows_of,
)  # fmt: skip

MODES = list(AutoresetMode)
LAMBDAS = (0.0, 0.5, 0.95, 1.0)
SPACES = {"Box": FLAT, "Dict": PARTS}
each_space = pytest.mark.parametrize("space", SPACES)


@functools.cache
def in_graph(space="Box", length=12, rollouts=1):
    """Collected once for all that compare with it."""
    return collect_in_graph(length, rollouts=rollouts, observation_space=SPACES[space])


def assert_equal(first, second):
    """Structures of arrays, equal in structure, shape, type and every bit."""
    tf.nest.assert_same_structure(first, second)
    for one, other in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def assert_equal_where_valid(graphs, other):
    """Every environment's valid steps are the first ones that the graph's collector saw."""
    (rollout, episodes), (other_rollout, other_episodes) = graphs, other
    for phase in range(PHASES):
        valid = other_rollout.valid
        first = np.arange(len(rollout.valid))[:, None] < valid[:, phase].sum()  # [T, 1]
        first = np.broadcast_to(first, rollout.valid.shape) & rollout.valid  # [T, N]
        assert_equal(rows_of(rollout, phase, first), rows_of(other_rollout, phase, valid))
        assert_equal(rows_of(episodes, phase, first), rows_of(other_episodes, phase, valid))


def test_the_graph_environment_keeps_its_contract():
    check_tensor_env(CounterGraph(), steps=12)
    check_tensor_env(CounterGraph(PARTS), steps=12)


def test_the_rollout_holds_every_kind_of_ending():
    rollout, episodes = in_graph()
    assert rollout.terminated.sum(axis=0).tolist() == [3, 0, 2]
    assert rollout.truncated.sum(axis=0).tolist() == [0, 2, 2]
    assert episodes.episode_length[episodes.ended].tolist() == [4, 5, 5, 4, 5, 5, 4]
    assert rollout.observation[-1].tolist() == [[0, 6, 3], [1, 1, 1], [2, 2, 1]]


@each_space
def test_xla_collects_the_same_rollout(space):
    assert_equal(in_graph(space), collect_in_graph(12, observation_space=SPACES[space], jit_compile=True))


@each_space
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_vector_environments_give_the_graphs_rollout_field_by_field(mode, space):
    assert_equal(in_graph(space), collect_from(counters(mode, SPACES[space]), 12))


@each_space
def test_with_next_step_autoreset_the_valid_rows_are_the_graphs(space):
    rollout, episodes = collect_from(counters(AutoresetMode.NEXT_STEP, SPACES[space]), 12)
    assert (~rollout.valid).sum(axis=0).tolist() == [2, 2, 2]  # one reset after each of two episodes
    assert not rollout.reward[~rollout.valid].any()
    assert not episodes.ended[~rollout.valid].any()
    assert_equal_where_valid(in_graph(space), (rollout, episodes))


@each_space
def test_a_graph_environment_stepped_from_python_gives_its_own_rollout(space):
    assert_equal(in_graph(space), collect_from(TensorVectorEnv(CounterGraph(SPACES[space])), 12))


@pytest.mark.parametrize("mode", MODES)
def test_rollouts_go_on_where_the_last_one_stopped(mode):
    """Four rollouts of three steps each: episodes, their returns and junk steps cross the seams."""
    pieces = collect_from(counters(mode), 3, rollouts=4)
    assert_equal(collect_from(counters(mode), 12), pieces)
    assert_equal(in_graph(), in_graph(length=3, rollouts=4))


@pytest.mark.parametrize("mode", MODES)
def test_whole_episodes_are_equal_where_valid(mode):
    graphs = in_graph(length=None, rollouts=2)
    assert graphs[0].valid.sum(axis=0).tolist() == [8, 10, 10]
    whole = collect_from(counters(mode), None, rollouts=2)
    np.testing.assert_array_equal(whole[0].valid, graphs[0].valid)
    assert whole[1].ended.sum(axis=0).tolist() == [2, 2, 2]
    for phase in range(PHASES):
        assert_equal(
            tf.nest.map_structure(lambda x, phase=phase: rows_of(x, phase, graphs[0].valid), graphs),
            tf.nest.map_structure(lambda x, phase=phase: rows_of(x, phase, whole[0].valid), whole),
        )


def advantages(rollout, gae_lambda):
    return ops.gae(
        rollout.reward, rollout.value, rollout.next_value, rollout.terminated, rollout.truncated,
        discount=DISCOUNT, gae_lambda=gae_lambda,
    ).numpy()  # fmt: skip


SOURCES = ["graph", "XLA", *(mode.value for mode in MODES)]
each_source = pytest.mark.parametrize("source", SOURCES)


@functools.cache
def rollout_of(source):
    if source in ("graph", "XLA"):
        return collect_in_graph(13, jit_compile=source == "XLA")[0]
    return collect_from(counters(AutoresetMode(source)), 13)[0]


@each_source
def test_an_exact_critic_leaves_an_advantage_of_exactly_zero(source):
    """At every λ, across termination, truncation, both at once, and the end of the rollout."""
    rollout = rollout_of(source)
    assert (rollout.terminated & ~rollout.truncated).any()
    assert (rollout.truncated & ~rollout.terminated).any()
    assert (rollout.truncated & rollout.terminated).any()
    for gae_lambda in LAMBDAS:
        assert not advantages(rollout, gae_lambda)[rollout.valid].any()


@each_source
def test_a_time_limit_taken_for_the_end_of_the_task_would_show(source):
    """The control of the test above."""
    rollout = rollout_of(source)
    merged = rollout._replace(terminated=rollout.terminated | rollout.truncated)
    for gae_lambda in LAMBDAS:
        assert np.abs(advantages(merged, gae_lambda)[:, 1][rollout.valid[:, 1]]).max() > 1


@each_source
def test_the_value_of_a_finished_task_is_never_asked_for(source):
    rollout = rollout_of(source)
    assert (rollout.next_value[rollout.valid] < VALUE_OF_THE_END).all()
    assert (rollout.next_value[rollout.terminated] == 0).all()


@each_source
def test_a_truncated_step_bootstraps_from_its_own_successor(source):
    """Not from the first observation of the next episode, which comes next in the rollout."""
    rollout = rollout_of(source)
    cut = rollout.truncated & ~rollout.terminated
    assert set(rollout.next_value[cut]) == {np.float32(0.5 * 5 + DISCOUNT * 0.5 * 6)}


def test_without_a_critic_next_values_are_zero():
    for rollout, _ in (
        collect_in_graph(12, critic=None),
        collect_from(counters(AutoresetMode.SAME_STEP), 12, critic=None),
    ):
        assert not rollout.next_value.any()


def test_episode_lengths_never_pass_the_limit():
    for mode in MODES:
        _, episodes = collect_from(counters(mode), 40)
        assert episodes.episode_length[episodes.ended].max() == LIMIT
