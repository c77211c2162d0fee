"""Gymnasium vector environments as steps: the one place that knows `AutoresetMode`."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from kerasrl_pg.shared_memory import aligned_empty
from kerasrl_pg.spaces import check_observation_space, map_observation, map_space, tensor_dtype
from kerasrl_pg.types import Step

LONGEST_EPISODE = 100_000
"""Steps after which an episode is taken to have no end: without a time limit, a policy may walk in circles for ever."""


class VectorAdapter:
    """Steps a Gymnasium vector environment, whatever its autoreset mode, and tells what each step really was.

    * SAME_STEP: the step that ends an episode already returns the next one's first observation; the final
      observation comes in `info["final_obs"]`.
    * NEXT_STEP: the step after an episode's end ignores its action and resets; `valid` is False there.
    * DISABLED: environments that ended are reset by hand, within the same step.

    Args:
        environment: the vector environment.
        owned: False if it is the user's to close.

    Raises:
        TypeError: observations that are not supported.
        ValueError: an autoreset mode that is not one of Gymnasium's.

    Example:
        >>> environment = gymnasium.make_vec("CartPole-v1", num_envs=2)
        >>> adapter = VectorAdapter(environment)
        >>> adapter.reset(seed=0).shape
        (2, 4)
        >>> step, valid = adapter.step(np.array([0, 1]))
        >>> step.reward.tolist(), valid.tolist()
        ([1.0, 1.0], [True, True])
    """

    def __init__(self, environment: gymnasium.vector.VectorEnv, owned: bool = True):
        self.environment = environment
        self.owned = owned
        self.observation_space = environment.single_observation_space
        self.action_space = environment.single_action_space
        self.num_envs = environment.num_envs
        check_observation_space(self.observation_space)
        mode = environment.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.autoreset_mode = AutoresetMode(mode)
        self._dtypes = map_space(tensor_dtype, self.observation_space)
        self.resets = 0
        """How often N episodes were started: who steps the environment sees that somebody else used it since."""
        self._steps = 0
        self._ended = np.zeros(self.num_envs, bool)

    def reset(self, seed: int | None = None) -> Any:
        """Start N episodes. Returns `[N, *observation]`.

        Environment n is seeded by `seed + n`; CartPole's own vector class draws all N from `seed`. Only the last 30
        bits of `seed` count: ale-py takes no more than 31.
        """
        observation, _ = self.environment.reset(seed=None if seed is None else int(seed) & 0x3FFFFFFF)
        self.resets += 1
        self._ended = np.zeros(self.num_envs, bool)
        return self._stored(observation)

    def step(self, action: np.ndarray) -> tuple[Step, np.ndarray]:
        """Step N environments by `action` [N, *action].

        Returns:
            `(Step, valid)`: NumPy arrays; `valid` is [N] bool, False where the step only reset.

        Raises:
            RuntimeError: the environment raised; its exception is the cause.
            ValueError: rewards or ends that are not one for each environment.
        """
        self._steps += 1
        try:
            observation, reward, terminated, truncated, info = self.environment.step(action)
        except Exception as error:
            raise RuntimeError(
                f"the environment {_name(self.environment)} raised {type(error).__name__} "
                f"in step {self._steps}: {error}"
            ) from error
        observation = self._stored(observation)
        # Copies: an environment may write every step into the same arrays.
        reward, terminated, truncated = (
            np.array(x, dtype) for x, dtype in ((reward, np.float32), (terminated, bool), (truncated, bool))
        )
        if not reward.shape == terminated.shape == truncated.shape == (self.num_envs,):
            raise ValueError(
                f"{_name(self.environment)} must return rewards, terminations and truncations of shape "
                f"[{self.num_envs}], got {list(reward.shape)}, {list(terminated.shape)}, {list(truncated.shape)}"
            )
        ended = terminated | truncated  # [N]
        final_observation = observation
        valid = np.ones(self.num_envs, bool)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            valid = ~self._ended
            self._ended = ended
        elif ended.any():
            if self.autoreset_mode == AutoresetMode.SAME_STEP:
                final_observation = self._with_final_rows(observation, info, ended)
            else:
                fresh, _ = self.environment.reset(options={"reset_mask": ended})
                observation = self._stored(fresh)
        return Step(observation, reward, terminated, truncated, final_observation), valid

    def close(self) -> None:
        """Release the environments, unless they are the user's."""
        if self.owned:
            self.environment.close()

    def _stored(self, observation: Any) -> Any:
        """A copy of a batch of observations, of the types that the model reads, where TensorFlow can read it."""
        return map_observation(_stored, self._dtypes, observation)

    def _with_final_rows(self, observation: Any, info: dict[str, Any], ended: np.ndarray) -> Any:
        """[N, *observation] with the rows that ended replaced by the episodes' final observations."""
        if not isinstance(info, dict) or "final_obs" not in info:
            raise TypeError(
                f"{_name(self.environment)} resets in the step that ends an episode, and must then return its last "
                'observations as info["final_obs"]: take off the wrapper that changes infos'
            )
        final = info["final_obs"]
        row_by_row = isinstance(final, np.ndarray) and final.dtype.hasobject
        if not row_by_row:  # dense, as ale-py and TensorVectorEnv have it
            rows = self._stored(final)
            return map_observation(lambda new, old: np.where(_column(ended, new), new, old), rows, observation)
        whole = map_observation(np.copy, observation)
        for index in np.flatnonzero(ended):
            map_observation(functools.partial(_write_row, int(index)), whole, final[index])
        return whole


def _name(environment: Any) -> str:
    """Its id or, without one, its class; a SyncVectorEnv is known by the environments in it."""
    if isinstance(environment, SyncVectorEnv):
        environment = environment.envs[0].unwrapped
    return environment.spec.id if environment.spec else type(environment).__name__


def _stored(dtype: np.dtype, leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    stored = aligned_empty(array.shape, dtype)
    np.copyto(stored, array, casting="unsafe")
    return stored


def _write_row(index: int, target: np.ndarray, row: Any) -> None:
    target[index] = row


def _column(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    return mask.reshape(-1, *[1] * (like.ndim - 1))
