"""`fit_agent`: from an environment and an algorithm to a trained agent."""

from __future__ import annotations

import difflib
import math
import numbers
import os
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kerasrl_pg import seeding
from kerasrl_pg.agent import Agent, load_agent, scope, whole_agent
from kerasrl_pg.algorithms import ALGORITHMS
from kerasrl_pg.envs.atari import AtariProtocol
from kerasrl_pg.envs.make import Environment, EnvLike, make_env
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.learner import num_workers
from kerasrl_pg.models.actor_critic import actor_critic, has_heads
from kerasrl_pg.models.precision import dtype_policy, has_fast_bfloat16
from kerasrl_pg.presets import DEFAULTS, PRESETS, Preset, Settings
from kerasrl_pg.training.callbacks import Checkpoint, Progress
from kerasrl_pg.training.engines import GraphEngine, VectorEngine, uses_xla
from kerasrl_pg.training.on_policy import train_on_policy

EPOCHS = 100
"""Reporting intervals of a training whose `steps_per_epoch` is not given."""


def fit_agent(
    env: EnvLike,
    algorithm: Any = "ppo",
    *,
    steps: int,
    seed: int = 0,
    num_envs: int | None = None,
    model: keras.Model | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    stop_return: float | None = None,
    strategy: tf.distribute.Strategy | None = None,
    mixed_precision: str | None = None,
    eval_env: EnvLike | None = None,
    eval_episodes: int = 0,
    checkpoint: str | os.PathLike | None = None,
    steps_per_epoch: int | None = None,
    in_graph: bool = True,
    jit_compile: bool | None = None,
    protocol: AtariProtocol | None = None,
    verbose: int = 1,
) -> Agent:
    """Train an agent.

    Args:
        env: a Gymnasium id, an environment or a function that makes one, a Gymnasium vector environment, or a
            `TensorEnv`. An id that has a twin as a TensorFlow graph trains on the twin.
        algorithm: a name ("ppo", "a2c", "reinforce", "policy_gradient"), which takes its settings from the preset for
            this environment if there is one; the name of a preset; an algorithm such as `PPO(clip_epsilon=0.1)`; or
            an `Agent`, to train it further.
        steps: environment steps, all environments together. Training ends after the update that reaches it.
        seed: of weights, environments, actions and minibatches. The same seed gives the same agent on the same machine.
        num_envs: environments side by side; None for the preset's number, or 8.
        model: a Keras model with policy and value outputs, or one without heads to use as a trunk.
        optimizer: any Keras optimizer, its learning rate a number or a schedule.
        callbacks: Keras callbacks; an epoch is one reporting interval, a batch one update.
        stop_return: stop once the mean return of the last 100 episodes is at least this.
        strategy: a `tf.distribute` strategy; each replica learns from its share of the environments.
        mixed_precision: "bfloat16" computes the model's trunk in bfloat16, "auto" does so where the processor is fast
            at it; None for the preset's choice, or float32.
        eval_env: environment of the evaluations during training; None for the Gymnasium original of `env`.
        eval_episodes: evaluate the greedy policy for so many episodes after each epoch (`eval_return` in the history).
        checkpoint: a directory that is saved to after every epoch; if it holds an agent already, training goes on
            from there until `steps`.
        steps_per_epoch: environment steps of a reporting interval; None for about a hundredth of `steps`.
        in_graph: False steps the Gymnasium environment even if it has a twin.
        jit_compile: compile with XLA; None where it pays.
        protocol: how an Atari game is presented.
        verbose: 0 silent, 1 a progress bar, 2 a line per epoch.

    Returns:
        The trained `Agent`.

    Raises:
        ValueError: an argument out of its range, an unknown id or name (with the closest ones), a model whose outputs
            do not fit.
        TypeError: an argument of the wrong kind, or a space that is not supported.
        RuntimeError: the environment raised in a step; its exception is the cause.

    Example:
        >>> agent = fit_agent("CartPole-v1", "ppo", steps=512, seed=0, verbose=0)
        >>> agent.steps, len(agent.history.history["episode_return"])
        (512, 2)
    """
    _check_numbers(steps, seed, eval_episodes, steps_per_epoch, stop_return, verbose)
    _check_objects(callbacks, strategy)
    algorithm_name, preset = _find_preset(env, algorithm)
    if num_envs is None and preset is not None:
        num_envs = preset.num_envs
    environment = make_env(env, num_envs=num_envs, in_graph=in_graph, protocol=protocol)
    evaluation = environment if eval_env is None else make_env(eval_env, in_graph=False)
    training = environment.make_training()
    if strategy is not None and training.num_envs % strategy.num_replicas_in_sync:
        raise ValueError(
            f"num_envs must be a multiple of the strategy's {strategy.num_replicas_in_sync} replicas, "
            f"got {training.num_envs}"
        )

    if stop_return is not None and strategy is not None and num_workers(strategy) > 1:
        raise ValueError("stop_return is for one process: each worker sees other episodes, and all must stop together")

    agent = _resumed(checkpoint, algorithm, algorithm_name, environment, strategy)
    if isinstance(algorithm, Agent):
        steps += algorithm.steps
    if agent is None:
        settings = _settings(algorithm, algorithm_name, preset, steps, training.num_envs)
        agent = _new_agent(settings, model, optimizer, training, environment, seed, strategy, mixed_precision)
    elif model is not None or optimizer is not None:
        raise ValueError("model and optimizer are those of the agent that is trained further: leave them out")
    agent.check_spaces(training)

    length = agent.algorithm.rollout_length
    updates = math.ceil(steps / (training.num_envs * length * agent.learner.num_workers)) if length else EPOCHS
    updates_per_epoch = max(1, updates // EPOCHS)
    if steps_per_epoch is not None:
        updates_per_epoch = max(1, round(steps_per_epoch / (training.num_envs * (length or 1))))
    jit_compile = uses_xla(agent.model) if jit_compile is None else jit_compile
    engine = _engine(agent, training, environment, updates_per_epoch if length else 1, jit_compile)

    hooks = [*callbacks]
    if verbose:
        hooks.append(Progress(agent, steps, verbose))
    if checkpoint is not None:
        hooks.append(Checkpoint(agent, checkpoint))
    after_epoch = _evaluation(agent, evaluation, eval_episodes, seed) if eval_episodes else None
    try:
        train_on_policy(
            agent,
            engine,
            steps=steps,
            updates_per_epoch=updates_per_epoch,
            callbacks=hooks,
            stop_return=stop_return,
            after_epoch=after_epoch,
        )
    finally:
        if isinstance(training, VectorAdapter):
            training.close()
    return agent


def _check_numbers(
    steps: int,
    seed: int,
    eval_episodes: int,
    steps_per_epoch: int | None,
    stop_return: float | None,
    verbose: int,
) -> None:
    for name, value, least in (("steps", steps, 1), ("seed", seed, 0), ("eval_episodes", eval_episodes, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    if steps_per_epoch is not None and (not isinstance(steps_per_epoch, int) or steps_per_epoch < 1):
        raise ValueError(f"steps_per_epoch must be a positive integer, got {steps_per_epoch!r}")
    if stop_return is not None and (not isinstance(stop_return, numbers.Real) or math.isnan(stop_return)):
        raise ValueError(f"stop_return must be a number or None, got {stop_return!r}")
    if verbose not in (0, 1, 2):
        raise ValueError(f"verbose must be 0, 1 or 2, got {verbose!r}")


def _check_objects(callbacks: Any, strategy: Any) -> None:
    is_list = isinstance(callbacks, list | tuple)
    if not is_list or not all(isinstance(callback, keras.callbacks.Callback) for callback in callbacks):
        raise TypeError(f"callbacks must be a list of keras.callbacks.Callback objects, got {callbacks!r}")
    if strategy is not None and not isinstance(strategy, tf.distribute.Strategy):
        raise TypeError(f"strategy must be a tf.distribute.Strategy or None, got {strategy!r}")


def _find_preset(env: EnvLike, algorithm: Any) -> tuple[str | None, Preset | None]:
    """The algorithm's name and the preset that `algorithm` means on `env`, where it is a name."""
    if not isinstance(algorithm, str):
        is_algorithm = callable(getattr(algorithm, "update", None)) and not isinstance(algorithm, type)
        if not is_algorithm and not isinstance(algorithm, Agent):
            raise TypeError(f"algorithm must be a name, an algorithm such as PPO(), or an Agent, got {algorithm!r}")
        return None, None
    env_id = env if isinstance(env, str) else None
    if algorithm in PRESETS:
        preset = PRESETS[algorithm]
        if env_id is not None and env_id != preset.env:
            raise ValueError(f"preset {algorithm!r} is for {preset.env}, not for {env_id}")
        return preset.algorithm, preset
    if algorithm not in ALGORITHMS:
        close = difflib.get_close_matches(algorithm, [*ALGORITHMS, *PRESETS], n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else "."
        raise ValueError(f"unknown algorithm {algorithm!r}{hint} Known: {', '.join(ALGORITHMS)}")
    found = [preset for preset in PRESETS.values() if (preset.env, preset.algorithm) == (env_id, algorithm)]
    return algorithm, found[0] if found else None


def _settings(algorithm: Any, name: str | None, preset: Preset | None, steps: int, num_envs: int) -> Settings:
    if preset is not None:
        return preset.build(steps, num_envs)
    if name is not None:
        return DEFAULTS[name]()
    names = {cls: name for name, cls in ALGORITHMS.items()}
    default = DEFAULTS[names.get(type(algorithm), "ppo")]()
    return Settings(algorithm=algorithm, optimizer=default.optimizer, model=default.model)


def _new_agent(
    settings: Settings,
    model: keras.Model | None,
    optimizer: keras.optimizers.Optimizer | None,
    training: Any,
    environment: Environment,
    seed: int,
    strategy: tf.distribute.Strategy | None,
    mixed_precision: str | None,
) -> Agent:
    model_seed = seeding.integers(seed, 1)[0]
    spaces = training.observation_space, training.action_space
    with scope(strategy):
        if model is None:
            with _precision(mixed_precision or settings.mixed_precision):
                model = settings.model(*spaces, seed=model_seed)
        elif mixed_precision is not None:
            raise ValueError("mixed_precision is for models built here: your model's dtype policies decide for it")
        else:
            model = _own_model(model, spaces, model_seed, strategy)
        optimizer = settings.optimizer if optimizer is None else optimizer
        _check_learning_rate(optimizer)
        # A fresh optimizer of the same settings, made under the strategy's scope.
        optimizer = type(optimizer).from_config(optimizer.get_config())
        optimizer.build(model.trainable_variables)
    return Agent(settings.algorithm, model, optimizer, *spaces, environment=environment, seed=seed, strategy=strategy)


def _own_model(model: Any, spaces: tuple, seed: int, strategy: tf.distribute.Strategy | None) -> keras.Model:
    """A user's model: heads are added to a trunk; under a strategy its variables are made anew."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model, got {model!r}")
    if strategy is not None:
        weights = model.get_weights()
        model = keras.models.clone_model(model)
        model.set_weights(weights)
    if has_heads(model, spaces[0]):
        return model
    return actor_critic(*spaces, trunk=model, seed=seed)


def _precision(name: str | None):
    """A context in which models are built in this precision."""
    if name == "auto":
        name = "bfloat16" if has_fast_bfloat16() else None
    if name not in (None, "float32", "bfloat16"):
        raise ValueError(f'mixed_precision must be None, "auto", "bfloat16" or "float32", got {name!r}')
    return dtype_policy("mixed_bfloat16" if name == "bfloat16" else "float32")


def _check_learning_rate(optimizer: Any) -> None:
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(f"optimizer must be a keras.optimizers.Optimizer, got {optimizer!r}")
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    if not rate >= 0 or math.isinf(rate):
        raise ValueError(f"the optimizer's learning_rate must be a number of at least 0, got {rate}")


def _engine(
    agent: Agent, training: Any, environment: Environment, updates_per_call: int, jit_compile: bool
) -> GraphEngine | VectorEngine:
    if isinstance(training, VectorAdapter):
        return VectorEngine(agent, training, environment.clip_reward, jit_compile)
    return GraphEngine(agent, training, updates_per_call, jit_compile)


def _resumed(
    checkpoint: str | os.PathLike | None,
    algorithm: Any,
    algorithm_name: str | None,
    environment: Environment,
    strategy: tf.distribute.Strategy | None,
) -> Agent | None:
    """The agent to train further, from a checkpoint or handed in; None for a new one."""
    path = None if checkpoint is None else whole_agent(checkpoint)
    if path is not None and (path / "agent.json").exists():
        known = algorithm if hasattr(algorithm, "update") else None
        agent = load_agent(path, env=environment, algorithm=known, strategy=strategy)
        if algorithm_name is not None and not isinstance(agent.algorithm, ALGORITHMS[algorithm_name]):
            name = type(agent.algorithm).__name__
            raise ValueError(f"checkpoint {path} holds an agent of {name}, not of {algorithm!r}: choose another path")
    elif path is not None and path.exists():
        raise FileExistsError(f"checkpoint {path} exists and is not a saved agent: choose another path")
    elif isinstance(algorithm, Agent):
        agent = algorithm
    else:
        return None
    return agent


def _evaluation(agent: Agent, environment: Environment, episodes: int, seed: int):
    probe = environment.make_evaluation(1)
    agent.check_spaces(probe)
    probe.close()

    def evaluate() -> dict[str, float]:
        result = agent.evaluate(episodes=episodes, seed=seed, env=environment)
        return {"eval_return": result.mean, "eval_length": float(result.lengths.mean())}

    return evaluate
