import numpy as np
import pytest
import scipy.stats

from kerasrl_pg.collect.samplers import PrioritizedSampler, UniformSampler
from tests.collect.naive_replay import naive_priorities

ERRORS = np.array([0.0, -0.1, 0.1, -3.0, 3.0, 0.5, 20.0, 0.02])
SAMPLERS = [UniformSampler, PrioritizedSampler]


def prioritized(errors=ERRORS, *, capacity=100, exponent=0.6, offset=0.1):
    sampler = PrioritizedSampler(capacity, exponent, offset)
    sampler.include(np.arange(len(errors)))
    sampler.update(np.arange(len(errors)), errors)
    return sampler


def drawn_counts(sampler, draws, batch_size=256, seed=0):
    rng = np.random.default_rng(seed)
    counts = np.zeros(sampler.capacity, int)
    for _ in range(draws // batch_size):
        np.add.at(counts, sampler.draw(batch_size, rng)[0], 1)
    return counts


def fits(counts, probability):
    """p-value of the counts being draws from the probabilities; impossible ones must not occur at all."""
    assert counts[probability == 0].sum() == 0
    possible = probability > 0
    return scipy.stats.chisquare(counts[possible], counts.sum() * probability[possible]).pvalue


def padded(probability, capacity):
    return np.pad(probability / probability.sum(), (0, capacity - len(probability)))


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0])
def test_places_are_drawn_in_proportion_to_their_priorities(exponent):
    counts = drawn_counts(prioritized(exponent=exponent), 200_000)
    assert fits(counts, padded(naive_priorities(ERRORS, exponent, 0.1), 100)) > 1e-3


def test_the_distribution_is_that_of_a_naive_sampler_also_while_places_come_and_go():
    rng = np.random.default_rng(1)
    sampler = PrioritizedSampler(capacity=37, exponent=0.7, offset=0.2)  # not a power of two
    naive, largest = np.zeros(37), 1.0
    for _ in range(50):
        come, go, learned = (rng.integers(37, size=size) for size in (6, 3, 8))
        error = rng.normal(size=8) * 10 ** rng.uniform(-2, 2)
        sampler.include(come)
        naive[come] = np.where(naive[come] == 0, largest, naive[come])
        sampler.exclude(go)
        naive[go] = 0
        sampler.update(learned, error)
        for place, priority in zip(learned, naive_priorities(error, 0.7, 0.2), strict=True):  # the last one counts
            if naive[place] > 0:
                naive[place] = priority
                largest = max(largest, priority)
        np.testing.assert_allclose(sampler.priorities, naive)
        assert len(sampler) == np.count_nonzero(naive)
    assert fits(drawn_counts(sampler, 200_000), naive / naive.sum()) > 1e-3


def test_the_distribution_holds_among_very_many_places():
    rng = np.random.default_rng(2)
    errors = rng.exponential(size=300_000) ** 4
    counts = drawn_counts(prioritized(errors, capacity=len(errors)), 1_000_000, batch_size=100_000)
    expected = naive_priorities(errors, 0.6, 0.1).reshape(300, 1000).sum(axis=1)
    assert fits(counts.reshape(300, 1000).sum(axis=1), expected / expected.sum()) > 1e-3


def test_small_errors_are_told_apart():
    """A priority that is at least 1 would make both alike."""
    counts = drawn_counts(prioritized(np.array([0.1, 0.4]), exponent=1.0), 100_000)
    assert counts[1] / counts[0] == pytest.approx(0.5 / 0.2, rel=0.03)


def test_the_sign_of_an_error_does_not_count_and_none_is_forgotten():
    """With the offset inside the absolute value -0.1 would never be drawn again, and 0.1 be twice as important as 0."""
    sampler = prioritized(np.array([-0.1, 0.1, 0.0]), exponent=1.0, offset=0.1)
    np.testing.assert_allclose(sampler.priorities[:3], [0.2, 0.2, 0.1])
    assert (drawn_counts(sampler, 1000)[:3] > 100).all()


def test_new_places_have_the_largest_priority_so_far():
    sampler = PrioritizedSampler(4, exponent=1.0, offset=0.5)
    sampler.include(np.array([0]))
    assert sampler.priorities.tolist() == [1, 0, 0, 0]
    sampler.update(np.array([0]), np.array([7.0]))
    sampler.update(np.array([0]), np.array([0.0]))
    sampler.include(np.array([0, 1]))
    assert sampler.priorities.tolist() == [0.5, 7.5, 0, 0]


