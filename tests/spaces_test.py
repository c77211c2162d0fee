"""Observations become batches of the stored types, and spaces survive JSON."""

import json

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from kerasrl_pg.spaces import (
    as_batch,
    check_observation_space,
    flatten,
    leaf_paths,
    space_from_json,
    space_to_json,
    unflatten,
)

NESTED = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "goal": spaces.Tuple([spaces.Discrete(3, start=2), spaces.Box(-1, 1, (2,))]),
    }
)


def test_the_space_tells_one_observation_from_a_batch():
    box = spaces.Box(-1, 1, (3,))
    one, is_single = as_batch(box, np.array([0.1, 0.2, 0.3]))
    assert one.shape == (1, 3)
    assert is_single
    many, is_single = as_batch(box, np.zeros((1, 3)))
    assert many.shape == (1, 3)
    assert not is_single


def test_a_number_is_one_discrete_observation_and_a_row_of_them_a_batch():
    one, is_single = as_batch(spaces.Discrete(5), 3)
    assert one.tolist() == [3]
    assert is_single
    many, is_single = as_batch(spaces.Discrete(5), [3, 4])
    assert many.tolist() == [3, 4]
    assert not is_single


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        (spaces.Box(-1, 1, (2,), np.float64), np.float32),
        (spaces.Box(0, 255, (2,), np.uint8), np.uint8),
        (spaces.Discrete(3), np.int32),
        (spaces.MultiDiscrete([2, 3]), np.int32),
        (spaces.MultiBinary(2), np.uint8),
    ],
)
def test_observations_take_the_stored_type(space, dtype):
    batch, _ = as_batch(space, space.sample())
    assert batch.dtype == dtype


def test_tensors_and_lists_are_observations_too():
    box = spaces.Box(-1, 1, (2,))
    for observation in ([0.0, 1.0], tf.constant([0.0, 1.0])):
        batch, is_single = as_batch(box, observation)
        np.testing.assert_array_equal(batch, np.array([[0, 1]], np.float32))
        assert is_single


def test_every_part_of_a_nested_observation_gets_the_batch_dimension():
    batch, is_single = as_batch(NESTED, NESTED.sample())
    assert is_single
    assert batch["camera"].shape == (1, 8, 8, 3)
    assert batch["goal"][0].shape == (1,)
    assert batch["goal"][1].shape == (1, 2)
    again, is_single = as_batch(NESTED, batch)
    assert not is_single
    tf.nest.map_structure(np.testing.assert_array_equal, again, batch)


@pytest.mark.parametrize("shape", [(4,), (2,), (5, 4), (2, 2, 3), ()])
def test_another_shape_is_refused_and_both_are_named(shape):
    with pytest.raises(ValueError, match=r"\[3\].*\[B, 3\].*got \[" + ", ".join(map(str, shape)) + r"\]"):
        as_batch(spaces.Box(-1, 1, (3,)), np.zeros(shape))


def test_parts_with_different_batch_sizes_are_refused():
    pair = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(3)])
    with pytest.raises(ValueError, match=r"got \[2\], \[3\]"):
        as_batch(pair, ([0, 1], [0, 1, 2]))
    with pytest.raises(ValueError, match=r"got \[\], \[3\]"):
        as_batch(pair, (0, [0, 1, 2]))


@pytest.mark.parametrize("observation", [{"camera": 0}, {"camera": 0, "goal": (0, 0), "more": 0}, (0, 0), 1.0])
def test_another_structure_is_refused(observation):
    with pytest.raises(ValueError, match=r"is a dict of \['camera', 'goal'\]; got a"):
        as_batch(NESTED, observation)
    with pytest.raises(ValueError, match=r"is a tuple of 2; got a tuple of 1"):
        as_batch(NESTED, {"camera": np.zeros((8, 8, 3), np.uint8), "goal": (1,)})


def test_floats_are_refused_where_the_space_holds_integers():
    with pytest.raises(ValueError, match=r"integers, stored as uint8; got float64"):
        as_batch(spaces.Box(0, 255, (8, 8), np.uint8), np.full((8, 8), 0.5))


