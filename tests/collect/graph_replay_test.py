"""The same contract as in `replay_test.py` and `samplers_test.py`, eagerly and in programs compiled by XLA."""

import functools
import math
import re

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasrl_pg import seeding
from kerasrl_pg.collect.graph_replay import GraphReplay
from kerasrl_pg.collect.graph_sum_tree import draw_places, empty_tree, set_priorities
from kerasrl_pg.types import Step
from tests.collect.naive_replay import (
    BOTH,
    GOES_ON,
    TERMINATED,
    TRUNCATED,
    assert_equal,
    episodes_of,
    key_of,
    keys_of,
    naive_priorities,
    play,
    transition,
)
from tests.contract.counter import PARTS, PHASES, CounterGraph

DISCOUNT = 0.9
FILM = spaces.Box(-np.inf, np.inf, (2,))
VARIANTS = pytest.mark.parametrize("jit_compile", [False, True], ids=["eager", "compiled"])
LONGEST = 30
PRIORITIES = (0.6, 0.1)
ERRORS = np.array([0.0, -0.1, 0.1, -3.0, 3.0, 0.5, 20.0, 0.02], np.float32)


def run(function, *arguments, jit_compile):
    return tf.function(function, jit_compile=True)(*arguments) if jit_compile else function(*arguments)


def filled(replay, length, rows):
    """The state after the first `length` of many steps, `(observation, action, step)` of [T, N, ...]."""

    def add(i, state):
        return i + 1, replay.add(state, *tf.nest.map_structure(lambda x: x[i], rows))

    return tf.while_loop(lambda i, _: i < length, add, (0, replay.empty()))[1]


@functools.cache
def fill_and_sample(num_envs, n_step, num_rows, prioritized, jit_compile):
    """`(length, rows) -> (size, 600 transitions)`: compiled once for all that hypothesis thinks of."""
    replay = GraphReplay(FILM, num_envs, num_rows * num_envs, n_step=n_step, discount=DISCOUNT, prioritized=prioritized)

    def call(length, rows):
        state = filled(replay, length, rows)
        return replay.size(state), replay.sample(state, 600, tf.constant([3, 4]), 0.5)

    return tf.function(call, jit_compile=True, autograph=False) if jit_compile else call


def rows_of(events):
    """[LONGEST, N, ...], zeros after the last step."""
    rows = [(event.observation, event.action.astype(np.int32), event.step) for event in events[1:]]
    stacked = tf.nest.map_structure(lambda *leaves: np.stack(leaves), *rows)
    pad = lambda x: tf.constant(np.pad(x, [(0, LONGEST - len(rows))] + [(0, 0)] * (x.ndim - 1)))  # noqa: E731
    return tf.nest.map_structure(pad, stacked)


def kept(events, number, *, num_rows, n_step):
    """By key, the transitions of one environment that can be drawn: from row `adds - R` to row `adds - n`."""
    found, adds = {}, len(events) - 1
    for episode in episodes_of(events, number):
        for start, time_added in enumerate(episode.times):
            if adds - num_rows <= time_added <= adds - n_step:
                whole = transition(episode, start, n_step, DISCOUNT)
                found[key_of(whole.observation)] = whole
    return found


@VARIANTS
@pytest.mark.parametrize(
    ("num_envs", "n_step", "num_rows", "prioritized"),
    [(1, 1, 1, None), (3, 1, 9, PRIORITIES), (2, 3, 3, PRIORITIES), (2, 2, 12, None), (1, 4, 10, PRIORITIES)],
)
def test_what_comes_out_is_what_a_naive_store_holds(num_envs, n_step, num_rows, prioritized, jit_compile):
    end = st.sampled_from([GOES_ON] * 4 + [TERMINATED, TRUNCATED, BOTH])
    row = st.lists(end, min_size=num_envs, max_size=num_envs)

    @settings(max_examples=25 if jit_compile else 4)
    @given(st.lists(row, min_size=1, max_size=LONGEST))
    def check(ends):
        events = play(np.array(ends))
        call = fill_and_sample(num_envs, n_step, num_rows, prioritized, jit_compile)
        size, batch = call(tf.constant(len(ends)), rows_of(events))
        expected = {}
        for number in range(num_envs):
            expected |= kept(events, number, num_rows=num_rows, n_step=n_step)
        assert size == len(expected)
        if expected:
            batch = tf.nest.map_structure(lambda x: x.numpy(), batch)
            assert set(keys_of(batch)) == set(expected)  # 600 draws of at most 30 leave none out
            assert_equal(batch, expected)
            assert (batch.weight == 1).all()

    check()


