"""A graph environment as a Gymnasium vector environment: for evaluation, and for anybody else's code."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from kerasrl_pg import seeding
from kerasrl_pg.types import TensorEnv


class TensorVectorEnv(gymnasium.vector.VectorEnv):
    """Steps a `TensorEnv` from Python, with SAME_STEP autoreset.

    Args:
        environment: N copies of an environment as graphs.

    Example:
        >>> from kerasrl_pg.envs.cartpole import CartPole
        >>> environment = TensorVectorEnv(CartPole(num_envs=2))
        >>> observation, _ = environment.reset(seed=0)
        >>> environment.step(np.array([0, 1]))[1].tolist()
        [1.0, 1.0]
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, environment: TensorEnv):
        self.environment = environment
        self.num_envs = environment.num_envs
        self.single_observation_space = environment.observation_space
        self.single_action_space = environment.action_space
        self.observation_space = batch_space(environment.observation_space, self.num_envs)
        self.action_space = batch_space(environment.action_space, self.num_envs)
        self._seed = seeding.make_seed(0)
        self._steps = 0
        self._state: Any = None
        self._step = tf.function(environment.step, autograph=False)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start N episodes; without a `seed` the random numbers go on from where they were."""
        if seed is not None:
            self._seed, self._steps = seeding.make_seed(seed), 0
        self._state, observation = self.environment.reset(self._next_seed())
        return _to_numpy(observation), {}

    def step(self, actions: np.ndarray):
        """Step N environments; `info["final_obs"]` is dense, [N, *observation]."""
        self._state, step = self._step(self._state, tf.convert_to_tensor(actions), self._next_seed())
        step = _to_numpy(step)
        info = {"final_obs": step.final_observation, "_final_obs": step.terminated | step.truncated}
        return step.observation, step.reward, step.terminated, step.truncated, info

    def _next_seed(self) -> tf.Tensor:
        self._steps += 1
        return seeding.fold_in(self._seed, self._steps)


def _to_numpy(tree: Any) -> Any:
    return tf.nest.map_structure(lambda x: x.numpy(), tree)
