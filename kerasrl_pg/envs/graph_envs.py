"""Which Gymnasium environments have a twin that is a TensorFlow graph."""

from __future__ import annotations

from collections.abc import Callable

from kerasrl_pg.envs.acrobot import Acrobot
from kerasrl_pg.envs.cartpole import CartPole
from kerasrl_pg.envs.gridworld import GridWorld
from kerasrl_pg.envs.gridworld_gymnasium import GRIDWORLD_ID
from kerasrl_pg.envs.mountain_car import MountainCar, MountainCarContinuous
from kerasrl_pg.envs.pendulum import Pendulum
from kerasrl_pg.types import TensorEnv

GRAPH_ENVIRONMENTS: dict[str, Callable[..., TensorEnv]] = {
    "CartPole-v1": CartPole,
    "Acrobot-v1": Acrobot,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Pendulum-v1": Pendulum,
    GRIDWORLD_ID: GridWorld,
}
"""From a Gymnasium id to the constructor, which takes `num_envs` and then what `gymnasium.make` takes for this id."""


def make_tensor_env(gymnasium_id: str, num_envs: int) -> TensorEnv | None:
    """`num_envs` copies of a Gymnasium environment as a TensorFlow graph, or None if there is no such twin.

    Args:
        gymnasium_id: The id with its version, "CartPole-v1". Other versions have other dynamics or limits and
            are not answered.
        num_envs: N, at least 1.

    Returns:
        The environment, or None.

    Raises:
        ValueError: If `num_envs` is not a positive int.

    Example:
        >>> make_tensor_env("CartPole-v1", num_envs=8).num_envs
        8
        >>> make_tensor_env("LunarLander-v3", num_envs=8) is None
        True
    """
    constructor = GRAPH_ENVIRONMENTS.get(gymnasium_id)
    return None if constructor is None else constructor(num_envs)
