"""A replay in main memory, for environments that live outside the graph."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from kerasrl_pg.checks import as_integer
from kerasrl_pg.collect.memory import check_replay_memory
from kerasrl_pg.collect.replay_checks import check_settings
from kerasrl_pg.collect.samplers import Sampler
from kerasrl_pg.shared_memory import aligned_empty
from kerasrl_pg.spaces import check_observation_space, flatten, leaf_paths, tensor_dtype, unflatten
from kerasrl_pg.types import Step, Transitions

BYTES_BESIDE_FRAMES = 4 + 4 + 1 + 1
"""Per place: action, reward, terminated, ended."""


class Replay:
    """The last transitions of N environments. Every frame is stored once.

    There is one ring of places per environment. An episode of L steps takes k + L of them, k being the number of
    frames in an observation (1 without `stack`): first all k frames of its first observation, then the newest frame
    of each that follows, the final one included. A transition stands where the newest frame of its observation does:

        place        0    1    2    3    4    5    6 ...
        frame       f-2  f-1   f0   f1   f2 | g-2  g-1 ...      k = 3; an episode that ends with its second step
        transition             0→1  1→2

    so an observation is always the k places up to its own, whatever was padded at the episode's start. A transition
    of n steps can be drawn once they are there, or its episode's end; no longer when a frame that it needs is
    overwritten. A time limit cuts the n steps short and bootstraps; a termination gives discount 0, also where
    both came at once.

    Args:
        observation_space: of ONE environment.
        num_envs: N.
        capacity: places of all environments together; a multiple of N, or the remainder is not used.
        sampler: decides what is drawn; empty, and of at least this capacity.
        n_step: environment steps that a transition spans.
        discount: γ, per environment step.
        stack: k, where axis 0 of an observation (of each part of it) is its last k frames; None stores observations
            whole.

    Raises:
        ValueError: settings that do not fit each other; the message says which.
        TypeError: observations that are not supported.
        MemoryError: more than the machine has available.

    Example:
        >>> from kerasrl_pg.collect.samplers import UniformSampler
        >>> space = gymnasium.spaces.Box(0, 9, (1,))
        >>> replay = Replay(space, num_envs=1, capacity=100, sampler=UniformSampler(100), n_step=2, discount=0.5)
        >>> replay.start(np.array([[0.0]]))
        >>> no, one = np.zeros(1, bool), np.ones(1, np.float32)
        >>> for count in (1, 2, 3):
        ...     observation = np.array([[count]], np.float32)
        ...     replay.add(np.array([0]), Step(observation, one, no, no, observation), valid=~no)
        >>> len(replay)
        2
        >>> batch = replay.sample(2, np.random.default_rng(1))
        >>> batch.observation[:, 0].tolist(), batch.next_observation[:, 0].tolist()
        ([0.0, 1.0], [2.0, 3.0])
        >>> batch.reward.tolist(), batch.discount.tolist()
        ([1.5, 1.5], [0.25, 0.25])
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        num_envs: int,
        capacity: int,
        *,
        sampler: Sampler,
        n_step: int = 1,
        discount: float = 0.99,
        stack: int | None = None,
    ):
        check_observation_space(observation_space)
        if stack is not None:
            _check_stack(observation_space, stack)
        frames = stack or 1
        check_settings(
            num_envs=num_envs, capacity=capacity, n_step=n_step, discount=discount, slots_needed=n_step + 2 * frames
        )
        if sampler.capacity < capacity or len(sampler) > 0:
            raise ValueError(
                f"the sampler must be empty and have at least the replay's {capacity} places; "
                f"it has {sampler.capacity}, of which {len(sampler)} can be drawn"
            )
        self.observation_space = observation_space
        self.num_envs = num_envs
        self.n_step = n_step
        self.discount = discount
        self.sampler = sampler
        self._stack = stack
        self._frames_per_observation = frames
        self._slots = capacity // num_envs
        self._allocate(capacity)
        self._head = np.zeros(num_envs, np.int64)
        """[N] how many places were written so far: the next one, but for the turns of the ring."""
        self._steps = np.zeros(num_envs, np.int64)
        """[N] steps of the episode that goes on."""

    def __len__(self) -> int:
        """How many transitions can be drawn."""
        return len(self.sampler)

    @property
    def nbytes(self) -> int:
        """Memory that it takes when full, in bytes, that of the sampler included."""
        return sum(array.nbytes for array in self._rings.values()) + self.sampler.nbytes

    @property
    def most(self) -> int:
        """How many transitions can be drawn when it is full and no episode has ended."""
        return self.num_envs * (self._slots - self.n_step - self._frames_per_observation + 1)

    def start(self, observation: Any) -> None:
        """Begin N episodes, after a reset.

        Of episodes that this interrupts there remain the transitions whose n steps are there.

        Args:
            observation: [N, *observation]
        """
        self._begin(np.arange(self.num_envs), observation)

    def add(self, action: np.ndarray, step: Step, valid: np.ndarray) -> None:
        """Store one step of N environments.

        Args:
            action: [N] int.
            step: what the environments returned, of NumPy arrays. Rewards are stored as they are.
            valid: [N] bool, as `VectorAdapter.step` returns it: False where the step only reset, and so begins an
                episode and is no transition.

        Raises:
            ValueError: `start` was not called before, a shape that is not [N], or observations that are not a stack.
        """
        self._check_step(action, step, valid)
        environments = np.flatnonzero(valid)  # [M]
        here = environments, (self._head[environments] - 1) % self._slots
        ended = step.terminated | step.truncated  # [N]
        self._rings["action"][here] = action[environments]
        self._rings["reward"][here] = step.reward[environments]
        self._rings["terminated"][here] = step.terminated[environments]
        self._rings["ended"][here] = ended[environments]
        self._write(environments, flatten(self.observation_space, step.final_observation), frame=-1)
        self._steps[environments] += 1
        self._include_whole_transitions(environments, ended[environments])
        # Under NEXT_STEP autoreset the observation after an end is not yet the next episode's: the step that resets,
        # which is not valid, begins that episode a second time, in the same places.
        begins = np.flatnonzero(ended | ~valid)
        if begins.size:
            self._begin(begins, step.observation)

    def sample(self, batch_size: int, rng: np.random.Generator, importance_exponent: float = 0.0) -> Transitions:
        """Draw B transitions, with replacement.

        Args:
            batch_size: B.
            rng: where randomness comes from.
            importance_exponent: β, how much of the bias of prioritized sampling the weights correct.

        Returns:
            `Transitions` of NumPy arrays; the next call of the same size writes its observations over these.

        Raises:
            ValueError: there is no transition yet.
        """
        as_integer("batch_size", batch_size)
        if len(self) == 0:
            raise ValueError(f"cannot draw a batch of {batch_size}: the replay holds {len(self)} transitions so far")
        index, weight = self.sampler.draw(batch_size, rng, importance_exponent)
        environment, slot = np.divmod(index, self._slots)
        window = environment[:, None], (slot[:, None] + np.arange(self.n_step)) % self._slots  # [B, n]
        ended = self._rings["ended"][window]
        going_on = np.cumsum(ended, axis=1) - ended == 0  # [B, n]: no step before this one ended the episode
        rewards = np.where(going_on, self._rings["reward"][window], 0)
        steps = going_on.sum(axis=1)  # [B]: n, or fewer
        terminated = (going_on & self._rings["terminated"][window]).any(axis=1)
        return Transitions(
            observation=self._observation(environment, slot, self._batches[0]),
            action=self._rings["action"][environment, slot],
            reward=(rewards * self.discount ** np.arange(self.n_step)).sum(axis=1).astype(np.float32),  # [B, n] -> [B]
            discount=np.where(terminated, 0.0, self.discount**steps).astype(np.float32),
            next_observation=self._observation(environment, slot + steps, self._batches[1]),
            weight=weight,
            index=index.astype(np.int32),
        )

    def update_priorities(self, index: np.ndarray, td_error: np.ndarray) -> None:
        """Tell the sampler how wrong the predictions were, before the next `add` writes over their places.

        Args:
            index: [B], of `Transitions`.
            td_error: [B], of either sign.
        """
        self.sampler.update(index, td_error)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, by name; only what is filled, and not copies: save them before the next `add`."""
        filled = min(self._slots, int(self._head.max()))
        return {
            "layout": self._layout(),
            "head": self._head,
            "steps": self._steps,
            **{name: ring[:, :filled] for name, ring in self._rings.items()},
            **{f"sampler/{name}": array for name, array in self.sampler.arrays().items()},
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Become the replay that `arrays` came from: what follows is the same to the last bit.

        Raises:
            ValueError: that replay had other settings.
        """
        if arrays["layout"].tolist() != self._layout().tolist():
            raise ValueError(
                "the stored replay has [num_envs, places of each, stack, n_step] = "
                f"{arrays['layout'].tolist()}, this one {self._layout().tolist()}: to go on with it, the same "
                "num_envs is needed, and the same algorithm"
            )
        prefix = "sampler/"
        of_sampler = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        if of_sampler.keys() != self.sampler.arrays().keys():
            raise ValueError(
                "the stored replay was sampled in another way (uniformly, or by priority): to go on with it, the same "
                "sampler is needed"
            )
        for name, ring in self._rings.items():
            stored = arrays.get(name, np.zeros([0, 0]))  # once each: a file may have to be read for it
            if stored.shape[2:] != ring.shape[2:] or stored.dtype != ring.dtype:
                raise ValueError(f"the stored replay has other observations: no {name} {ring.dtype} {ring.shape[2:]}")
            ring[:, : stored.shape[1]] = stored
        self._head[:] = arrays["head"]
        self._steps[:] = arrays["steps"]
        self.sampler.restore(of_sampler)

    def _allocate(self, capacity: int) -> None:
        """Zeros take no memory before they are written."""
        leaves = {"/".join(("frame", *map(str, path))): leaf for path, leaf in leaf_paths(self.observation_space)}
        shapes = {name: (leaf.shape or ())[1 if self._stack else 0 :] for name, leaf in leaves.items()}
        dtypes = {name: tensor_dtype(leaf) for name, leaf in leaves.items()}
        frame_bytes = sum(math.prod(shapes[name]) * dtypes[name].itemsize for name in leaves)
        advice = "" if self._stack else "if observations are stacks of frames, store each once: stack=k"
        check_replay_memory(capacity * (frame_bytes + BYTES_BESIDE_FRAMES), capacity, advice)
        size = self.num_envs, self._slots
        self._rings = {
            "action": np.zeros(size, np.int32),
            "reward": np.zeros(size, np.float32),
            "terminated": np.zeros(size, bool),
            "ended": np.zeros(size, bool),
            **{name: np.zeros((*size, *shapes[name]), dtypes[name]) for name in leaves},
        }
        self._frames = [self._rings[name] for name in leaves]
        # Observations and those that follow. Memory taken anew for each batch would cost more than writing it.
        self._batches: tuple[dict, dict] = ({}, {})

    def _begin(self, environments: np.ndarray, observation: Any) -> None:
        """An episode that has begun but has no step yet begins anew in the same places."""
        again = (self._steps[environments] == 0) & (self._head[environments] > 0)
        self._head[environments] -= np.where(again, self._frames_per_observation, 0)
        leaves = flatten(self.observation_space, observation)
        for frame in range(self._frames_per_observation):
            self._write(environments, leaves, frame)
        self._steps[environments] = 0

    def _write(self, environments: np.ndarray, leaves: list[np.ndarray], frame: int) -> None:
        """Frame number `frame` of the observations of `environments`, at the next place of each."""
        slot = self._head[environments] % self._slots
        for ring, leaf in zip(self._frames, leaves, strict=True):
            ring[environments, slot] = leaf[environments, frame] if self._stack else leaf[environments]
        # The last observation that has a frame here has its own place k - 1 further on.
        last = (slot + self._frames_per_observation - 1) % self._slots
        self.sampler.exclude(environments * self._slots + last)
        self._head[environments] += 1

    def _include_whole_transitions(self, environments: np.ndarray, ended: np.ndarray) -> None:
        """That of n steps ago; at an episode's end also the shorter ones."""
        ago = np.arange(self.n_step)  # [n]
        slot = (self._head[environments] - 2)[:, None] - ago  # [M, n]: the last is that of the frame before the newest
        whole = (ago < self._steps[environments][:, None]) & ((ago == self.n_step - 1) | ended[:, None])  # [M, n]
        self.sampler.include((environments[:, None] * self._slots + slot % self._slots)[whole])

    def _observation(self, environment: np.ndarray, slot: np.ndarray, memory: dict) -> Any:
        """[B, *observation] whose newest frames are at `slot` [B] of `environment` [B], written to `memory`."""
        if self._stack:
            environment, slot = environment[:, None], slot[:, None] + np.arange(1 - self._stack, 1)  # [B, 1], [B, k]
        place = environment * self._slots + slot % self._slots  # [B] or [B, k]
        leaves = [_frames_at(place, ring, memory, leaf) for leaf, ring in enumerate(self._frames)]
        return unflatten(self.observation_space, leaves)

    def _check_step(self, action: np.ndarray, step: Step, valid: np.ndarray) -> None:
        if not self._head.all():
            raise ValueError("start(observation) must come before add")
        named = {"action": action, "reward": step.reward, "terminated": step.terminated}
        for name, array in {**named, "truncated": step.truncated, "valid": valid}.items():
            if np.shape(array) != (self.num_envs,):
                raise ValueError(f"{name} must have shape [{self.num_envs}], got {list(np.shape(array))}")
        if self._stack and not self._steps.any():  # once is enough: that it is a stack is a fact of the space
            before = flatten(self.observation_space, self._observation(np.arange(self.num_envs), self._head - 1, {}))
            after = flatten(self.observation_space, step.final_observation)
            if not all(np.array_equal(b[valid, 1:], a[valid, :-1]) for b, a in zip(before, after, strict=True)):
                raise ValueError(
                    f"stack={self._stack}, but axis 0 of the observations is not their last {self._stack} frames: "
                    "the first step did not move it by one"
                )

    def _layout(self) -> np.ndarray:
        return np.array([self.num_envs, self._slots, self._stack or 0, self.n_step])


def _frames_at(place: np.ndarray, ring: np.ndarray, memory: dict, leaf: int) -> np.ndarray:
    """[..., *frame] of a ring [N, places, *frame], in memory that TensorFlow can read where it is."""
    shape = *place.shape, *ring.shape[2:]
    if memory.get(leaf) is None or memory[leaf].shape != shape:
        memory[leaf] = aligned_empty(shape, ring.dtype)
    frames = ring.reshape(-1, *ring.shape[2:])
    return np.take(frames, place, axis=0, out=memory[leaf], mode="clip")  # "raise" would copy


def _check_stack(space: gymnasium.Space, stack: int) -> None:
    as_integer("stack", stack)
    for path, leaf in leaf_paths(space):
        if (leaf.shape or (None,))[0] != stack:
            where = "".join(f"[{key!r}]" for key in path)
            raise ValueError(
                f"stack={stack} asks for observations whose axis 0 has {stack} frames; {leaf}{where and ' at ' + where}"
                f" has shape {leaf.shape}"
            )
