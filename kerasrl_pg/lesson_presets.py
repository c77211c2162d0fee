"""Settings of the lessons and notebooks that this package works through; a `source` says what differs from theirs."""

from __future__ import annotations

import functools

import keras
from gymnasium import spaces

from kerasrl_pg import seeding
from kerasrl_pg.algorithms import A2C, CrossEntropy, PolicyGradient, Reinforce
from kerasrl_pg.models import actor_critic, mlp_trunk, nature_conv_trunk
from kerasrl_pg.optimizers import RMSpropFromOne
from kerasrl_pg.settings import TORCH_EPSILON, ModelBuilder, Preset, Settings, adam, fused_adam, linear_to_zero

LESSON = "a lesson on policy-based methods"
LAB = "a laboratory on the policy gradient"
DEEP_Q = "a study of Pong by value and by policy"
HANDS_ON = "a notebook on the actor-critic method"
TUTORIAL = "a tutorial on function approximation"


def policy_only(units: int, dropout: float = 0.0) -> ModelBuilder:
    """A perceptron with one hidden ReLU layer and no value output."""

    def build(observation_space: spaces.Space, action_space: spaces.Space, seed: int = 0) -> keras.Model:
        trunk = mlp_trunk((units,), activation="relu", dropout=dropout, seed=seed)
        both = actor_critic(observation_space, action_space, trunk=trunk, seed=seed)
        return keras.Model(both.input, {"policy": both.output["policy"]}, name="policy")

    return build


def two_perceptrons(units: int) -> ModelBuilder:
    """An actor and a critic apart, each with one hidden ReLU layer."""

    def build(observation_space: spaces.Space, action_space: spaces.Space, seed: int = 0) -> keras.Model:
        actor_seed, critic_seed = seeding.integers(seed, 2)
        return actor_critic(
            observation_space,
            action_space,
            trunk=mlp_trunk((units,), activation="relu", seed=actor_seed),
            critic_trunk=mlp_trunk((units,), activation="relu", seed=critic_seed),
            seed=seed,
        )

    return build


def shared_convolutions(observation_space: spaces.Space, action_space: spaces.Space, seed: int = 0) -> keras.Model:
    """The Nature network's convolutions shared, and 512 hidden units for each head."""
    trunk = nature_conv_trunk(features=None, seed=seed)
    return actor_critic(observation_space, action_space, trunk=trunk, head_units=(512,), seed=seed)


def standardized_convolutions(
    observation_space: spaces.Space, action_space: spaces.Space, seed: int = 0, *, head_units: tuple[int, ...] = ()
) -> keras.Model:
    """The Nature network with ELU, which reads standardised pixels and learns standardised value targets.

    With `head_units` each head has hidden layers of its own in the place of the shared dense one.
    """
    features = None if head_units else 512
    return actor_critic(
        observation_space,
        action_space,
        trunk=nature_conv_trunk(activation="elu", features=features, seed=seed),
        head_units=head_units,
        normalize_observation=True,
        normalize_value=True,
        seed=seed,
    )


def _cartpole_cross_entropy(steps: int, num_envs: int) -> Settings:
    algorithm = CrossEntropy(elite_share=0.2)
    return Settings(algorithm=algorithm, optimizer=adam(1e-2, TORCH_EPSILON), model=policy_only(128))


def _cartpole_reinforce_lesson(steps: int, num_envs: int) -> Settings:
    algorithm = Reinforce(gradient_step_per="episode")
    return Settings(algorithm=algorithm, optimizer=adam(1e-2, TORCH_EPSILON), model=policy_only(128))


def _cartpole_reinforce_batched(steps: int, num_envs: int) -> Settings:
    return Settings(algorithm=Reinforce(), optimizer=adam(1e-2, TORCH_EPSILON), model=policy_only(128))


def _cartpole_a2c_monte_carlo(steps: int, num_envs: int) -> Settings:
    algorithm = A2C(rollout_length=None, entropy_coef=0.0, max_gradient_norm=None)
    return Settings(algorithm=algorithm, optimizer=adam(1e-2, TORCH_EPSILON), model=two_perceptrons(128))


def _lab(baseline):
    def build(steps: int, num_envs: int) -> Settings:
        return Settings(
            algorithm=PolicyGradient(baseline=baseline), optimizer=adam(5e-3, TORCH_EPSILON), model=two_perceptrons(32)
        )

    return build


def _pong_a2c(steps: int, num_envs: int) -> Settings:
    algorithm = A2C(rollout_length=4)
    rate = linear_to_zero(7e-4, steps, num_envs, algorithm)
    model = functools.partial(standardized_convolutions, head_units=(512,))
    return Settings(algorithm=algorithm, optimizer=fused_adam(rate), model=model, mixed_precision="auto")