def state_with(replay, errors, places=None):
    """As many transitions as there are errors, and these priorities."""
    state = replay.empty()
    observation, no = tf.zeros([replay.num_envs, 2]), tf.zeros([replay.num_envs], tf.bool)
    step = Step(observation, tf.zeros([replay.num_envs]), no, no, observation)
    for _ in range(len(errors) // replay.num_envs):
        state = replay.add(state, observation, tf.zeros([replay.num_envs], tf.int32), step)
    places = tf.range(len(errors)) if places is None else places
    return replay.update_priorities(state, places, tf.constant(errors))


@VARIANTS
@pytest.mark.parametrize("prioritized", [(0.6, 0.1), (1.0, 0.1), None])
def test_transitions_are_drawn_in_proportion_to_their_priorities(prioritized, jit_compile):
    replay = GraphReplay(FILM, 1, 50, prioritized=prioritized)
    state = state_with(replay, ERRORS)
    batch = run(lambda: replay.sample(state, 200_000, tf.constant([5, 6]), 0.4), jit_compile=jit_compile)
    counts = np.bincount(batch.index.numpy(), minlength=50)
    priorities = naive_priorities(ERRORS, *prioritized or (0.0, 0.1))
    probability = priorities / priorities.sum()
    assert counts[len(ERRORS) :].sum() == 0
    assert scipy.stats.chisquare(counts[: len(ERRORS)], 200_000 * probability).pvalue > 1e-3
    weight = (len(ERRORS) * probability[batch.index.numpy()]) ** -0.4
    np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-4)


def test_uniform_draws_are_uniform_after_the_ring_has_turned():
    replay = GraphReplay(FILM, 2, 22, n_step=3)
    batch = replay.sample(state_with(replay, np.zeros(38, np.float32)), 200_000, tf.constant([5, 6]))
    counts = np.bincount(batch.index.numpy(), minlength=22)
    newest = [2 * row + n for row in (7, 6) for n in (0, 1)]  # rows 17 and 18 of 0..18, in a ring of 11
    assert counts[newest].tolist() == [0] * 4
    assert scipy.stats.chisquare(np.delete(counts, newest)).pvalue > 1e-3


