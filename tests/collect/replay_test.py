import copy
import itertools

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasrl_pg.collect import memory
from kerasrl_pg.collect.replay import Replay
from kerasrl_pg.collect.samplers import PrioritizedSampler, UniformSampler
from kerasrl_pg.envs.vector_adapter import VectorAdapter
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
    play,
    transition,
)
from tests.contract.counter import PARTS, PHASES, counters

DISCOUNT = 0.9
GIB = 2**30
ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8)


class EverythingSampler:
    """Draws all places that can be drawn, one after the other, so that nothing in a replay stays unseen."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.nbytes = 0
        self.places: set[int] = set()

    def __len__(self):
        return len(self.places)

    def include(self, places):
        self.places |= set(places.tolist())

    def exclude(self, places):
        self.places -= set(places.tolist())

    def draw(self, batch_size, rng, importance_exponent=0.0):
        assert batch_size == len(self)
        return np.array(sorted(self.places)), np.ones(batch_size, np.float32)

    def update(self, places, td_error):
        pass

    def arrays(self):
        return {"places": np.array(sorted(self.places))}

    def restore(self, arrays):
        self.places = set(arrays["places"].tolist())


def film_space(stack):
    return spaces.Box(-np.inf, np.inf, (2,) if stack is None else (stack, 2))


def feed(replay, events):
    for event in events:
        if event.step is None:
            replay.start(event.observation)
        else:
            replay.add(event.action, event.step, event.valid)


def kept(events, number, *, slots, stack, n_step):
    """By key, what of one environment's transitions has room in a ring of `slots` places."""
    frames, written, found = stack or 1, 0, []
    for episode in episodes_of(events, number):
        for start in range(len(episode.actions)):
            whole = transition(episode, start, n_step, DISCOUNT)
            if whole is not None:
                found.append((written + start, whole))  # the place of its oldest frame
        written += frames + len(episode.actions)
    return {key_of(whole.observation): whole for oldest, whole in found if oldest >= written - slots}


@st.composite
def experience(draw):
    """How a replay is made, and what happens to it."""
    num_envs, n_step = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    stack = draw(st.sampled_from([None, 1, 2, 3, 4]))
    slots = n_step + 2 * (stack or 1) + draw(st.integers(0, 12))
    length = draw(st.integers(1, 40))
    end = st.sampled_from([GOES_ON] * 6 + [TERMINATED, TRUNCATED, BOTH])
    ends = draw(st.lists(st.lists(end, min_size=num_envs, max_size=num_envs), min_size=length, max_size=length))
    played = {
        "stack": stack,
        "zero_padded": draw(st.booleans()),
        "next_step": draw(st.booleans()),
        "restarts": tuple(draw(st.lists(st.integers(0, length), max_size=2))),
    }
    return n_step, num_envs * slots + draw(st.integers(0, num_envs - 1)), np.array(ends), played