def test_a_place_that_was_overwritten_meanwhile_takes_no_priority():
    sampler = prioritized()
    sampler.exclude(np.array([6]))
    sampler.update(np.array([6, 50]), np.array([1e6, 1e6]))
    assert sampler.priorities[[6, 50]].tolist() == [0, 0]
    sampler.include(np.array([6]))
    assert sampler.priorities[6] == pytest.approx(20.1**0.6)


@pytest.mark.parametrize("importance_exponent", [0.0, 0.4, 1.0])
def test_weights_undo_the_bias_as_far_as_is_asked(importance_exponent):
    sampler = prioritized()
    places, weights = sampler.draw(64, np.random.default_rng(0), importance_exponent)
    probability = naive_priorities(ERRORS, 0.6, 0.1) / naive_priorities(ERRORS, 0.6, 0.1).sum()
    expected = (len(ERRORS) * probability[places]) ** -importance_exponent
    np.testing.assert_allclose(weights, expected / expected.max(), rtol=1e-6)
    assert weights.dtype == np.float32


def test_sums_do_not_drift():
    rng = np.random.default_rng(3)
    sampler = prioritized(rng.normal(size=1000), capacity=1000)
    for size in 10.0 ** rng.uniform(-6, 6, size=2000):
        sampler.update(rng.integers(1000, size=32), size * rng.normal(size=32))
    sampler.update(np.arange(1000), np.full(1000, 0.5))
    assert sampler._tree[1] == pytest.approx(sampler.priorities.sum(), rel=1e-12)


def test_all_places_are_alike_to_the_uniform_sampler_whatever_came_and_went():
    rng = np.random.default_rng(4)
    sampler, naive = UniformSampler(50), set()
    for _ in range(100):
        come, go = rng.integers(50, size=8), rng.integers(50, size=6)
        sampler.include(come)
        sampler.exclude(go)
        naive = (naive | set(come.tolist())) - set(go.tolist())
        assert len(sampler) == len(naive)
    expected = np.isin(np.arange(50), list(naive)) / len(naive)
    assert 0 < len(naive) < 50
    assert fits(drawn_counts(sampler, 100_000), expected) > 1e-3


@pytest.mark.parametrize("make", SAMPLERS)
def test_a_restored_sampler_goes_on_as_if_nothing_had_happened(make):
    rng = np.random.default_rng(5)
    sampler = make(60)
    for _ in range(10):
        sampler.include(rng.integers(60, size=9))
        sampler.exclude(rng.integers(60, size=4))
        sampler.update(rng.integers(60, size=5), rng.normal(size=5))
    other = make(60)
    other.include(np.arange(60))  # what was there before does not matter
    other.restore({name: array.copy() for name, array in sampler.arrays().items()})
    for one in (sampler, other):
        one.exclude(np.array([1, 2, 3]))
        one.include(np.array([2]))
    assert len(other) == len(sampler)
    for one, another in zip(
        sampler.draw(500, np.random.default_rng(0), 0.5), other.draw(500, np.random.default_rng(0), 0.5), strict=True
    ):
        np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize("make", SAMPLERS)
@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_tiny_ones_work(make, capacity):
    sampler = make(capacity)
    sampler.include(np.array([capacity - 1]))
    assert set(sampler.draw(5, np.random.default_rng(0))[0].tolist()) == {capacity - 1}
    sampler.exclude(np.arange(capacity))
    with pytest.raises(ValueError, match=f"none of the {capacity} places"):
        sampler.draw(1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PrioritizedSampler(0), "capacity must be an integer of at least 1, got 0"),
        (lambda: UniformSampler(2.5), "capacity must be an integer of at least 1, got 2.5"),
        (lambda: PrioritizedSampler(5, exponent=1.5), "exponent must be between 0 and 1, got 1.5"),
        (lambda: PrioritizedSampler(5, offset=0.0), "offset must be a positive number, got 0.0"),
        (lambda: prioritized().draw(1, np.random.default_rng(0), 1.1), "importance_exponent must be .* got 1.1"),
        (lambda: prioritized().update(np.arange(2), np.ones([2, 1])), r"must both be \[B\], got \(2,\) and \(2, 1\)"),
        (lambda: prioritized().update(np.arange(2), np.array([1.0, np.nan])), "td_error must be finite, got nan"),
    ],
)
def test_settings_and_priorities_out_of_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