def test_the_distribution_holds_among_very_many_places():
    """A single float32 for the whole path down the tree would prefer some of them by several per cent."""
    number = 1_000_000
    priority = np.random.default_rng(0).exponential(size=number).astype(np.float32) ** 2
    priority[::2] = 0
    tree = set_priorities(empty_tree(number), tf.range(number), tf.constant(priority))
    places = tf.function(draw_places, jit_compile=True)(tree, 2_000_000, tf.constant([1, 2])).numpy()
    assert (priority[places] > 0).all()
    for group in (np.arange(number) // 1000, np.arange(number) % 1000 // 2):  # neighbours, and what lies far apart
        expected = np.bincount(group, weights=priority)
        p_value = scipy.stats.chisquare(np.bincount(group[places]), len(places) * expected / expected.sum()).pvalue
        assert p_value > 1e-3


@VARIANTS
def test_small_errors_are_told_apart_and_their_sign_does_not_count(jit_compile):
    """Priorities of at least 1, or the offset inside the absolute value, would get all of these wrong."""
    replay = GraphReplay(FILM, 1, 8, prioritized=(1.0, 0.1))
    state = run(lambda: state_with(replay, np.array([-0.1, 0.1, 0.0, 0.4], np.float32)), jit_compile=jit_compile)
    np.testing.assert_allclose(state.tree[0][:5], [0.2, 0.2, 0.1, 0.5, 0], rtol=1e-6)


def test_new_transitions_have_the_largest_priority_so_far_and_old_ones_none():
    replay = GraphReplay(FILM, 2, 8, n_step=2, prioritized=(1.0, 0.5))
    state = state_with(replay, np.zeros(6, np.float32))  # rows 0 and 1 can be drawn, row 2 cannot yet
    np.testing.assert_allclose(state.tree[0], [0.5, 0.5, 0.5, 0.5, 0, 0, 0, 0])
    state = replay.update_priorities(state, tf.constant([1]), tf.constant([6.5]))
    observation, no = tf.zeros([2, 2]), tf.zeros([2], tf.bool)
    row = observation, tf.zeros([2], tf.int32), Step(observation, tf.zeros([2]), no, no, observation)
    state = replay.add(state, *row)  # row 3
    np.testing.assert_allclose(state.tree[0], [0.5, 7, 0.5, 0.5, 7, 7, 0, 0])
    state = replay.add(state, *row)  # over row 0
    np.testing.assert_allclose(state.tree[0], [0, 0, 0.5, 0.5, 7, 7, 7, 7])
    assert replay.size(state) == 6
    assert state.tree[-1] == 29


@VARIANTS
def test_the_last_error_of_a_transition_that_occurs_twice_counts(jit_compile):
    replay = GraphReplay(FILM, 1, 8, prioritized=(1.0, 0.5))
    state = state_with(replay, np.zeros(8, np.float32))
    index, error = tf.constant([3, 5, 3, 5, 3]), tf.constant([9.0, 1.0, 8.0, 4.0, 2.0])
    state = run(lambda: replay.update_priorities(state, index, error), jit_compile=jit_compile)
    np.testing.assert_allclose(state.tree[0], [0.5, 0.5, 0.5, 2.5, 0.5, 4.5, 0.5, 0.5])


@pytest.mark.parametrize("prioritized", [None, PRIORITIES])
def test_the_same_seed_draws_the_same_compiled_and_not(prioritized):
    replay = GraphReplay(FILM, 1, 1000, prioritized=prioritized)
    state = state_with(replay, np.zeros(40, np.float32))
    if prioritized:
        tree = set_priorities(state.tree, tf.range(40), tf.constant(np.arange(1, 41), tf.float32) / 7)
        state = state._replace(tree=tree)
    draw = lambda seed: replay.sample(state, 1000, seed).index  # noqa: E731
    one, other = seeding.split(seeding.make_seed(0), 2)
    np.testing.assert_array_equal(draw(one), tf.function(draw, jit_compile=True)(one))
    assert (draw(one).numpy() != draw(other).numpy()).any()


def test_observations_in_parts_come_out_of_a_compiled_loop():
    environment = CounterGraph(PARTS)
    replay = GraphReplay(PARTS, PHASES, 60, n_step=1, prioritized=PRIORITIES)
    action = tf.constant([1, 0, 1])

    @tf.function(jit_compile=True)
    def loop():
        def body(i, env_state, observation, state):
            env_state, step = environment.step(env_state, action, tf.constant([0, 0]))
            state = replay.add(state, observation, action, step)
            batch = replay.sample(state, 8, seeding.fold_in(tf.constant([1, 2]), i))
            return i + 1, env_state, step.observation, replay.update_priorities(state, batch.index, batch.reward)

        carry = tf.while_loop(lambda i, *_: i < 50, body, (0, *environment.reset(tf.constant([0, 0])), replay.empty()))
        return replay.sample(carry[-1], 100, tf.constant([7, 7]), 0.5)

    batch = tf.nest.map_structure(lambda x: x.numpy(), loop())
    phase, clock, following = batch.observation["phase"], batch.observation["clock"], batch.next_observation["clock"]
    np.testing.assert_array_equal(batch.action, action.numpy()[phase])
    np.testing.assert_array_equal(following, clock + np.stack([1 + batch.action, np.ones_like(phase)], axis=1))
    np.testing.assert_allclose(batch.reward, 0.5 * clock[:, 0] - batch.action)
    np.testing.assert_allclose(batch.discount, np.where(following[:, 0] >= 7, 0, np.float32(0.99)))


def large_operations(*, reads_what_was):
    """What the program of a compiled loop does with arrays as large as a ring of 300,000 places.

    Args:
        reads_what_was: read the ring once more as it was before it was written; then it must be copied.
    """
    capacity = 300_000
    replay = GraphReplay(spaces.Box(-1, 1, (16,)), 8, capacity, n_step=2, prioritized=PRIORITIES)

    @tf.function(jit_compile=True)
    def loop(rounds):
        def body(i, before):
            observation, no = tf.fill([8, 16], tf.cast(i, tf.float32)), tf.zeros([8], tf.bool)
            step = Step(observation, tf.ones([8]), no, no, observation)
            state = replay.add(before, observation, tf.zeros([8], tf.int32), step)
            batch = replay.sample(state, 32, tf.stack([i, 0]), 0.4)
            error = batch.observation[:, 0]
            if reads_what_was:
                error += replay.sample(before, 32, tf.stack([i, 0]), 0.4).observation[:, 0]
            return i + 1, replay.update_priorities(state, batch.index, error)

        state = tf.while_loop(lambda i, _: i < rounds, body, (0, replay.empty()))[1]
        return replay.sample(state, 1, tf.constant([0, 0])).observation

    program = loop.experimental_get_compiler_ir(tf.constant(1))(stage="optimized_hlo")
    found = re.findall(r"= \w+\[([\d,]+)\]\S* ([\w-]+)\(", program)  # `%name = f32[300000]{0} scatter(...)`
    return {operation for shape, operation in found if math.prod(map(int, shape.split(","))) >= capacity}


def test_nothing_copies_the_ring_in_a_compiled_loop():
    """A copy, 40 MB, would take a hundred times as long as a step. What is left hands the ring on or writes into it."""
    hands_on = {"parameter", "get-tuple-element", "bitcast", "fusion"}  # what is fused is listed by itself
    writes = {"dynamic-update-slice", "scatter", "broadcast"}  # the last one is the empty ring at the start
    operations = large_operations(reads_what_was=False)
    assert operations & writes
    assert operations <= hands_on | writes
    assert "copy" in large_operations(reads_what_was=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GraphReplay(FILM, 4, 11, n_step=3), "capacity of 11 is 2 .* n_step=3 needs 3: at least 12"),
        (lambda: GraphReplay(FILM, 4, 100, prioritized=(2.0, 0.1)), "exponent must be between 0 and 1, got 2.0"),
        (lambda: GraphReplay(FILM, 4, 100, prioritized=(0.5, -1.0)), "offset must be a positive number, got -1.0"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_column_where_a_row_is_expected_is_not_broadcast():
    replay = GraphReplay(FILM, 2, 10, prioritized=PRIORITIES)
    observation, no = tf.zeros([2, 2]), tf.zeros([2], tf.bool)
    step = Step(observation, tf.zeros([2, 1]), no, no, observation)
    with pytest.raises(ValueError, match=r"reward must have shape \(2,\), got \(2, 1\)"):
        replay.add(replay.empty(), observation, tf.zeros([2], tf.int32), step)
    with pytest.raises(ValueError, match=r"must both be \[B\], got \(3,\) and \(3, 1\)"):
        replay.update_priorities(replay.empty(), tf.zeros([3], tf.int32), tf.zeros([3, 1]))
