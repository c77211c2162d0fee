"""Play whole episodes and say how they went."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from kerasrl_pg.checks import as_integer
from kerasrl_pg.envs.vector_adapter import LONGEST_EPISODE, VectorAdapter


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation."""

    mean: float
    """Mean return, in the environment's units."""
    std: float
    """Standard deviation of the returns (population)."""
    returns: np.ndarray
    """[episodes] undiscounted sums of rewards."""
    lengths: np.ndarray
    """[episodes] in environment steps."""

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.std:.1f} over {len(self.returns)} episodes"


def evaluate_policy(
    act: Callable[[Any], np.ndarray],
    environment: VectorAdapter,
    *,
    episodes: int,
    seed: int,
    longest_episode: int = LONGEST_EPISODE,
) -> Evaluation:
    """Play `episodes` episodes with `act`.

    Every environment plays its share, fixed beforehand: taking the first episodes to end would prefer short ones.

    Args:
        act: from `[N, *observation]` to the environment's actions `[N, *action]`.
        environment: N environments.
        episodes: how many; environments with nothing left to play go on, uncounted.
        seed: environment n is seeded by `seed + n`, so that neighbouring seeds share episodes; CartPole's vector class
            and graph environments draw all of theirs from `seed`.
        longest_episode: steps after which an episode is taken to have no end.

    Raises:
        ValueError: `episodes` is not a positive integer.
        RuntimeError: an episode took more than `longest_episode` steps.

    Example:
        >>> import gymnasium
        >>> adapter = VectorAdapter(gymnasium.make_vec("CartPole-v1", num_envs=2))
        >>> always_left = evaluate_policy(lambda observation: np.zeros(2, int), adapter, episodes=3, seed=0)
        >>> len(always_left.returns), always_left.mean < 12
        (3, True)
    """
    episodes = as_integer("episodes", episodes)
    num_envs = environment.num_envs
    share = np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)  # [N]
    played = np.zeros(num_envs, int)
    episode_return, episode_length = np.zeros(num_envs), np.zeros(num_envs, int)
    returns: list[list[float]] = [[] for _ in range(num_envs)]
    lengths: list[list[int]] = [[] for _ in range(num_envs)]

    observation = environment.reset(seed=seed)
    while (played < share).any():
        step, valid = environment.step(act(observation))
        episode_return += np.where(valid, step.reward, 0.0)
        episode_length += valid
        if (episode_length[played < share] > longest_episode).any():
            raise RuntimeError(
                f"an episode of the evaluation did not end within {longest_episode:,} steps (longest_episode): give "
                "the environment a time limit, such as gymnasium.wrappers.TimeLimit"
            )
        for index in np.flatnonzero((step.terminated | step.truncated) & valid):
            if played[index] < share[index]:
                returns[index].append(episode_return[index])
                lengths[index].append(episode_length[index])
                played[index] += 1
            episode_return[index] = episode_length[index] = 0
        observation = step.observation
    flat_returns, flat_lengths = np.concatenate(returns), np.concatenate(lengths).astype(int)
    return Evaluation(float(flat_returns.mean()), float(flat_returns.std()), flat_returns, flat_lengths)