@settings(max_examples=150)
@given(experience())
def test_what_comes_out_is_what_a_naive_store_of_whole_observations_holds(drawn):
    n_step, capacity, ends, played = drawn
    num_envs, stack = ends.shape[1], played["stack"]
    sampler = EverythingSampler(capacity)
    replay = Replay(
        film_space(stack), num_envs, capacity, sampler=sampler, n_step=n_step, discount=DISCOUNT, stack=stack
    )
    events = play(ends, **played)
    for count, event in enumerate(events, start=1):
        feed(replay, [event])
        expected = {}
        for number in range(num_envs):
            expected |= kept(events[:count], number, slots=capacity // num_envs, stack=stack, n_step=n_step)
        assert len(replay) == len(expected)
        if expected:
            batch = replay.sample(len(replay), np.random.default_rng(0))
            assert sorted(keys_of(batch)) == sorted(expected)
            assert_equal(batch, expected)


@pytest.mark.parametrize("end", [TERMINATED, TRUNCATED, BOTH])
def test_only_a_termination_takes_the_bootstrap_away(end):
    """Three-step transitions of an episode of 4 steps."""
    replay = Replay(film_space(None), 1, 20, sampler=EverythingSampler(20), n_step=3, discount=DISCOUNT)
    events = play(np.array([[GOES_ON], [GOES_ON], [GOES_ON], [end]]))
    feed(replay, events)
    batch = replay.sample(4, np.random.default_rng(0))
    reward = [float(event.step.reward[0]) for event in events[1:]]
    np.testing.assert_allclose(batch.reward[1:], [reward[1] + 0.9 * reward[2] + 0.81 * reward[3],
                                                  reward[2] + 0.9 * reward[3], reward[3]], rtol=1e-6)  # fmt: skip
    cut = [0.729, 0.729, 0.81, 0.9]
    np.testing.assert_allclose(batch.discount, cut if end == TRUNCATED else [0.729, 0, 0, 0], rtol=1e-6)
    assert keys_of(batch) == [1, 2, 3, 4]
    assert [key_of(observation) for observation in batch.next_observation] == [4, 5, 5, 5]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_what_gymnasium_shows_comes_out_in_every_autoreset_mode(mode):
    """Counters of three phases, whose observation says (phase, count, elapsed), with observations in two parts."""
    adapter = VectorAdapter(counters(mode, PARTS))
    replay = Replay(PARTS, PHASES, 60, sampler=UniformSampler(60))
    replay.start(adapter.reset(seed=0))
    for _ in range(30):
        action = np.array([1, 0, 1])
        replay.add(action, *adapter.step(action))
    batch = replay.sample(200 if len(replay) > 200 else len(replay), np.random.default_rng(0))
    phase, clock, following = batch.observation["phase"], batch.observation["clock"], batch.next_observation["clock"]
    assert phase.dtype == np.int32
    np.testing.assert_array_equal(batch.next_observation["phase"], phase)
    np.testing.assert_array_equal(batch.action, np.array([1, 0, 1])[phase])
    np.testing.assert_array_equal(following, clock + np.stack([1 + batch.action, np.ones_like(phase)], axis=1))
    np.testing.assert_allclose(batch.reward, 0.5 * clock[:, 0] - batch.action)
    np.testing.assert_allclose(batch.discount, np.where(following[:, 0] >= 7, 0, np.float32(0.99)))


@pytest.mark.parametrize("padding", ["zero", "reset"])
def test_gymnasiums_frame_stacks_come_out_whole(padding):
    class Picture(gymnasium.Env):
        observation_space = spaces.Box(0, 255, (2, 2), np.uint8)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.count = int(self.np_random.integers(10, 100))
            return np.full((2, 2), self.count, np.uint8), {}

        def step(self, action):
            self.count += 1
            return np.full((2, 2), self.count, np.uint8), 0.0, bool(self.np_random.random() < 0.2), False, {}

    stacked = lambda: gymnasium.wrappers.FrameStackObservation(Picture(), 3, padding_type=padding)  # noqa: E731
    adapter = VectorAdapter(gymnasium.vector.SyncVectorEnv([stacked, stacked]))
    replay = Replay(adapter.observation_space, 2, 1000, sampler=EverythingSampler(1000), stack=3)
    observation = adapter.reset(seed=0)
    replay.start(observation)
    seen = []
    for _ in range(200):
        step, valid = adapter.step(np.zeros(2, int))
        seen += [(observation[n], step.final_observation[n]) for n in np.flatnonzero(valid)]
        replay.add(np.zeros(2, int), step, valid)
        observation = step.observation
    batch = replay.sample(len(replay), np.random.default_rng(0))
    drawn = sorted((a.tobytes(), b.tobytes()) for a, b in zip(batch.observation, batch.next_observation, strict=True))
    assert drawn == sorted((a.tobytes(), b.tobytes()) for a, b in seen)


@pytest.mark.parametrize("make", [UniformSampler, PrioritizedSampler])
@pytest.mark.parametrize("filled", [20, 200])
def test_a_restored_replay_goes_on_exactly(tmp_path, make, filled):
    def new():
        return Replay(film_space(3), 2, 120, sampler=make(120), n_step=2, stack=3)

    def continue_from(replay, events, seed):
        rng, batches = np.random.default_rng(seed), []
        for event in events:
            feed(replay, [event])
            batch = replay.sample(8, rng, 0.5)
            replay.update_priorities(batch.index, batch.reward)
            batches.append(copy.deepcopy(batch))  # the next is written to the same memory
        return batches

    ends = np.random.default_rng(0).choice([0, 0, 0, 0, 1, 2], size=(filled + 50, 2))
    events = play(ends, stack=3)
    replay = new()
    feed(replay, events[:10])
    continue_from(replay, events[10:filled], seed=1)
    np.savez(tmp_path / "replay.npz", **replay.arrays())
    other = new()
    with np.load(tmp_path / "replay.npz", allow_pickle=False) as arrays:
        other.restore(arrays)
    assert len(other) == len(replay)
    for one, another in zip(
        continue_from(replay, events[filled:], seed=2), continue_from(other, events[filled:], seed=2), strict=True
    ):
        for field, stored in zip(one, another, strict=True):
            np.testing.assert_array_equal(field, stored)


def test_batches_of_one_size_take_turns_in_the_same_memory():
    # Memory taken anew for every batch of pixels costs more time than writing it.
    replay = Replay(film_space(3), 1, 60, sampler=UniformSampler(60), stack=3)
    feed(replay, play(np.zeros((40, 1), int), stack=3))
    rng = np.random.default_rng(0)
    for size in (8, 8, 5, 8):
        expected = copy.deepcopy(replay.sample(size, np.random.default_rng(size)))
        other = replay.sample(size, rng)
        batch = replay.sample(size, np.random.default_rng(size))
        for leaf, other_leaf in zip(leaves_of(batch), leaves_of(other), strict=True):
            assert np.shares_memory(leaf, other_leaf)
        assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(leaves_of(batch), 2))
        for leaf, expected_leaf in zip(leaves_of(batch), leaves_of(expected), strict=True):
            np.testing.assert_array_equal(leaf, expected_leaf)


