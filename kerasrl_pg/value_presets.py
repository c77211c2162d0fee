"""Settings of value-based learning: NFQ, DQN and its variants."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
from gymnasium import spaces

from kerasrl_pg import seeding
from kerasrl_pg.algorithms import DQN, NFQ, Prioritized
from kerasrl_pg.envs.atari import AtariProtocol
from kerasrl_pg.models import PatchConv2D, dueling_q_network, mlp_trunk, nature_conv_trunk, q_network
from kerasrl_pg.settings import TORCH_EPSILON, ModelBuilder, Preset, Settings, adam, fused_adam, linear, linear_to_zero

ZOO = "Stable-Baselines3 zoo, dqn.yml"
PONG = "a study of Pong by value and by policy"
TUTORIAL = "a tutorial on function approximation"

VARIANTS: dict[str, dict] = {
    "dqn": {},
    "dqn-without-target": {"target_every": None},
    "double-dqn": {"double": True},
    "dueling-dqn": {},
    "dueling-max-dqn": {},
    "prioritized-dqn": {},
    "n-step-dqn": {"n_step": 3},
}
"""What each variant changes of DQN; dueling is another model, prioritized another sampler.

On CartPole all but plain DQN have three-step targets too; on the grid n-step DQN takes two steps.
"""


def variant_of(name: str, algorithm: DQN, steps: int) -> DQN:
    """DQN as the variant has it, importance exponents growing to 1 by the end of the training."""
    if name == "prioritized-dqn":
        importance = linear(0.4, 1.0, steps)
        return dataclasses.replace(algorithm, sampler=Prioritized(importance_exponent=importance))
    return dataclasses.replace(algorithm, **VARIANTS[name])


def network_of(name: str, trunk: Callable[[int], keras.Model]) -> ModelBuilder:
    """The variant's network on a trunk that is made from a seed."""

    def build(observation_space: spaces.Space, action_space: spaces.Space, seed: int = 0) -> keras.Model:
        if name.startswith("dueling"):
            baseline = "max" if "max" in name else "mean"
            return dueling_q_network(observation_space, action_space, trunk=trunk(seed), baseline=baseline, seed=seed)
        return q_network(observation_space, action_space, trunk=trunk(seed), seed=seed)

    return build


def grid_network_of(name: str) -> ModelBuilder:
    """The variant's network on the tutorial's convolutions or, where an observation is no grid, on a perceptron."""

    def build(observation_space: spaces.Space, action_space: spaces.Space, seed: int = 0) -> keras.Model:
        is_grid = isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 3
        trunk = grid_trunk if is_grid else small_trunk
        return network_of(name, trunk)(observation_space, action_space, seed)

    return build


def small_trunk(seed: int) -> keras.Model:
    """The tutorial's perceptron, 50-50 ReLU."""
    return mlp_trunk((50, 50), activation="relu", seed=seed)


def wide_trunk(seed: int) -> keras.Model:
    """The zoo's perceptron, 256-256 ReLU."""
    return mlp_trunk((256, 256), activation="relu", seed=seed)


def grid_trunk(seed: int) -> keras.Model:
    """The tutorial's convolutions for a grid of cells: 32·4·2 and 64·3·1, padded, max-pool 3 by 1, dense 50."""
    first, second, dense = (keras.initializers.Orthogonal(2**0.5, seed=each) for each in seeding.integers(seed, 3))
    return keras.Sequential(
        [
            keras.layers.ZeroPadding2D(1),
            PatchConv2D(32, 4, strides=2, activation="relu", kernel_initializer=first),
            PatchConv2D(64, 3, padding="same", activation="relu", kernel_initializer=second),
            keras.layers.MaxPool2D(3, 1),
            keras.layers.Flatten(),
            keras.layers.Dense(50, "relu", kernel_initializer=dense),
        ]
    )