def _pong_a2c_lesson(steps: int, num_envs: int) -> Settings:
    algorithm = A2C(rollout_length=4, value_coef=1.0, max_gradient_norm=0.1)
    optimizer = fused_adam(1e-3, epsilon=1e-3)
    return Settings(algorithm=algorithm, optimizer=optimizer, model=shared_convolutions, mixed_precision="auto")


def _pong_a2c_baselines(steps: int, num_envs: int) -> Settings:
    algorithm = A2C(value_coef=0.25)
    optimizer = RMSpropFromOne(7e-4, rho=0.99, epsilon=1e-5)
    return Settings(algorithm=algorithm, optimizer=optimizer, mixed_precision="auto")


def _cartpole_dropout(steps: int, num_envs: int) -> Settings:
    algorithm = Reinforce(
        gradient_step_per="episode", standardize_returns=True, dropout_while_acting=True, max_gradient_value=1.0
    )
    return Settings(algorithm=algorithm, optimizer=adam(1e-2, TORCH_EPSILON), model=policy_only(128, dropout=0.6))


def _cartpole_actor_critic(steps: int, num_envs: int) -> Settings:
    algorithm = A2C(rollout_length=None, entropy_coef=0.001, max_gradient_norm=None)
    return Settings(algorithm=algorithm, optimizer=adam(1e-3, TORCH_EPSILON), model=two_perceptrons(256))


LESSON_PRESETS: dict[str, Preset] = {
    "cartpole-cross-entropy": Preset(
        env="CartPole-v1",
        algorithm="cross_entropy",
        num_envs=100,
        steps=1_000_000,
        build=_cartpole_cross_entropy,
        source=f"{LESSON}; share and rate tuned here",
    ),
    "cartpole-reinforce-lesson": Preset(
        env="CartPole-v1",
        algorithm="reinforce",
        num_envs=100,
        steps=200_000,
        build=_cartpole_reinforce_lesson,
        source=f"{LESSON}: 100 episodes a round, a gradient step for each",
        only_by_name=True,
    ),
    "cartpole-reinforce-batched": Preset(
        env="CartPole-v1",
        algorithm="reinforce",
        num_envs=100,
        steps=1_000_000,
        build=_cartpole_reinforce_batched,
        source=f"{LESSON}; one gradient step a round",
    ),
    "cartpole-a2c-monte-carlo": Preset(
        env="CartPole-v1",
        algorithm="a2c",
        num_envs=16,
        steps=500_000,
        build=_cartpole_a2c_monte_carlo,
        source=f"{LESSON}; one gradient step for 16 episodes instead of one each",
    ),
    "lab-actor-critic": Preset(
        env="CartPole-v1",
        algorithm="policy_gradient",
        num_envs=1,
        steps=10_000,
        build=_lab("value"),
        source=LAB,
        only_by_name=True,
    ),
    "lab-baselined-policy-gradient": Preset(
        env="CartPole-v1",
        algorithm="policy_gradient",
        num_envs=1,
        steps=10_000,
        build=_lab("mean"),
        source=LAB,
        only_by_name=True,
    ),
    "lab-policy-gradient": Preset(
        env="CartPole-v1",
        algorithm="policy_gradient",
        num_envs=1,
        steps=10_000,
        build=_lab("none"),
        source=LAB,
        only_by_name=True,
    ),
    "pong-a2c": Preset(
        env="ALE/Pong-v5",
        algorithm="a2c",
        num_envs=50,
        steps=2_000_000,
        build=_pong_a2c,
        source=f"{HANDS_ON}; pixels and value targets standardised, Adam less damped, a falling learning rate",
    ),
    "pong-a2c-lesson": Preset(
        env="ALE/Pong-v5",
        algorithm="a2c",
        num_envs=50,
        steps=10_000_000,
        build=_pong_a2c_lesson,
        source=f"{HANDS_ON}; batches of 200 instead of 128",
        only_by_name=True,
    ),
    "pong-a2c-baselines": Preset(
        env="ALE/Pong-v5",
        algorithm="a2c",
        num_envs=16,
        steps=10_000_000,
        build=_pong_a2c_baselines,
        source=f"{DEEP_Q}: Stable-Baselines3 zoo, a2c.yml, atari",
    ),
    "cartpole-reinforce-dropout": Preset(
        env="CartPole-v1",
        algorithm="reinforce",
        num_envs=1,
        steps=250_000,
        build=_cartpole_dropout,
        source=TUTORIAL,
    ),
    "cartpole-actor-critic": Preset(
        env="CartPole-v1",
        algorithm="a2c",
        num_envs=1,
        steps=500_000,
        build=_cartpole_actor_critic,
        source=TUTORIAL,
        only_by_name=True,
        env_options={"max_episode_steps": 300},
    ),
}
"""Every lesson's settings by name. Named by environment and algorithm only, others come first where there are any."""