def leaves_of(batch):
    """The arrays of a batch's observations and of those that follow."""
    return tf.nest.flatten([batch.observation, batch.next_observation])


def test_weights_and_new_priorities_reach_the_sampler():
    replay = Replay(film_space(None), 1, 50, sampler=PrioritizedSampler(50, exponent=1.0, offset=0.5))
    feed(replay, play(np.zeros((20, 1), int)))
    batch = replay.sample(20, np.random.default_rng(0), importance_exponent=1.0)
    assert batch.weight.tolist() == [1.0] * 20
    replay.update_priorities(batch.index[:1], np.array([9.5]))
    batch_of_many = replay.sample(20, np.random.default_rng(0), importance_exponent=1.0)
    chosen = batch_of_many.index == batch.index[0]
    assert chosen.sum() > 3
    np.testing.assert_allclose(batch_of_many.weight, np.where(chosen, 0.1, 1.0))


@pytest.mark.parametrize("sampler", [UniformSampler, PrioritizedSampler])
def test_a_million_atari_transitions_fit_into_8_gib(sampler):
    small = Replay(ATARI, 8, 10_000, sampler=sampler(10_000), n_step=3, stack=4)
    assert 100 * small.nbytes < 8 * GIB
    assert small.nbytes >= 10_000 * 84 * 84  # and nothing is left out of the sum


def test_a_large_replay_says_what_it_takes(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MEMORY_INFORMATION", tmp_path / "unknown")  # whatever this machine has left
    Replay(ATARI, 1, 200_000, sampler=UniformSampler(200_000), stack=4)  # not touched, so it takes nothing yet
    assert capsys.readouterr().out == "replay: 1.3 GiB once its 200,000 places are full\n"


def test_a_replay_that_cannot_fit_says_so_before_it_fills_the_machine():
    image = spaces.Box(0, 255, (3, 1000, 1000), np.uint8)
    with pytest.raises(MemoryError, match=r"1,000,000 places takes 2\d{3}.\d GiB, and .* replay_size, or if .*stack=k"):
        Replay(image, 1, 1_000_000, sampler=UniformSampler(1_000_000))


def replay_of(**settings):
    return Replay(film_space(3), **{"num_envs": 2, "capacity": 50, "sampler": UniformSampler(50), **settings})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: replay_of(n_step=4, stack=3, capacity=18), "capacity of 18 is 9 .* n_step=4 needs 10: at least 20"),
        (lambda: replay_of(sampler=UniformSampler(49)), "at least the replay's 50 places; it has 49"),
        (lambda: replay_of(stack=4), r"axis 0 has 4 frames; .* has shape \(3, 2\)"),
        (lambda: replay_of(discount=1.1), "discount must be between 0 and 1, got 1.1"),
        (lambda: replay_of(n_step=0), "n_step must be an integer of at least 1, got 0"),
        (lambda: replay_of().sample(4, np.random.default_rng(0)), "a batch of 4: the replay holds 0 transitions"),
        (lambda: feed(replay_of(), play(np.zeros((1, 2), int), stack=3)[1:]), r"start\(observation\) must come before"),
    ],
)
def test_bad_settings_and_calls_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_column_where_a_row_is_expected_is_not_broadcast():
    replay = replay_of()
    start, event = play(np.zeros((1, 2), int), stack=3)
    feed(replay, [start])
    step = event.step._replace(reward=event.step.reward[:, None])
    with pytest.raises(ValueError, match=r"reward must have shape \[2\], got \[2, 1\]"):
        replay.add(event.action, step, event.valid)


def test_observations_that_are_no_stack_are_not_taken_for_one():
    replay = replay_of(stack=3)
    observation = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    no = np.zeros(2, bool)
    replay.start(observation)
    with pytest.raises(ValueError, match="not their last 3 frames"):
        replay.add(np.zeros(2, int), Step(observation, np.zeros(2), no, no, observation), ~no)


def test_a_replay_of_other_settings_is_not_restored():
    with pytest.raises(ValueError, match=r"\[2, 25, 0, 1\], this one \[2, 25, 3, 1\]"):
        replay_of(stack=3).restore(replay_of().arrays())
    other = Replay(spaces.Box(0, 1, (4,)), 2, 50, sampler=UniformSampler(50))
    with pytest.raises(ValueError, match=r"other observations: no frame float32 \(3, 2\)"):
        replay_of().restore(other.arrays())