def _cartpole(name: str) -> Callable[[int, int], Settings]:
    def build(steps: int, num_envs: int) -> Settings:
        algorithm = DQN(
            rollout_length=1,
            batch_size=128,
            # With targets of one step, one or two seeds in five of the other variants forget what they have learned.
            n_step=1 if name == "dqn" else 3,
            target_every=50,
            replay_size=50_000,
            learning_starts=5_000,
            epsilon=linear(1.0, 0.05, steps // 5),
            # The squared error: falling is rare and worth minus a hundred, which Huber's linear tail hardly counts, and
            # action values then grow without bound.
            huber_delta=None,
            max_gradient_norm=10.0,
        )
        rate = linear_to_zero(1e-3, steps, num_envs, algorithm)
        model = network_of(name, lambda seed: mlp_trunk((128, 128), activation="relu", seed=seed))
        return Settings(algorithm=variant_of(name, algorithm, steps), optimizer=adam(rate), model=model)

    return build


def _acrobot(steps: int, num_envs: int) -> Settings:
    algorithm = DQN(
        rollout_length=1,
        gradient_steps=4,
        batch_size=128,
        target_every=250,
        replay_size=50_000,
        learning_starts=1_000,
        epsilon=linear(1.0, 0.1, round(0.12 * steps)),
        max_gradient_norm=10.0,
    )
    return Settings(algorithm=algorithm, optimizer=adam(6.3e-4), model=network_of("dqn", wide_trunk))


def _grid_nfq(steps: int, num_envs: int) -> Settings:
    # With the tutorial's exploration of 0.6 alone, far cells are seen too rarely to be learned.
    algorithm = NFQ(
        rollout_length=20,
        gradient_steps=100,
        batch_size=32,
        discount=0.9,
        epsilon=linear(1.0, 0.6, steps),
    )
    rate = linear_to_zero(1e-3, steps, num_envs, algorithm)
    return Settings(algorithm=algorithm, optimizer=adam(rate), model=network_of("dqn", small_trunk))


def _grid(name: str) -> Callable[[int, int], Settings]:
    def build(steps: int, num_envs: int) -> Settings:
        algorithm = DQN(
            rollout_length=1,
            batch_size=10,
            discount=0.9,
            target_every=25,
            replay_size=100_000,
            learning_starts=100,
            # With the tutorial's 0.25, even as the end of a fall, cells off the way are seen too rarely to be learned.
            epsilon=linear(1.0, 0.5, steps),
        )
        algorithm = variant_of(name, algorithm, steps)
        if name == "n-step-dqn":
            # Targets of several steps are worth what the explorer earns, who walks into walls: few steps, an
            # exploration that nearly ends, and a replay that forgets it.
            explored = linear(1.0, 0.05, steps // 2)
            algorithm = dataclasses.replace(algorithm, n_step=2, epsilon=explored, replay_size=5_000)
        rate = linear_to_zero(5e-4, steps, num_envs, algorithm)
        return Settings(algorithm=algorithm, optimizer=adam(rate), model=grid_network_of(name))

    return build


def _pong(name: str) -> Callable[[int, int], Settings]:
    """The lesson's, but for its optimizer and the length of what is scheduled: see the preset's source."""

    def build(steps: int, num_envs: int) -> Settings:
        algorithm = DQN(
            rollout_length=4,
            gradient_steps=num_envs,  # one for every 4 environment steps
            target_every=10_000 // 4,
            replay_size=100_000,
            learning_starts=10_000,
            epsilon=linear(1.0, 0.02, 100_000),
        )
        return Settings(
            algorithm=variant_of(name, algorithm, steps),
            optimizer=fused_adam(1e-4),
            model=network_of(name, lambda seed: nature_conv_trunk(seed=seed)),
            mixed_precision="auto",
        )

    return build


def _pong_lesson(name: str) -> Callable[[int, int], Settings]:
    """As the lesson has it; what is not named here are the defaults of `DQN`."""

    def build(steps: int, num_envs: int) -> Settings:
        algorithm = DQN(rollout_length=4, gradient_steps=num_envs, target_every=10_000 // 4)
        return Settings(
            algorithm=variant_of(name, algorithm, 1_000_000),
            optimizer=keras.optimizers.RMSprop(2.5e-4, momentum=0.95),
            model=network_of(name, lambda seed: nature_conv_trunk(seed=seed)),
            mixed_precision="auto",
        )

    return build


def _grid_nfq_lesson(steps: int, num_envs: int) -> Settings:
    algorithm = NFQ(discount=0.9, learning_starts=10)
    optimizer = adam(1e-3, TORCH_EPSILON)
    return Settings(algorithm=algorithm, optimizer=optimizer, model=network_of("dqn", small_trunk))


def _grid_dqn_lesson(steps: int, num_envs: int) -> Settings:
    algorithm = DQN(
        rollout_length=1,
        batch_size=10,
        discount=0.9,
        target_every=25,
        replay_size=100_000,
        learning_starts=10,
        epsilon=0.25,
        huber_delta=None,
    )
    return Settings(algorithm=algorithm, optimizer=adam(5e-4, TORCH_EPSILON), model=grid_network_of("dqn"))


COORDINATES = {"task": "simple", "observation": "coordinates"}
GRID_OPTIONS = {"task": "simple", "observation": "grid", "max_episode_steps": 50}


def _presets_of_variants() -> dict[str, Preset]:
    presets = {}
    for name in VARIANTS:
        presets[f"cartpole-{name}"] = Preset(
            env="CartPole-v1", algorithm="dqn", num_envs=8, steps=200_000, build=_cartpole(name), source="tuned here"
        )
        presets[f"grid-{name}"] = Preset(
            env="kerasrl_pg/GridWorld-v0",
            algorithm="dqn",
            num_envs=1,
            steps=40_000,
            build=_grid(name),
            source=f"{TUTORIAL}; more exploration, a falling learning rate",
            env_options=GRID_OPTIONS,
        )
        if name != "n-step-dqn":
            presets[f"pong-{name}-lesson"] = Preset(
                env="ALE/Pong-v5",
                algorithm="dqn",
                num_envs=8,
                steps=10_000_000,
                build=_pong_lesson(name),
                source=f"{PONG}; 8 games side by side",
                only_by_name=True,
                protocol=AtariProtocol(crop=(14, 196, 8, 159), max_frames=4_000),  # 1,000 steps
            )
    return presets


VALUE_PRESETS: dict[str, Preset] = {
    **_presets_of_variants(),
    "acrobot-dqn": Preset(env="Acrobot-v1", algorithm="dqn", num_envs=4, steps=100_000, build=_acrobot, source=ZOO),
    "grid-nfq": Preset(
        env="kerasrl_pg/GridWorld-v0",
        algorithm="nfq",
        num_envs=1,
        steps=40_000,
        build=_grid_nfq,
        source=f"{TUTORIAL}; fitted by larger batches on frozen targets, and more exploration at first",
        env_options=COORDINATES,
    ),
    "grid-nfq-lesson": Preset(
        env="kerasrl_pg/GridWorld-v0",
        algorithm="nfq",
        num_envs=1,
        steps=40_000,
        build=_grid_nfq_lesson,
        source=TUTORIAL,
        only_by_name=True,
        env_options=COORDINATES,
    ),
    "grid-dqn-lesson": Preset(
        env="kerasrl_pg/GridWorld-v0",
        algorithm="dqn",
        num_envs=1,
        steps=25_000,
        build=_grid_dqn_lesson,
        source=TUTORIAL,
        only_by_name=True,
        env_options=GRID_OPTIONS,
    ),
    "pong-dqn": Preset(
        env="ALE/Pong-v5",
        algorithm="dqn",
        num_envs=8,
        steps=2_000_000,
        build=_pong("n-step-dqn"),
        source=f"{PONG}; n-step targets, Adam, a smaller replay and less exploration",
    ),
}
"""Presets by name."""
