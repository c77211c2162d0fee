"""What a benchmark has both libraries do: one set of settings, and how each library takes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A training, in the words of this library."""

    env: str
    algorithm: str
    """"ppo", "a2c" or "dqn"."""
    num_envs: int
    learning_rate: float
    """Of Adam; of TensorFlow's RMSprop, which begins at one, where the algorithm is A2C."""
    annealed: bool = False
    """PPO: the learning rate and the clip range fall linearly to 0."""
    epsilon: tuple[float, float] | None = None
    """DQN: the share of the steps over which exploration falls from 1, and the rate at which it stays."""
    hidden: tuple[int, ...] | None = (64, 64)
    """Units of the perceptron; None for the Nature network."""
    initial_weights: str = "own"
    """"own": each library's; "fan_in": ours are drawn as PyTorch's are, for a perceptron of DQN."""
    settings: dict[str, Any]
    """Of the algorithm."""


ZOO_CARTPOLE = Task(
    env="CartPole-v1", algorithm="ppo", num_envs=8, learning_rate=1e-3, annealed=True,
    settings={
        "rollout_length": 32, "epochs": 20, "num_minibatches": 1, "discount": 0.98, "gae_lambda": 0.8,
        "clip_epsilon": 0.2, "value_coef": 0.5, "entropy_coef": 0.0, "max_gradient_norm": 0.5,
    },
)  # fmt: skip
"""PPO as Stable-Baselines3's zoo has it, which solves the task in 100,000 steps."""


def our_settings(task: Task, steps: int) -> tuple[Any, Any]:
    """The algorithm and the optimizer, for a training of `steps` environment steps."""
    from keras.optimizers.schedules import PolynomialDecay

    from kerasrl_pg.algorithms import ALGORITHMS
    from kerasrl_pg.optimizers import RMSpropFromOne
    from kerasrl_pg.settings import adam, fused_adam, linear_to_zero

    settings = dict(task.settings)
    if task.epsilon is not None:
        share, last = task.epsilon
        settings["epsilon"] = PolynomialDecay(1.0, round(share * steps), end_learning_rate=last)
    algorithm = ALGORITHMS[task.algorithm](**settings)
    rate: Any = task.learning_rate
    if task.annealed:
        rate = linear_to_zero(rate, steps, task.num_envs, algorithm)
        clip = linear_to_zero(settings["clip_epsilon"], steps, task.num_envs, algorithm)
        algorithm = dataclasses.replace(algorithm, clip_epsilon=clip)
    if task.algorithm == "a2c":
        return algorithm, RMSpropFromOne(rate, rho=0.99, epsilon=1e-5)
    build = fused_adam if task.hidden is None else adam
    return algorithm, build(rate, epsilon=1e-8 if task.algorithm == "dqn" else 1e-5)


def our_model(task: Task) -> Callable[..., Any]:
    """Builds the network from the spaces and a seed."""
    from kerasrl_pg.models import default_model, mlp_trunk, nature_conv_trunk, q_network

    def build(observation_space, action_space, seed):
        if task.algorithm != "dqn":
            return default_model(observation_space, action_space, seed=seed)
        if task.initial_weights == "fan_in":
            return fan_in_network(observation_space, action_space, task.hidden, seed)
        hidden = task.hidden
        trunk = nature_conv_trunk(seed=seed) if hidden is None else mlp_trunk(hidden, activation="relu", seed=seed)
        return q_network(observation_space, action_space, trunk=trunk, seed=seed)

    return build


def fan_in_network(observation_space: Any, action_space: Any, hidden: Any, seed: int) -> Any:
    """Action values by a ReLU perceptron, weights and biases uniform in ±1/√inputs, as PyTorch begins."""
    import keras

    from kerasrl_pg import seeding

    sizes = (*hidden, int(action_space.n))
    seeds = iter(seeding.integers(seed, 2 * len(sizes)))
    features = inputs = keras.Input(observation_space.shape)
    for number, units in enumerate(sizes):
        bound = features.shape[-1] ** -0.5
        kernel, bias = (keras.initializers.RandomUniform(-bound, bound, seed=next(seeds)) for _ in range(2))
        activation = "relu" if number < len(hidden) else None
        features = keras.layers.Dense(units, activation, kernel_initializer=kernel, bias_initializer=bias)(features)
    return keras.Model(inputs, {"action_values": features})


def sb3_model(task: Task, steps: int, seed: int) -> Any:
    """Stable-Baselines3's model, ready to `learn(steps)`."""
    import stable_baselines3
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    policy = "CnnPolicy" if task.hidden is None else "MlpPolicy"
    settings, rate = task.settings, task.learning_rate
    environment = sb3_environment(task.env, task.num_envs, seed)
    falling = (lambda start: lambda remaining: start * remaining) if task.annealed else lambda start: start
    common = {
        "gamma": settings["discount"], "max_grad_norm": settings["max_gradient_norm"], "seed": seed, "device": "cpu",
    }  # fmt: skip
    if task.algorithm == "dqn":
        share, last = task.epsilon or (0.0, 0.0)
        return stable_baselines3.DQN(
            policy, environment, rate, batch_size=settings["batch_size"], buffer_size=settings["replay_size"],
            learning_starts=settings["learning_starts"], train_freq=settings["rollout_length"],
            gradient_steps=settings["gradient_steps"],
            # Counted in environment steps there, in gradient steps here.
            target_update_interval=(
                settings["target_every"] * settings["rollout_length"] * task.num_envs // settings["gradient_steps"]
            ),
            exploration_fraction=share, exploration_final_eps=last,
            policy_kwargs={} if task.hidden is None else {"net_arch": list(task.hidden)}, **common,
        )  # fmt: skip
    common |= {
        "n_steps": settings["rollout_length"], "gae_lambda": settings["gae_lambda"],
        "vf_coef": settings["value_coef"], "ent_coef": settings["entropy_coef"],
    }  # fmt: skip
    if task.algorithm == "a2c":
        optimizer = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5}}
        return stable_baselines3.A2C(policy, environment, rate, policy_kwargs=optimizer, **common)
    return stable_baselines3.PPO(
        policy, environment, falling(rate), n_epochs=settings["epochs"],
        batch_size=task.num_envs * settings["rollout_length"] // settings["num_minibatches"],
        clip_range=falling(settings["clip_epsilon"]), **common,
    )  # fmt: skip


def sb3_environment(env: str, num_envs: int, seed: int) -> Any:
    """The vector environment that Stable-Baselines3 makes by default."""
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack

    if not env.startswith("ALE/"):
        return make_vec_env(env, num_envs, seed=seed)
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    game = env.removeprefix("ALE/").removesuffix("-v5")
    return VecFrameStack(make_atari_env(f"{game}NoFrameskip-v4", num_envs, seed=seed), n_stack=4)


def sb3_parameters(task: Task, model: Any) -> list[Any]:
    """The parameters that learn: not those of a target network."""
    network = model.q_net if task.algorithm == "dqn" else model.policy
    return list(network.parameters())
