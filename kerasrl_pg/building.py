"""What `fit_agent` puts together before it trains: settings, a model, an agent, an engine."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kerasrl_pg import seeding
from kerasrl_pg.agent import Agent
from kerasrl_pg.algorithms import ALGORITHMS
from kerasrl_pg.any_optimizer import fresh_copy, gradients_seen_by, learning_rate_of
from kerasrl_pg.checks import as_integer, as_switch
from kerasrl_pg.envs.make import Environment, EnvLike, GameProtocol, make_env, options_of, own_number, protocol_from
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.models.actor_critic import actor_critic, has_heads
from kerasrl_pg.models.precision import mixed_precision_policy
from kerasrl_pg.models.q_network import q_network
from kerasrl_pg.policies import learns_action_values
from kerasrl_pg.presets import DEFAULTS, PRESETS
from kerasrl_pg.saving import as_json
from kerasrl_pg.settings import ModelLike, Preset, Settings
from kerasrl_pg.strategies import scope
from kerasrl_pg.training.graph_engine import GraphEngine, uses_xla
from kerasrl_pg.training.loop import Engine
from kerasrl_pg.training.off_policy import OffPolicyEngine, OffPolicyProgram
from kerasrl_pg.training.on_policy import OnPolicyEngine, OnPolicyProgram

RATE_MOVERS = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)
"""Keras' callbacks that set the learning rate, which of an optimizer with a schedule they cannot."""
EPOCHS = 100
"""Reporting intervals of a training whose `steps_per_epoch` is not given."""


def check_numbers(
    steps: int,
    seeds: Sequence[int],
    eval_episodes: int,
    steps_per_epoch: int | None,
    stop_return: float | None,
    verbose: int,
) -> None:
    """Raise ValueError for a number that is out of its range."""
    as_integer("steps", steps)
    for seed in seeds:
        as_integer("seed", seed, least=0)
    as_integer("eval_episodes", eval_episodes, least=0)
    if steps_per_epoch is not None:
        as_integer("steps_per_epoch", steps_per_epoch)
    if stop_return is not None and (not isinstance(stop_return, numbers.Real) or math.isnan(stop_return)):
        raise ValueError(f"stop_return must be a number or None, got {stop_return!r}")
    if verbose not in (0, 1, 2):
        raise ValueError(f"verbose must be 0, 1 or 2, got {verbose!r}")


def check_switches(in_graph: Any, eval_sample: Any, jit_compile: Any) -> None:
    """Raise ValueError for what is neither True nor False (`jit_compile`: nor None); a text would count as true."""
    switches = {"in_graph": in_graph, "eval_sample": eval_sample}
    if jit_compile is not None:
        switches["jit_compile"] = jit_compile
    for name, value in switches.items():
        as_switch(name, value)


def check_callbacks(callbacks: Any) -> None:
    """Raise for what is not a list of Keras' callbacks (TypeError), or holds one that cannot work (ValueError)."""
    is_list = isinstance(callbacks, list | tuple)
    if not is_list or not all(isinstance(callback, keras.callbacks.Callback) for callback in callbacks):
        raise TypeError(f"callbacks must be a list of keras.callbacks.Callback objects, got {callbacks!r}")
    if any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in callbacks):
        raise ValueError(
            "callbacks: BackupAndRestore brings back weights alone, not the steps, the history and the environments of "
            "a training: pass fit_agent(checkpoint=...) instead"
        )


def moves_learning_rate(callbacks: Sequence[keras.callbacks.Callback]) -> bool:
    """Whether one of them sets it."""
    return any(isinstance(callback, RATE_MOVERS) for callback in callbacks)


def check_learning_rate_can_move(
    optimizer: keras.optimizers.Optimizer, callbacks: Sequence[keras.callbacks.Callback]
) -> None:
    """Refuse a callback that sets a learning rate which follows a schedule: Keras would, epochs later.

    Raises:
        ValueError: it does.
    """
    rate = learning_rate_of(optimizer)
    if moves_learning_rate(callbacks) and not isinstance(rate, keras.Variable):
        names = " and ".join(kind.__name__ for kind in RATE_MOVERS)
        raise ValueError(
            f"callbacks: {names} set the learning rate, which must then be a number, and the optimizer's follows "
            f"{rate}: pass optimizer=..., with a number"
        )


