"""A replay of tensors, for environments that are graphs themselves: adds and draws inside one compiled loop."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gymnasium
import tensorflow as tf

from kerasrl_pg.collect.graph_sum_tree import Tree, draw_places, empty_tree, set_priorities
from kerasrl_pg.collect.memory import check_replay_memory
from kerasrl_pg.collect.replay_checks import check_priorities, check_settings
from kerasrl_pg.spaces import check_observation_space, leaf_paths, map_space, tensor_dtype
from kerasrl_pg.types import Step, Transitions


class Rows(NamedTuple):
    """The ring: R rows of N environments, of which each `add` writes one."""

    observation: Any
    """[R, N, *observation]"""
    next_observation: Any
    """[R, N, *observation]: the true successor, before any reset."""
    action: tf.Tensor
    """[R, N] int32"""
    reward: tf.Tensor
    """[R, N] float32"""
    terminated: tf.Tensor
    """[R, N] bool"""
    ended: tf.Tensor
    """[R, N] bool: terminated or truncated."""


class ReplayState(NamedTuple):
    """All that a `GraphReplay` knows."""

    rows: Rows
    cursor: tf.Tensor
    """int32: the row that is written next."""
    filled: tf.Tensor
    """int32: how many rows were written, at most R."""
    tree: Tree
    """Priorities of the R · N places, row by row; empty where all are drawn alike."""
    max_priority: tf.Tensor
    """float32: the largest so far, at first 1."""


class GraphReplay:
    """The last transitions of N environments, as pure functions of a `ReplayState`.

    A ring of rows: each holds one step of all environments, with both its observations. Written in place where XLA
    compiles the loop that carries the state, so that the cost of an `add` does not depend on the capacity. The state
    that goes into a compiled call is copied once: let a call make many steps, or keep the state in variables, which are
    not copied. Where learning is a choice, a `tf.while_loop` of no turn or one writes priorities in place; a `tf.cond`
    copies all of them.

    Rows can be drawn once n - 1 more were added; then the n steps of each environment are there, or its episode's
    end. A time limit cuts the n steps short and bootstraps; a termination gives discount 0, also where both came at
    once.

    Prioritized sampling is that of `samplers.PrioritizedSampler`, in float32.

    Args:
        observation_space: of ONE environment.
        num_envs: N.
        capacity: transitions of all environments together; R is `capacity // num_envs`.
        n_step: environment steps that a transition spans.
        discount: γ, per environment step.
        prioritized: `(exponent, offset)` of the priorities; None draws all alike.

    Raises:
        ValueError: settings that do not fit each other; the message says which.
        TypeError: observations that are not supported.
        MemoryError: more than the machine has available.

    Example:
        >>> from kerasrl_pg.envs.cartpole import CartPole
        >>> environment = CartPole(num_envs=2)
        >>> replay = GraphReplay(environment.observation_space, num_envs=2, capacity=100)
        >>> state = replay.empty()
        >>> env_state, observation = environment.reset(tf.constant([0, 0]))
        >>> action = tf.constant([0, 1])
        >>> _, step = environment.step(env_state, action, tf.constant([0, 1]))
        >>> state = replay.add(state, observation, action, step)
        >>> int(replay.size(state))
        2
        >>> replay.sample(state, 8, tf.constant([0, 2])).observation.shape
        TensorShape([8, 4])
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        num_envs: int,
        capacity: int,
        *,
        n_step: int = 1,
        discount: float = 0.99,
        prioritized: tuple[float, float] | None = None,
    ):
        check_observation_space(observation_space)
        check_settings(num_envs=num_envs, capacity=capacity, n_step=n_step, discount=discount, slots_needed=n_step)
        if prioritized is not None:
            check_priorities(*prioritized)
        self.observation_space = observation_space
        self.num_envs = num_envs
        self.n_step = n_step
        self.discount = discount
        self.prioritized = prioritized
        self.num_rows = capacity // num_envs
        check_replay_memory(2 * self.nbytes, capacity, "")  # a call of the program reads one state and writes another

    @property
    def nbytes(self) -> int:
        """Memory of one state, in bytes, but for the priorities' sums."""
        leaves = [leaf for _, leaf in leaf_paths(self.observation_space)]
        observation = sum(math.prod(leaf.shape or ()) * tensor_dtype(leaf).itemsize for leaf in leaves)
        beside = 4 + 4 + 1 + 1 + (0 if self.prioritized is None else 4)  # action, reward, terminated, ended, priority
        return self.num_rows * self.num_envs * (2 * observation + beside)

    @property
    def most(self) -> int:
        """How many transitions can be drawn when it is full."""
        return self.num_envs * (self.num_rows - self.n_step + 1)

    def empty(self) -> ReplayState:
        """The state before the first `add`."""
        size = [self.num_rows, self.num_envs]

        def observations() -> Any:
            zeros = lambda leaf: tf.zeros([*size, *(leaf.shape or ())], tensor_dtype(leaf))  # noqa: E731
            return map_space(zeros, self.observation_space)

        return ReplayState(
            rows=Rows(
                observation=observations(),
                next_observation=observations(),
                action=tf.zeros(size, tf.int32),
                reward=tf.zeros(size),
                terminated=tf.zeros(size, tf.bool),
                ended=tf.zeros(size, tf.bool),
            ),
            cursor=tf.constant(0),
            filled=tf.constant(0),
            tree=() if self.prioritized is None else empty_tree(self.num_rows * self.num_envs),
            max_priority=tf.constant(1.0),
        )

    def size(self, state: ReplayState) -> tf.Tensor:
        """How many transitions can be drawn, int32."""
        return self.num_envs * tf.maximum(state.filled - (self.n_step - 1), 0)

    def add(self, state: ReplayState, observation: Any, action: tf.Tensor, step: Step) -> ReplayState:
        """The state after one more step of N environments.

        Args:
            state: so far.
            observation: [N, *observation], from which the action was chosen.
            action: [N] int.
            step: what the environments returned. Rewards are stored as they are.

        Returns:
            The new state; the old one is not to be used any more, or it has to be copied.

        Raises:
            ValueError: a shape that is not that of a row.
        """
        ended = step.terminated | step.truncated
        row = Rows(observation, step.final_observation, action, step.reward, step.terminated, ended)
        filled = tf.minimum(state.filled + 1, self.num_rows)
        return ReplayState(
            rows=Rows(*(_write(state.cursor, *part) for part in zip(Rows._fields, state.rows, row, strict=True))),
            cursor=(state.cursor + 1) % self.num_rows,
            filled=filled,
            tree=state.tree if self.prioritized is None else self._tree_after_add(state, filled),
            max_priority=state.max_priority,
        )

    def sample(
        self, state: ReplayState, batch_size: int, seed: tf.Tensor, importance_exponent: tf.Tensor | float = 0.0
    ) -> Transitions:
        """Draw B transitions, independently and with replacement.

        Args:
            state: with at least one transition (`size`); a graph cannot raise, and what comes out without
                means nothing.
            batch_size: B.
            seed: [2] int32.
            importance_exponent: β, how much of the bias of prioritized sampling the weights correct.

        Returns:
            `Transitions`; the largest weight is 1.
        """
        if self.prioritized is None:
            index, weight = self._draw_uniformly(state, batch_size, seed), tf.ones([batch_size])
        else:
            index = draw_places(state.tree, batch_size, seed)
            priority = tf.gather(state.tree[0], index)
            # N and Σ p cancel when the weights are divided by the largest, that of the smallest priority.
            weight = tf.pow(priority / tf.reduce_min(priority), -importance_exponent)
        rows = state.rows
        steps_on = self.num_envs * tf.range(self.n_step)  # [n]
        window = (index[:, None] + steps_on) % (self.num_rows * self.num_envs)  # [B, n]
        ended = _gather(rows.ended, window)
        going_on = tf.equal(tf.cumsum(tf.cast(ended, tf.int32), axis=1, exclusive=True), 0)  # no earlier step ended it
        rewards = tf.where(going_on, _gather(rows.reward, window), 0.0)  # [B, n]
        terminated = tf.reduce_any(going_on & _gather(rows.terminated, window), axis=1)  # [B, n] -> [B]
        steps = tf.reduce_sum(tf.cast(going_on, tf.int32), axis=1)  # [B]: n, or fewer
        last = tf.gather(window, steps - 1, batch_dims=1)  # [B]
        powers = tf.constant([self.discount**power for power in range(self.n_step + 1)])  # [n + 1]
        return Transitions(
            observation=tf.nest.map_structure(lambda ring: _gather(ring, index), rows.observation),
            action=_gather(rows.action, index),
            reward=tf.reduce_sum(rewards * powers[:-1], axis=1),  # [B, n] -> [B]
            discount=tf.where(terminated, 0.0, tf.gather(powers, steps)),
            next_observation=tf.nest.map_structure(lambda ring: _gather(ring, last), rows.next_observation),
            weight=weight,
            index=index,
        )

    def update_priorities(self, state: ReplayState, index: tf.Tensor, td_error: tf.Tensor) -> ReplayState:
        """The state with new priorities, (|δ| + offset)^exponent; as it was, where all are drawn alike.

        Args:
            state: so far.
            index: [B] int32, of `Transitions`; where one occurs twice, its last error counts.
            td_error: [B], of either sign.

        Returns:
            The new state. A place that cannot be drawn (any more) keeps priority 0.

        Raises:
            ValueError: shapes that differ.
        """
        index, td_error = tf.convert_to_tensor(index), tf.convert_to_tensor(td_error)
        if index.shape.rank != 1 or not index.shape.is_compatible_with(td_error.shape):
            raise ValueError(f"index and td_error must both be [B], got {index.shape} and {td_error.shape}")
        if self.prioritized is None:
            return state
        exponent, offset = self.prioritized
        priority = tf.pow(tf.abs(tf.cast(td_error, tf.float32)) + offset, exponent)
        # Which of two writes to one place comes last is not defined, so both write what the last one should.
        order = tf.range(tf.size(index))
        last = tf.reduce_max(tf.where(tf.equal(index[:, None], index), order, 0), axis=1)  # [B, B] -> [B]
        drawable = tf.gather(state.tree[0], index) > 0
        priority = tf.where(drawable, tf.gather(priority, last), 0.0)
        return state._replace(
            tree=set_priorities(state.tree, index, priority),
            max_priority=tf.maximum(state.max_priority, tf.reduce_max(priority)),
        )

    def _draw_uniformly(self, state: ReplayState, batch_size: int, seed: tf.Tensor) -> tf.Tensor:
        """[B] int32. The remainder of 62 random bits favours no place by more than 10⁻¹² of its probability."""
        words = tf.random.stateless_uniform([2, batch_size], seed, None, None, tf.int32, alg="philox")
        high, low = tf.unstack(tf.cast(tf.bitwise.bitwise_and(words, 0x7FFFFFFF), tf.int64))
        size = tf.cast(tf.maximum(self.size(state), 1), tf.int64)
        number = tf.cast((high * 2**31 + low) % size, tf.int32)  # [B], 0 is the oldest
        oldest = self.num_envs * (state.cursor - state.filled)
        return (oldest + number) % (self.num_rows * self.num_envs)

    def _tree_after_add(self, state: ReplayState, filled: tf.Tensor) -> Tree:
        """The row just written cannot be drawn before the n - 1 after it; that of n - 1 ago now can."""
        environments = tf.range(self.num_envs)
        whole_row = (state.cursor - (self.n_step - 1)) % self.num_rows
        places = whole_row * self.num_envs + environments  # [N]
        priority = tf.repeat(tf.where(filled >= self.n_step, state.max_priority, 0.0), self.num_envs)
        if self.n_step > 1:
            places = tf.concat([places, state.cursor * self.num_envs + environments], axis=0)  # [2 N]
            priority = tf.concat([priority, tf.zeros([self.num_envs])], axis=0)
        return set_priorities(state.tree, places, priority)


def _write(cursor: tf.Tensor, name: str, ring: Any, row: Any) -> Any:
    """Row number `cursor` of every part of a ring."""

    def write(ring: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        row = tf.cast(row, ring.dtype)
        if not row.shape.is_compatible_with(ring.shape[1:]):
            raise ValueError(f"{name} must have shape {ring.shape[1:]}, got {row.shape}")
        return tf.tensor_scatter_nd_update(ring, [[cursor]], row[None])  # [R, N, ...]

    return tf.nest.map_structure(write, ring, row)


def _gather(ring: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """[R, N, ...] at `places` [*batch], counted row by row: [*batch, ...]."""
    return tf.gather(tf.reshape(ring, [-1, *ring.shape[2:]]), places)
