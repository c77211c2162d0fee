"""Which places of a replay are drawn: all alike, or by priority.

A sampler knows places only, `0 .. capacity - 1`, and which of them hold a whole transition. Everything is vectorised
over the batch; there is no loop over items.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from kerasrl_pg.checks import as_integer
from kerasrl_pg.collect.memory import check_replay_memory
from kerasrl_pg.collect.replay_checks import check_priorities


class Sampler(Protocol):
    """What a replay asks of its sampler."""

    capacity: int
    """How many places there are."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        ...

    def __len__(self) -> int:
        """How many places can be drawn."""
        ...

    def include(self, places: np.ndarray) -> None:
        """Let `places` [K] be drawn from now on; those that already could be stay as they are."""
        ...

    def exclude(self, places: np.ndarray) -> None:
        """Let `places` [K] not be drawn any more; those that could not be stay as they are."""
        ...

    def draw(
        self, batch_size: int, rng: np.random.Generator, importance_exponent: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """`(places [B] int64, weights [B] float32)`, with replacement."""
        ...

    def update(self, places: np.ndarray, td_error: np.ndarray) -> None:
        """Learn how wrong the predictions of `places` [B] were."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """All that `restore` needs; not copies."""
        ...

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Become the sampler that `arrays` came from."""
        ...


class UniformSampler:
    """Draws every place with the same probability, 1 / len.

    The places that can be drawn stand in a list without gaps, so that one random integer draws one.

    Args:
        capacity: number of places.

    Raises:
        ValueError: a capacity below 1.
        MemoryError: more than the machine has available.

    Example:
        >>> sampler = UniformSampler(capacity=10)
        >>> sampler.include(np.array([3, 5, 7]))
        >>> sampler.exclude(np.array([5]))
        >>> places, weights = sampler.draw(4, np.random.default_rng(0))
        >>> sorted(set(places.tolist())), weights.tolist()
        ([3, 7], [1.0, 1.0, 1.0, 1.0])
    """

    def __init__(self, capacity: int):
        as_integer("capacity", capacity)
        check_replay_memory(16 * capacity, capacity, "")
        self.capacity = capacity
        self._count = 0
        self._list = np.zeros(capacity, np.int64)
        self._position = np.full(capacity, -1, np.int64)
        """Where in the list a place stands; -1 where it cannot be drawn."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self._list.nbytes + self._position.nbytes

    def __len__(self) -> int:
        """How many places can be drawn."""
        return self._count

    def include(self, places: np.ndarray) -> None:
        """Let `places` [K] be drawn from now on; those that already could be stay as they are."""
        places = np.unique(places)
        new = places[self._position[places] < 0]
        end = self._count + len(new)
        self._list[self._count : end] = new
        self._position[new] = np.arange(self._count, end)
        self._count = end

    def exclude(self, places: np.ndarray) -> None:
        """Let `places` [K] not be drawn any more; those that could not be stay as they are."""
        positions = self._position[np.unique(places)]
        positions = positions[positions >= 0]
        self._position[self._list[positions]] = -1
        end = self._count - len(positions)
        # What stood behind the new end and remains fills the holes before it: there are as many of one as of the other.
        tail = self._list[end : self._count]
        remaining, holes = tail[self._position[tail] >= 0], positions[positions < end]
        self._list[holes] = remaining
        self._position[remaining] = holes
        self._count = end

    def draw(
        self, batch_size: int, rng: np.random.Generator, importance_exponent: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw independently, with replacement.

        Args:
            batch_size: B.
            rng: where randomness comes from.
            importance_exponent: without effect, since there is no bias to correct.

        Returns:
            `(places [B] int64, weights [B] float32)`; the weights are 1.

        Raises:
            ValueError: there is no place that can be drawn.
        """
        _check_not_empty(self)
        return self._list[rng.integers(self._count, size=batch_size)], np.ones(batch_size, np.float32)

    def update(self, places: np.ndarray, td_error: np.ndarray) -> None:
        """Nothing: errors do not count here."""

    def arrays(self) -> dict[str, np.ndarray]:
        """All that `restore` needs; not copies. The order of the list counts: it is what a random integer points at."""
        return {"places": self._list[: self._count]}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Become the sampler that `arrays` came from."""
        places = arrays["places"].copy()
        self._count = len(places)
        self._list[: self._count] = places
        self._position[:] = -1
        self._position[places] = np.arange(self._count)


class PrioritizedSampler:
    """Draws a place by how wrong its prediction was.

    P(i) = pᵢ / Σ p,  pᵢ = (|δᵢ| + offset)^exponent,  wᵢ = (N P(i))^-β / max w

    Source: Schaul et al. 2016, "Prioritized Experience Replay", arXiv:1511.05952, eqs. 1-2, section 3.4 and
    Algorithm 1. The draws of a batch are independent (the paper's are stratified), so that each has exactly P(i). A
    place that nobody has learned from yet has the largest priority so far, at first 1.

    Priorities are the leaves of a binary tree whose inner nodes are the sums below them; a place that cannot be drawn
    has 0. A draw goes down one path and an update up one, for the whole batch a level at a time. Sums are always made
    anew from both children, so that rounding errors do not pile up.

    Args:
        capacity: number of places.
        exponent: how much priorities count: 0 not at all, 1 fully (α).
        offset: added to |δ|, in its units, so that no place is forgotten for good.

    Raises:
        ValueError: a setting out of range.
        MemoryError: more than the machine has available.

    Example:
        >>> sampler = PrioritizedSampler(capacity=4, exponent=1.0, offset=0.5)
        >>> sampler.include(np.arange(4))
        >>> sampler.update(np.arange(4), np.array([0.0, 0.0, -2.5, 0.0]))  # priorities 0.5, 0.5, 3, 0.5
        >>> places, weights = sampler.draw(900, np.random.default_rng(0), importance_exponent=1.0)
        >>> round(float(np.mean(places == 2)), 1)  # 3 / 4.5
        0.7
        >>> sorted(set(weights.tolist()))  # 0.5 / 3
        [0.1666..., 1.0]
    """

    def __init__(self, capacity: int, exponent: float = 0.6, offset: float = 0.1):
        as_integer("capacity", capacity)
        check_priorities(exponent, offset)
        self.capacity = capacity
        self.exponent = exponent
        self.offset = offset
        self._depth = (capacity - 1).bit_length()
        self._first_leaf = 1 << self._depth
        check_replay_memory(16 * self._first_leaf, capacity, "")
        self._tree = np.zeros(2 * self._first_leaf)
        """The root is node 1; the children of node i are 2 i and 2 i + 1."""
        self._max_priority = 1.0
        self._count = 0

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self._tree.nbytes

    @property
    def priorities(self) -> np.ndarray:
        """[capacity] float64, 0 where a place cannot be drawn; not a copy."""
        return self._tree[self._first_leaf : self._first_leaf + self.capacity]

    def __len__(self) -> int:
        """How many places can be drawn."""
        return self._count

    def include(self, places: np.ndarray) -> None:
        """Let `places` [K] be drawn from now on, at the largest priority so far; who already could be keeps its own."""
        places = np.unique(places)
        new = places[self.priorities[places] == 0]
        self._count += len(new)
        self._write(new, self._max_priority)

    def exclude(self, places: np.ndarray) -> None:
        """Let `places` [K] not be drawn any more; those that could not be stay as they are."""
        places = np.unique(places)
        old = places[self.priorities[places] > 0]
        self._count -= len(old)
        self._write(old, 0.0)

    def draw(
        self, batch_size: int, rng: np.random.Generator, importance_exponent: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw independently, with replacement.

        Args:
            batch_size: B.
            rng: where randomness comes from.
            importance_exponent: how much of the bias to correct: 0 nothing, 1 all (β).

        Returns:
            `(places [B] int64, weights [B] float32)`; the largest weight is 1.

        Raises:
            ValueError: there is no place that can be drawn, or an exponent out of range.
        """
        _check_not_empty(self)
        if not 0.0 <= importance_exponent <= 1.0:
            raise ValueError(f"importance_exponent must be between 0 and 1, got {importance_exponent!r}")
        remainder = rng.random(batch_size) * self._tree[1]
        node = np.ones(batch_size, np.int64)
        for _ in range(self._depth):
            left = 2 * node
            left_sum = self._tree[left]
            # Rounding can leave a remainder as large as the left sum where there is nothing on the right.
            right = (remainder >= left_sum) & (self._tree[left + 1] > 0)
            remainder -= left_sum * right
            node = left + right
        priority = self._tree[node]
        # N and Σ p cancel when the weights are divided by the largest, that of the smallest priority.
        weight = (priority / priority.min()) ** -importance_exponent
        return node - self._first_leaf, weight.astype(np.float32)

    def update(self, places: np.ndarray, td_error: np.ndarray) -> None:
        """Set new priorities; a place that cannot be drawn (any more) keeps 0.

        Args:
            places: [B] int; where one occurs twice, its last error counts.
            td_error: [B], of either sign.

        Raises:
            ValueError: shapes that differ, or errors that are not finite.
        """
        places, td_error = np.asarray(places), np.asarray(td_error, np.float64)
        if places.ndim != 1 or places.shape != td_error.shape:
            raise ValueError(f"places and td_error must both be [B], got {places.shape} and {td_error.shape}")
        if not np.isfinite(td_error).all():
            raise ValueError(f"td_error must be finite, got {td_error[~np.isfinite(td_error)][0]}")
        drawable = self.priorities[places] > 0
        priority = ((np.abs(td_error) + self.offset) ** self.exponent)[drawable]
        self._max_priority = float(priority.max(initial=self._max_priority))
        self._write(places[drawable], priority)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that `restore` needs; not copies. The sums are made anew."""
        return {"priorities": self.priorities, "max_priority": np.array(self._max_priority)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Become the sampler that `arrays` came from."""
        self.priorities[:] = arrays["priorities"]
        self._max_priority = float(arrays["max_priority"])
        self._count = int(np.count_nonzero(self.priorities))
        for level in reversed(range(self._depth)):
            children = self._tree[2 << level : 4 << level].reshape(-1, 2)
            self._tree[1 << level : 2 << level] = children[:, 0] + children[:, 1]

    def _write(self, places: np.ndarray, priority: np.ndarray | float) -> None:
        node = places + self._first_leaf
        self._tree[node] = priority
        for _ in range(self._depth):
            node = node >> 1
            self._tree[node] = self._tree[2 * node] + self._tree[2 * node + 1]


def _check_not_empty(sampler: Sampler) -> None:
    if len(sampler) == 0:
        raise ValueError(f"none of the {sampler.capacity} places can be drawn yet")