def test_paths_parts_and_structure_agree_in_order():
    assert [path for path, _ in leaf_paths(NESTED)] == [("camera",), ("goal", 0), ("goal", 1)]
    parts = flatten(NESTED, {"goal": (1, 2), "camera": 0})  # the order of the dict does not matter
    assert parts == [0, 1, 2]
    assert unflatten(NESTED, parts) == {"camera": 0, "goal": (1, 2)}


LEAVES = st.one_of(
    st.builds(
        lambda n, start, dtype: spaces.Discrete(n, start=start, dtype=dtype),
        st.integers(1, 100),
        st.integers(-50, 50),
        st.sampled_from([np.int32, np.int64]),
    ),
    st.builds(
        lambda nvec, start, dtype: spaces.MultiDiscrete(nvec, start=np.full(np.shape(nvec), start), dtype=dtype),
        st.sampled_from([[3], [2, 5], [[1, 2], [3, 4]]]),
        st.integers(-3, 3),
        st.sampled_from([np.int32, np.int64]),
    ),
    st.builds(spaces.MultiBinary, st.sampled_from([1, 4, [2, 3]])),
    st.builds(
        lambda low, high, shape, dtype: spaces.Box(low, high, shape, dtype),
        st.sampled_from([-np.inf, -2.5, 0.1]),
        st.sampled_from([0.1, 7.25, np.inf]),
        st.sampled_from([(), (3,), (2, 2)]),
        st.sampled_from([np.float32, np.float64]),
    ),
)
SPACES = st.recursive(
    LEAVES,
    lambda child: st.one_of(
        st.builds(spaces.Dict, st.dictionaries(st.text(min_size=1), child, min_size=1, max_size=3)),
        st.builds(spaces.Tuple, st.lists(child, min_size=1, max_size=3)),
    ),
    max_leaves=5,
)


@given(SPACES)
def test_every_space_comes_back_equal_from_json(space):
    assert space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False))) == space


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (84, 84, 4), np.uint8),
        spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32)),
        spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
        spaces.Dict([("second", spaces.Discrete(2)), ("first", spaces.Discrete(3))]),
    ],
)
def test_bounds_and_order_come_back_exactly(space):
    again = space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))
    assert again == space
    if isinstance(space, spaces.Box):
        np.testing.assert_array_equal(again.low, space.low)
        np.testing.assert_array_equal(again.high, space.high)
    else:
        assert list(again.spaces) == list(space.spaces)


def test_a_space_without_a_description_is_refused():
    with pytest.raises(TypeError, match=r"unsupported space Text"):
        space_to_json(spaces.Text(5))
    with pytest.raises(ValueError, match=r"unknown space type 'Text'"):
        space_from_json({"type": "Text"})


BOX = spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-1, 1, (0,)), "there is nothing in it"),
        (spaces.Dict({"a": BOX, "b": spaces.Tuple([])}), "there is nothing in it"),
        (spaces.Dict({}), "there is nothing in it"),
        (spaces.Dict({0: BOX, 1: BOX}), "its keys must be text"),
        (spaces.Discrete(5, start=2**40), "its numbers must fit into 32 bits"),
        (spaces.MultiDiscrete([3, 3], start=[0, 2**40]), "its numbers must fit into 32 bits"),
        (spaces.MultiDiscrete([3, 2**31]), "its numbers must fit into 32 bits"),
    ],
)
def test_an_observation_that_no_network_can_read_is_refused_by_its_space(space, message):
    with pytest.raises(TypeError, match=f"unsupported observation space .*: {message}"):
        check_observation_space(space)


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (spaces.Box(0, 255, (3,), np.uint8), [-1, 256, 2]),
        (spaces.Discrete(4), 2**40 + 1),
        (spaces.Discrete(4, start=-1), 3),
        (spaces.Discrete(16), [0, 99]),
    ],
    ids=str,
)
def test_integers_that_the_space_cannot_hold_are_refused(space, observation):
    """As other integers they would answer for another state."""
    with pytest.raises(ValueError, match=r"observations of .* are from -?\d+ to \d+; got"):
        as_batch(space, observation)
