"""Environments written for DeepMind's `dm_env`, as Gymnasium environments.

Shimmy is Gymnasium's bridge to other interfaces. Its ready-made wrappers are for dm_control and bsuite and need those
packages; what they share, the translation of specs and time steps, works for any `dm_env.Environment`. This is the
wrapper around that translation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np


def from_dm_env(environment: Any) -> gymnasium.Env:
    """A `dm_env.Environment` as a `gymnasium.Env`, for `fit_agent` and everything else.

    | dm_env | Gymnasium |
    |---|---|
    | `DiscreteArray` | `Discrete` |
    | `BoundedArray`, `Array` | `Box` with the same bounds, or those of the type |
    | a dict of specs | `Dict` |
    | a `LAST` step with discount 0 | `terminated`: the task has ended and V(s') = 0 |
    | a `LAST` step with another discount | `truncated`: only a limit cut the episode, and V(s') counts |

    The last two rows are how dm_env tells the endings apart (its documentation, "Example sequences"): a discount is
    what the future is worth, and after the end of a task there is none. Discounts within an episode are not passed
    on: the algorithm's own applies.

    Args:
        environment: a `dm_env.Environment`, or a function that makes one from a seed. dm_env has no seeds of its own:
            only with a function does `reset(seed=...)`, and so the seed of a training, decide what happens.

    Returns:
        A Gymnasium environment; without rendering, of which dm_env knows nothing.

    Raises:
        ImportError: the extra `dm-env` is not installed.
        TypeError: it is neither, or the function makes something else.
        NotImplementedError: a spec that Gymnasium has no space for, such as one of strings.

    Example:
        >>> import dm_env
        >>> class Coin(dm_env.Environment):
        ...     def __init__(self, seed):
        ...         self.random = np.random.default_rng(seed)
        ...     def reset(self):
        ...         return dm_env.restart(np.zeros(1, np.float32))
        ...     def step(self, action):
        ...         return dm_env.termination(float(action == self.random.integers(2)), np.zeros(1, np.float32))
        ...     def observation_spec(self):
        ...         return dm_env.specs.Array([1], np.float32)
        ...     def action_spec(self):
        ...         return dm_env.specs.DiscreteArray(2)
        >>> env = from_dm_env(Coin)
        >>> observation, info = env.reset(seed=0)
        >>> env.step(1)[1:4]
        (1.0, True, False)
    """
    return _Bridge(environment)


class _Bridge(gymnasium.Env):
    def __init__(self, environment: Any):
        try:
            import dm_env
            from shimmy.utils import dm_env as translation
        except ImportError as error:
            raise ImportError(
                'dm_env environments need the extra "dm-env" (from a clone: pip install ".[dm-env]")'
            ) from error
        self._kind = dm_env.Environment
        self._translation = translation
        self._make: Callable[[int | None], Any] | None = None
        if not isinstance(environment, dm_env.Environment):
            if not callable(environment):
                raise TypeError(f"it must be a dm_env.Environment or a function of a seed, got {environment!r}")
            self._make = environment
        self._environment = environment if self._make is None else self._made(None)
        self.observation_space = translation.dm_spec2gym_space(self._environment.observation_spec())
        self.action_space = translation.dm_spec2gym_space(self._environment.action_spec())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        if seed is not None and self._make is not None:
            self._environment.close()
            self._environment = self._made(seed)
        observation, *_, info = self._translation.dm_env_step2gym_step(self._environment.reset())
        return observation, info

    def step(self, action: Any):
        spec = self._environment.action_spec()
        if not isinstance(spec, dict):
            action = np.asarray(action, spec.dtype)  # specs are strict about types, Gymnasium is not
        observation, reward, *ended, info = self._translation.dm_env_step2gym_step(self._environment.step(action))
        return observation, float(reward), *ended, info

    def close(self):
        self._environment.close()

    def _made(self, seed: int | None) -> Any:
        assert self._make is not None
        made = self._make(seed)
        if not isinstance(made, self._kind):
            raise TypeError(f"the function {self._make!r} must return a dm_env.Environment, it returned {made!r}")
        return made
