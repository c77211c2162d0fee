"""A replay without a trick, and experience to fill it with, against which the real ones are held.

The naive store keeps whole observations in Python lists, one episode after the other. Every frame that an environment
shows has a number of its own, so that no mix-up goes unnoticed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from kerasrl_pg.types import Step, Transitions

GOES_ON, TERMINATED, TRUNCATED, BOTH = range(4)
"""How a step can end."""


@dataclasses.dataclass
class Event:
    """One call of a replay: `start(observation)` where `step` is None, else `add(action, step, valid)`."""

    observation: np.ndarray
    action: np.ndarray | None = None
    step: Step | None = None
    valid: np.ndarray | None = None


class Film:
    """An environment that shows numbered frames; an observation is its last `stack` of them, or one (None)."""

    def __init__(self, number: int, stack: int | None, zero_padded: bool):
        self.frames_shown = 1000 * number
        self.stack = stack
        self.zero_padded = zero_padded
        self.ended = False

    def reset(self) -> np.ndarray:
        frame = self._next_frame()
        padding = 0 * frame if self.zero_padded else frame
        self._frames = [padding] * ((self.stack or 1) - 1) + [frame]
        self.ended = False
        return self._observation()

    def step(self, end: int) -> np.ndarray:
        self._frames = [*self._frames[1:], self._next_frame()]
        self.ended = end != GOES_ON
        return self._observation()

    def _next_frame(self) -> np.ndarray:
        self.frames_shown += 1
        return np.array([self.frames_shown, -self.frames_shown], np.float32)

    def _observation(self) -> np.ndarray:
        return np.stack(self._frames) if self.stack else self._frames[0]


def play(
    ends: np.ndarray, *, stack: int | None = None, zero_padded: bool = False, next_step: bool = False,
    restarts: tuple[int, ...] = (),
) -> list[Event]:  # fmt: skip
    """What N environments show whose steps end as `ends` [T, N] say.

    Args:
        ends: how each step ends; where an environment only resets, it is not read.
        stack: frames of an observation.
        zero_padded: what stands before an episode's first frame: zeros, or that frame again.
        next_step: reset in the step after an end (NEXT_STEP), instead of within it (SAME_STEP).
        restarts: times before which all environments are reset from outside.
    """
    num_envs = ends.shape[1]
    rng = np.random.default_rng(0)
    films = [Film(number, stack, zero_padded) for number in range(num_envs)]
    observation = np.stack([film.reset() for film in films])
    events = [Event(observation)]
    for time, row in enumerate(ends):
        if time in restarts:
            observation = np.stack([film.reset() for film in films])
            events.append(Event(observation))
        valid = np.array([not film.ended for film in films])
        final = np.stack(
            [film.step(end) if ok else film.reset() for film, end, ok in zip(films, row, valid, strict=True)]
        )
        following = final.copy()
        if not next_step:
            for number, film in enumerate(films):
                if film.ended:
                    following[number] = film.reset()
        step = Step(
            observation=following,
            reward=np.where(valid, rng.normal(size=num_envs), 1e6).astype(np.float32),  # nobody may read the million
            terminated=valid & np.isin(row, [TERMINATED, BOTH]),
            truncated=valid & np.isin(row, [TRUNCATED, BOTH]),
            final_observation=final,
        )
        events.append(Event(observation, rng.integers(5, size=num_envs), step, valid))
        observation = following
    return events


@dataclasses.dataclass
class Episode:
    """One episode, whole observations."""

    observations: list[np.ndarray]
    actions: list[int] = dataclasses.field(default_factory=list)
    rewards: list[float] = dataclasses.field(default_factory=list)
    times: list[int] = dataclasses.field(default_factory=list)
    """Which `add` each step came with."""
    terminated: bool = False
    truncated: bool = False


def episodes_of(events: list[Event], number: int) -> list[Episode]:
    """All episodes of one environment. One that was never stepped before another began is none."""
    episodes: list[Episode] = []

    def begin(observation: np.ndarray) -> None:
        if episodes and not episodes[-1].actions:
            episodes.pop()
        episodes.append(Episode([observation]))

    adds = 0
    for event in events:
        if event.step is None:
            begin(event.observation[number])
            continue
        step, episode = event.step, episodes[-1]
        if event.valid[number]:
            episode.actions.append(int(event.action[number]))
            episode.rewards.append(float(step.reward[number]))
            episode.times.append(adds)
            episode.observations.append(step.final_observation[number])
            episode.terminated, episode.truncated = bool(step.terminated[number]), bool(step.truncated[number])
        if episode.terminated or episode.truncated or not event.valid[number]:
            begin(step.observation[number])
        adds += 1
    return episodes


def transition(episode: Episode, start: int, n_step: int, discount: float) -> Transitions | None:
    """The one from observation number `start`, by the definition; None if its steps are not there yet."""
    available = len(episode.actions) - start
    steps = min(n_step, available)
    if steps < n_step and not (episode.terminated or episode.truncated):
        return None
    reaches_end = steps == available
    return Transitions(
        observation=episode.observations[start],
        action=episode.actions[start],
        reward=sum(discount**k * episode.rewards[start + k] for k in range(steps)),
        discount=0.0 if reaches_end and episode.terminated else discount**steps,
        next_observation=episode.observations[start + steps],
        weight=1.0,
        index=None,
    )


def key_of(observation: np.ndarray) -> int:
    """The number of the newest frame, which no other observation has."""
    return int(observation.reshape(-1, 2)[-1, 0])


def assert_equal(batch: Transitions, expected: dict[int, Transitions]) -> None:
    """Every row of a batch is the transition that the naive store has under its key."""
    for row in range(len(batch.action)):
        naive = expected[key_of(batch.observation[row])]
        np.testing.assert_array_equal(batch.observation[row], naive.observation)
        np.testing.assert_array_equal(batch.next_observation[row], naive.next_observation)
        assert batch.action[row] == naive.action
        np.testing.assert_allclose(batch.reward[row], naive.reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.discount[row], naive.discount, rtol=1e-6)


def keys_of(batch: Transitions) -> list[int]:
    """[B]"""
    return [key_of(observation) for observation in batch.observation]


def naive_priorities(td_error: Any, exponent: float, offset: float) -> np.ndarray:
    """By the definition."""
    return np.array([(abs(float(error)) + offset) ** exponent for error in td_error])
