"""Tuned settings per environment and algorithm, each with where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from gymnasium import spaces

from kerasrl_pg import seeding
from kerasrl_pg.algorithms import A2C, DQN, NFQ, PPO, CrossEntropy, PolicyGradient, Reinforce
from kerasrl_pg.envs.doom import DoomProtocol
from kerasrl_pg.lesson_presets import LESSON_PRESETS, standardized_convolutions
from kerasrl_pg.models import actor_critic, mlp_trunk, q_network
from kerasrl_pg.settings import Preset, Settings, adam, fused_adam, late_to_zero, linear_to_zero
from kerasrl_pg.value_presets import VALUE_PRESETS


def _cartpole_ppo(steps: int, num_envs: int) -> Settings:
    algorithm = PPO(rollout_length=32, epochs=20, num_minibatches=1, discount=0.98, gae_lambda=0.8, entropy_coef=0.0)
    annealed = dataclasses.replace(algorithm, clip_epsilon=linear_to_zero(0.2, steps, num_envs, algorithm))
    return Settings(algorithm=annealed, optimizer=adam(linear_to_zero(1e-3, steps, num_envs, algorithm)))


def _cartpole_a2c(steps: int, num_envs: int) -> Settings:
    algorithm = A2C(rollout_length=4, gae_lambda=1.0, entropy_coef=0.0, max_gradient_norm=0.1)
    return Settings(algorithm=algorithm, optimizer=adam(linear_to_zero(2e-3, steps, num_envs, algorithm)))


def _cartpole_reinforce(steps: int, num_envs: int) -> Settings:
    return Settings(algorithm=Reinforce(standardize_returns=True), optimizer=adam(5e-3))


def _normalized_model(observation_space: spaces.Space, action_space: spaces.Space, seed: int = 0) -> keras.Model:
    """Two 64-64 perceptrons that read standardised observations and learn standardised value targets."""
    actor_seed, critic_seed = seeding.integers(seed, 2)
    return actor_critic(
        observation_space,
        action_space,
        trunk=mlp_trunk(seed=actor_seed),
        critic_trunk=mlp_trunk(seed=critic_seed),
        normalize_observation=True,
        normalize_value=True,
        seed=seed,
    )


def _acrobot_ppo(steps: int, num_envs: int) -> Settings:
    algorithm = PPO(rollout_length=256, epochs=10, num_minibatches=16, entropy_coef=0.0)
    optimizer = adam(linear_to_zero(1e-3, steps, num_envs, algorithm))
    return Settings(algorithm=algorithm, optimizer=optimizer, model=_normalized_model)


def _pendulum_ppo(steps: int, num_envs: int) -> Settings:
    # Whole episodes in a rollout: all environments started together, so a shorter one would see only some phases.
    algorithm = PPO(rollout_length=200, epochs=10, num_minibatches=20, discount=0.95, entropy_coef=0.0)
    optimizer = adam(linear_to_zero(1e-3, steps, num_envs, algorithm))
    return Settings(algorithm=algorithm, optimizer=optimizer, model=_normalized_model)


def _mountaincar_continuous_ppo(steps: int, num_envs: int) -> Settings:
    algorithm = PPO(rollout_length=64, epochs=10, num_minibatches=8, discount=0.9999, gae_lambda=0.9, entropy_coef=0.0)
    return Settings(algorithm=algorithm, optimizer=adam(3e-4), model=_normalized_model)


def _pong_ppo(steps: int, num_envs: int) -> Settings:
    algorithm = PPO(rollout_length=128, epochs=4, num_minibatches=4, clip_epsilon=0.1)
    return Settings(algorithm=algorithm, optimizer=fused_adam(2.5e-4), mixed_precision="auto")


def _pong_fast(steps: int, num_envs: int) -> Settings:
    # Pong is played point by point, each a rally of a hundred steps or so. Rallies that are won need no more
    # exploration; those that are lost do, and some only many equal actions in a row would win (docs/pong.md).
    algorithm = PPO(
        rollout_length=128,
        epochs=3,
        num_minibatches=4,
        discount=0.99,
        reward_ends_return=True,
        clip_epsilon=0.2,
        value_coef=1.0,
        entropy_values=(-1.0, 1.0),
        max_gradient_norm=10.0,
    )
    entropy_coef = late_to_zero(0.03, steps, num_envs, algorithm)
    algorithm = dataclasses.replace(algorithm, entropy_coef=entropy_coef)
    optimizer = fused_adam(linear_to_zero(1e-3, steps, num_envs, algorithm))
    return Settings(algorithm=algorithm, optimizer=optimizer, model=standardized_convolutions, mixed_precision="auto")


DOOM: dict[str, Any] = {
    "env": "VizdoomDefendCenter-v1",
    "steps": 1_250_000,
    # 26 cartridges: who does not see how many are left cannot learn what a missed shot costs.
    "protocol": DoomProtocol(game_variables=True),
}
DOOM_DISCOUNT = 0.999
"""With 0.99, firing at once is worth more than saving a cartridge for a surer hit a hundred steps later."""


def _doom_model(observation_space: spaces.Space, action_space: spaces.Space, seed: int = 0) -> keras.Model:
    """The Nature network on the screen, and 256 units on its features and the game variables; all standardised."""
    if not isinstance(observation_space, spaces.Dict):  # a protocol without game variables
        return standardized_convolutions(observation_space, action_space, seed)
    return actor_critic(
        observation_space,
        action_space,
        trunk=mlp_trunk((256,), activation="relu", seed=seed),
        normalize_observation=True,
        normalize_value=True,
        seed=seed,
    )


def _doom_ppo(steps: int, num_envs: int) -> Settings:
    algorithm = PPO(
        rollout_length=128, epochs=4, num_minibatches=8, discount=DOOM_DISCOUNT, value_coef=1.0, max_gradient_norm=10.0
    )
    optimizer = fused_adam(linear_to_zero(5e-4, steps, num_envs, algorithm))
    return Settings(algorithm=algorithm, optimizer=optimizer, model=_doom_model, mixed_precision="auto")


def _doom_a2c(steps: int, num_envs: int) -> Settings:
    algorithm = A2C(rollout_length=20, discount=DOOM_DISCOUNT, gae_lambda=0.95)
    optimizer = fused_adam(linear_to_zero(7e-4, steps, num_envs, algorithm))
    return Settings(algorithm=algorithm, optimizer=optimizer, model=_doom_model, mixed_precision="auto")


PRESETS: dict[str, Preset] = {
    "cartpole-ppo": Preset(
        env="CartPole-v1",
        algorithm="ppo",
        num_envs=8,
        steps=100_000,
        build=_cartpole_ppo,
        source="Stable-Baselines3 zoo, ppo.yml",
    ),
    "cartpole-a2c": Preset(
        env="CartPole-v1",
        algorithm="a2c",
        num_envs=32,
        steps=500_000,
        build=_cartpole_a2c,
        source="tuned here: more environments than the paper, and gradients clipped harder",
    ),
    "cartpole-reinforce": Preset(
        env="CartPole-v1",
        algorithm="reinforce",
        num_envs=32,
        steps=1_000_000,
        build=_cartpole_reinforce,
        source="tuned here",
    ),
    "acrobot-ppo": Preset(
        env="Acrobot-v1",
        algorithm="ppo",
        num_envs=8,
        steps=500_000,
        build=_acrobot_ppo,
        source="tuned here, from Stable-Baselines3 zoo, ppo.yml",
    ),
    "pendulum-ppo": Preset(
        env="Pendulum-v1",
        algorithm="ppo",
        num_envs=16,
        steps=300_000,
        build=_pendulum_ppo,
        source="tuned here",
    ),
    "mountaincar-continuous-ppo": Preset(
        env="MountainCarContinuous-v0",
        algorithm="ppo",
        num_envs=64,
        steps=500_000,
        build=_mountaincar_continuous_ppo,
        source="tuned here; discount and lambda from Stable-Baselines3 zoo, ppo.yml",
    ),
    "pong-fast": Preset(
        env="ALE/Pong-v5",
        algorithm="ppo",
        num_envs=24,
        steps=850_000,
        build=_pong_fast,
        source="tuned for two cores: all standardised, large steps, a near horizon, exploration where it loses",
    ),
    "pong-ppo": Preset(
        env="ALE/Pong-v5",
        algorithm="ppo",
        num_envs=8,
        steps=10_000_000,
        build=_pong_ppo,
        source="Stable-Baselines3 zoo, ppo.yml, atari, without the annealing",
    ),
    "doom-ppo": Preset(**DOOM, algorithm="ppo", num_envs=16, build=_doom_ppo, source="tuned here, from pong-fast"),
    "doom-a2c": Preset(**DOOM, algorithm="a2c", num_envs=32, build=_doom_a2c, source="tuned here"),
    **LESSON_PRESETS,
    **VALUE_PRESETS,
}
"""Every preset by its name; the first of an environment and algorithm is what `fit_agent(env, algorithm)` takes."""

DEFAULTS: dict[str, Callable[[], Settings]] = {
    "a2c": lambda: Settings(algorithm=A2C(), optimizer=adam(7e-4)),
    "cross_entropy": lambda: Settings(algorithm=CrossEntropy(), optimizer=adam(1e-2)),
    "dqn": lambda: Settings(algorithm=DQN(), optimizer=adam(2.5e-4), model=q_network),
    "nfq": lambda: Settings(algorithm=NFQ(), optimizer=adam(1e-3), model=q_network),
    "policy_gradient": lambda: Settings(algorithm=PolicyGradient(), optimizer=adam(5e-3)),
    "ppo": lambda: Settings(algorithm=PPO(), optimizer=adam(3e-4)),
    "reinforce": lambda: Settings(algorithm=Reinforce(), optimizer=adam(1e-2)),
}
"""Settings of each algorithm where no preset is tuned for the environment."""