def find_preset(env: EnvLike, algorithm: Any) -> tuple[str | None, Preset | None]:
    """The algorithm's name and the preset that `algorithm` means on `env`, where it is a name.

    Raises:
        TypeError: `algorithm` is neither a name, an algorithm nor an Agent.
        ValueError: an unknown name, or a preset for another environment.
    """
    if not isinstance(algorithm, str):
        is_algorithm = callable(getattr(algorithm, "update", None)) and not isinstance(algorithm, type)
        if not is_algorithm and not isinstance(algorithm, Agent):
            raise TypeError(f"algorithm must be a name, an algorithm such as PPO(), or an Agent, got {algorithm!r}")
        if is_algorithm and not dataclasses.is_dataclass(algorithm):
            raise TypeError(f"an algorithm must be a dataclass, whose fields are its settings, got {algorithm!r}")
        return None, None
    env_id = env.rpartition(":")[2] if isinstance(env, str) else None
    if algorithm in PRESETS:
        preset = PRESETS[algorithm]
        if env_id is not None:
            _check_preset(preset, env_id)
        return preset.algorithm, preset
    if algorithm not in ALGORITHMS:
        close = difflib.get_close_matches(algorithm, [*ALGORITHMS, *PRESETS], n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else "."
        raise ValueError(f"unknown algorithm {algorithm!r}{hint} Known: {', '.join(ALGORITHMS)}")
    found = [
        preset
        for preset in PRESETS.values()
        if (preset.env, preset.algorithm) == (env_id, algorithm) and not preset.only_by_name
    ]
    return algorithm, found[0] if found else None


def environment_of(
    env: EnvLike,
    preset: Preset | None,
    *,
    num_envs: int | None,
    env_options: Mapping[str, Any] | None,
    in_graph: bool,
    protocol: GameProtocol | None,
) -> Environment:
    """`make_env`, with the preset's number of environments, options and protocol where nothing else is asked for.

    An object has options and a protocol already, and knows how many it is.
    """
    options = options_of(env_options)
    if preset is not None and isinstance(env, str):
        options = {**preset.env_options, **options}
        protocol = preset.protocol if protocol is None else protocol
    if preset is not None and num_envs is None and own_number(env) is None:
        num_envs = preset.num_envs
    as_json(options)  # or it could not be saved
    made = make_env(env, num_envs=num_envs, in_graph=in_graph, protocol=protocol, env_options=options)
    if preset is not None and made.spec_id is not None:
        _check_preset(preset, made.spec_id)
    return made


def presentation_of(
    agent: Agent, env: EnvLike, protocol: GameProtocol | None, env_options: Mapping[str, Any] | None
) -> tuple[GameProtocol | None, Mapping[str, Any] | None]:
    """The protocol and the options of the agent's own environment, if `env` is its id and nothing else is asked for."""
    own = agent.environment
    if own is None or not isinstance(env, str) or env != own.id:
        return protocol, env_options
    return protocol or protocol_from(env, own.protocol), {**own.options, **options_of(env_options)}


def _check_preset(preset: Preset, env_id: str) -> None:
    if preset.env != env_id:
        name = next(name for name, each in PRESETS.items() if each is preset)
        raise ValueError(f"preset {name!r} is for {preset.env}, not for {env_id}")


def settings_of(
    algorithm: Any,
    name: str | None,
    preset: Preset | None,
    steps: int,
    num_envs: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> Settings:
    """From `find_preset`'s answer, or from the defaults that go with an algorithm.

    Where a callback sets the learning rate, a preset's is constant.
    """
    if preset is not None:
        settings = preset.build(steps, num_envs)
        return _with_constant_learning_rate(settings) if moves_learning_rate(callbacks) else settings
    if name is not None:
        return DEFAULTS[name]()
    names = {cls: name for name, cls in ALGORITHMS.items()}
    default = DEFAULTS[names.get(type(algorithm), "ppo")]()
    return Settings(algorithm=algorithm, optimizer=default.optimizer, model=default.model)


def _with_constant_learning_rate(settings: Settings) -> Settings:
    """With the first value of a schedule in the place of it, which callbacks can then change."""
    config = settings.optimizer.get_config()
    if not isinstance(config["learning_rate"], Mapping):  # a schedule's settings; a number otherwise
        return settings
    config["learning_rate"] = float(keras.optimizers.schedules.deserialize(config["learning_rate"])(0))
    return dataclasses.replace(settings, optimizer=type(settings.optimizer).from_config(config))


def new_agent(
    settings: Settings,
    model: ModelLike | None,
    optimizer: keras.optimizers.Optimizer | None,
    training: Any,
    environment: Environment,
    seed: int,
    strategy: tf.distribute.Strategy | None,
    mixed_precision: str | None,
) -> Agent:
    """An agent that has not learned yet; `model` and `optimizer` are the user's, or None for those of `settings`."""
    spaces = training.observation_space, training.action_space
    with scope(strategy):
        built = new_model(settings, model, spaces, seed, strategy, mixed_precision)
    optimizer = fresh_optimizer(settings.optimizer if optimizer is None else optimizer, built, strategy)
    return Agent(settings.algorithm, built, optimizer, *spaces, environment=environment, seed=seed, strategy=strategy)


def fresh_optimizer(
    optimizer: keras.optimizers.Optimizer, model: keras.Model, strategy: tf.distribute.Strategy | None
) -> keras.optimizers.Optimizer:
    """One of the same settings for a model's weights, made under the strategy's scope."""
    _check_learning_rate(optimizer)
    with scope(strategy):
        fresh = fresh_copy(optimizer)
        fresh.build(model.trainable_variables)
    return fresh


def check_learning_rate_lasts(agent: Agent, steps: int, *, resumed: bool) -> None:
    """Refuse to go on from an agent whose schedule leaves it a learning rate of 0 well before `steps` are over.

    That is: for a tenth of what it is asked for, all `steps` if it is `resumed` from a checkpoint. How many gradient
    steps there will be is judged by those so far, but for whole episodes, of which the first ones are short.
    """
    schedule = learning_rate_of(agent.optimizer)
    done, left = int(keras.ops.convert_to_numpy(gradients_seen_by(agent.optimizer))), steps - agent.steps
    if done == 0 or left <= 0 or not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return
    begin, end = 0 if resumed else done, done if agent.algorithm.rollout_length is None else done * steps / agent.steps
    if float(schedule(int(begin + 0.9 * (end - begin)))) == 0:
        raise ValueError(
            f"the agent's learning rate is 0 before steps={left} more are over, for its schedule is that of its first "
            f"{agent.steps} steps: keep to the steps that it began with, or pass fit_agent(env, agent, optimizer=...)"
        )


def new_model(
    settings: Settings,
    model: ModelLike | None,
    spaces: tuple,
    seed: int,
    strategy: tf.distribute.Strategy | None,
    mixed_precision: str | None,
) -> keras.Model:
    """A model with heads for an agent of `seed`: the user's, what the user's function builds, or that of `settings`.

    Raises:
        TypeError: `model` is no model, and no function that builds one.
        ValueError: `mixed_precision` for a model of the user's, or a trunk that does not fit.
    """
    model_seed = seeding.integers(seed, 1)[0]
    if isinstance(model, keras.Model):
        if mixed_precision is not None:
            raise ValueError(
                "mixed_precision is for models built here: the dtype policies of your own decide for it; "
                f"got mixed_precision={mixed_precision!r}"
            )
        if strategy is not None:
            model = _made_anew(model)
    elif model is None or (callable(model) and not isinstance(model, keras.layers.Layer)):
        build = settings.model if model is None else model
        _check_signature(build)
        with mixed_precision_policy(mixed_precision or settings.mixed_precision):
            model = build(*spaces, seed=model_seed)
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model or a function that builds one, got {model!r}")
    others = {weight.dtype for weight in model.trainable_variables} - {"float32"}
    if others:
        raise ValueError(f"the weights of a model must be float32, whatever it computes in; got {', '.join(others)}")
    if has_heads(model, spaces[0]):
        return model
    with_heads = q_network if learns_action_values(settings.algorithm) else actor_critic
    return with_heads(*spaces, trunk=model, seed=model_seed)


def _check_signature(build: Callable) -> None:
    try:
        inspect.signature(build).bind(None, None, seed=0)
    except TypeError as error:
        raise TypeError(
            f"model must be a function of (observation_space, action_space, seed=...), got {build!r}: {error}"
        ) from error


def check_can_be_loaded(model: keras.Model) -> None:
    """Refuse a model that could be saved and not be read again, before a training that is saved depends on it.

    Raises:
        ValueError: Keras cannot make it from its configuration.
    """
    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except Exception as error:  # whatever the user's layers raise
        reason = str(error).rpartition("Exception encountered: ")[2].partition("\n")[0]
        raise ValueError(
            f"checkpoint: the model could not be read again ({reason}). Layers and models of your own must be "
            "registered with keras.saving.register_keras_serializable, and their __init__ must take **kwargs"
        ) from error


def _made_anew(model: keras.Model) -> keras.Model:
    """Under a strategy's scope: its variables are the strategy's."""
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def _check_learning_rate(optimizer: Any) -> None:
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(f"optimizer must be a keras.optimizers.Optimizer, got {optimizer!r}")
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    if not rate >= 0 or math.isinf(rate):
        raise ValueError(f"the optimizer's learning_rate must be a number of at least 0, got {rate}")


def updates_of_epoch(agent: Agent, num_envs: int, steps: int, steps_per_epoch: int | None) -> int:
    """Updates in a reporting interval: by default a hundredth of a training; one where episodes are whole."""
    length = agent.algorithm.rollout_length
    if length is None and steps_per_epoch is None:
        return 1
    steps_per_update = num_envs * (length or 1) * agent.learner.num_workers
    if steps_per_epoch is not None:
        return max(1, round(steps_per_epoch / steps_per_update))
    return max(1, math.ceil(steps / steps_per_update) // EPOCHS)


def make_engine(
    agent: Agent, training: Any, environment: Environment, updates_per_epoch: int, jit_compile: bool | None
) -> Engine:
    """What runs an agent's updates in `training`, the environments to learn from."""
    off_policy = learns_action_values(agent.algorithm)
    in_graph = not isinstance(training, VectorAdapter)
    if jit_compile is None:
        # Without XLA, a loop copies the replay that it carries at every step.
        jit_compile = uses_xla(agent.model) or (off_policy and in_graph)
    if in_graph:
        program: Any = (
            OffPolicyProgram(agent, training) if off_policy else OnPolicyProgram(agent, training, jit_compile)
        )
        updates_per_call = updates_per_epoch if agent.algorithm.rollout_length else 1
        return GraphEngine(agent, program, updates_per_call, jit_compile)
    if off_policy:
        return OffPolicyEngine(agent, training, environment.clip_reward, environment.stack, jit_compile)
    return OnPolicyEngine(agent, training, environment.clip_reward, jit_compile)


def evaluation(
    agent: Agent, environment: Environment, *, episodes: int, seed: int, sample: bool
) -> Callable[[], dict[str, float]] | None:
    """Plays episodes and returns figures for the log; None for no episodes.

    Raises:
        ValueError: the environment's spaces are not the agent's.
    """
    if not episodes:
        return None
    probe = environment.make_evaluation(1)
    try:
        agent.check_spaces(probe)
    finally:
        probe.close()

    def evaluate() -> dict[str, float]:
        result = agent.evaluate(episodes=episodes, seed=seed, env=environment, sample=sample)
        return {"eval_return": result.mean, "eval_length": float(result.lengths.mean())}

    return evaluate
