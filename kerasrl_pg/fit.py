"""`fit_agent`: from an environment and an algorithm to a trained agent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kerasrl_pg.agent import Agent
from kerasrl_pg.algorithms import ALGORITHMS
from kerasrl_pg.any_optimizer import check_can_be_saved
from kerasrl_pg.building import (
    check_callbacks,
    check_can_be_loaded,
    check_learning_rate_can_move,
    check_learning_rate_lasts,
    check_numbers,
    check_switches,
    environment_of,
    evaluation,
    find_preset,
    fresh_optimizer,
    make_engine,
    new_agent,
    presentation_of,
    settings_of,
    updates_of_epoch,
)
from kerasrl_pg.envs.make import Environment, EnvLike, GameProtocol, as_environment, own_number
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.loading import load_agent
from kerasrl_pg.paths import check_writable
from kerasrl_pg.policies import learns_action_values
from kerasrl_pg.saving import algorithm_of, check_settings_can_be_saved, whole_agent
from kerasrl_pg.settings import ModelLike
from kerasrl_pg.strategies import num_workers, spread_by
from kerasrl_pg.training.callbacks import Checkpoint, Progress
from kerasrl_pg.training.loop import train


def fit_agent(
    env: EnvLike,
    algorithm: Any = "ppo",
    *,
    steps: int,
    seed: int = 0,
    num_envs: int | None = None,
    model: ModelLike | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    stop_return: float | None = None,
    strategy: tf.distribute.Strategy | None = None,
    mixed_precision: str | None = None,
    eval_env: EnvLike | Environment | None = None,
    eval_episodes: int = 0,
    eval_sample: bool = False,
    checkpoint: str | os.PathLike | None = None,
    steps_per_epoch: int | None = None,
    in_graph: bool = True,
    jit_compile: bool | None = None,
    protocol: GameProtocol | None = None,
    env_options: Mapping[str, Any] | None = None,
    verbose: int = 1,
) -> Agent:
    """Train an agent.

    Args:
        env: a Gymnasium id, an environment or a function that makes one, a Gymnasium vector environment, or a
            `TensorEnv`. An id that has a twin as a TensorFlow graph trains on the twin.
        algorithm: a name ("ppo", "a2c", "reinforce", "policy_gradient", "cross_entropy", "dqn", "nfq"), which takes
            its settings from the preset for this environment if there is one; the name of a preset; an algorithm such
            as `PPO(clip_epsilon=0.1)`; or an `Agent`, to train it further.
        steps: environment steps, all environments together. Training ends after the update that reaches it. Of an
            `Agent` that is trained further: so many more.
        seed: of weights, environments, actions and minibatches. The same seed gives the same agent on the same machine;
            a `model` of your own has the weights that its own initializers give it. An `Agent`, or a checkpoint's,
            keeps its own seed: there it is that of evaluations only.
        num_envs: environments side by side; None for the number of the preset, or of the agent that is trained further,
            or 8.
        model: a Keras model with the outputs that the algorithm learns from (policy and value, or action values), or
            one without heads to use as a trunk; or a function that builds either,
            `build(observation_space, action_space, seed=...)`.
        optimizer: any Keras optimizer, its learning rate a number or a schedule. For an `Agent` a new one in the place
            of its own: schedules that count gradient steps, those of the algorithm included, begin anew with it.
        callbacks: Keras callbacks; an epoch is one reporting interval, a batch one update. In a graph environment an
            epoch is one call, and they hear of its updates when it has returned. With one that moves the learning rate
            (`LearningRateScheduler`, `ReduceLROnPlateau`) a preset's rate is constant.
        stop_return: stop once the mean return of the last 100 episodes is at least this; in a graph environment at an
            epoch's end.
        strategy: a `tf.distribute` strategy; each replica learns from its share of the environments. An `Agent` keeps
            its own.
        mixed_precision: "bfloat16" computes the model's trunk in bfloat16, "auto" does so where the processor is fast
            at it, "float32" never; None for the preset's choice, or "float32".
        eval_env: environment of the evaluations during training, or what `make_env` returns; an id is made with its
            own default options and protocol. None for the Gymnasium original of `env`, made as `env` is.
        eval_episodes: evaluate the policy for so many episodes after each epoch (`eval_return` in the history): the
            same ones each time, those of `agent.evaluate(seed=seed)`. An agent that was chosen by them, as by
            ModelCheckpoint, is to be judged by others: `agent.evaluate` with a seed further off than their number.
        eval_sample: draw the evaluations' actions from the policy instead of taking the most probable ones.
        checkpoint: a directory that is saved to after every epoch; if it holds an agent already, training goes on
            from there until `steps`, its own included, with that agent's model and optimizer: the same call starts
            and goes on.
        steps_per_epoch: environment steps of a reporting interval; None for about a hundredth of `steps` or, where
            updates are of whole episodes, one update.
        in_graph: False steps the Gymnasium environment even if it has a twin.
        jit_compile: compile with XLA; None where it pays.
        protocol: how a game is presented: an `AtariProtocol` or a `DoomProtocol`; None for that of the preset, of an
            `Agent` that goes on with its own id, or the default.
        env_options: keyword arguments with which an id is made, as `gymnasium.make` takes them; those of a preset, or
            of an `Agent` that goes on with its own id, stay where they are not named.
        verbose: 0 silent, 1 a progress bar, 2 a line per epoch.

    Returns:
        The trained `Agent`.

    Raises:
        ValueError: an argument out of its range, an unknown id or name (with the closest ones), a model whose outputs
            do not fit, an agent whose learning rate is 0 before the training's end, for its schedule is over.
        TypeError: an argument of the wrong kind, or a space that is not supported.
        FileExistsError: `checkpoint` is there, and is no saved agent.
        PermissionError: `checkpoint` cannot be written to.
        MemoryError: the rollouts or the replay would not fit.
        RuntimeError: the environment raised in a step, its exception being the cause; or an episode does not end where
            updates are of whole ones.
        ImportError: an id of an extra that is not installed, such as a Doom scenario.

    Example:
        >>> agent = fit_agent("CartPole-v1", "ppo", steps=512, seed=0, verbose=0)
        >>> agent.steps, len(agent.history.history["episode_return"])
        (512, 2)
    """
    check_numbers(steps, (seed,), eval_episodes, steps_per_epoch, stop_return, verbose)
    check_switches(in_graph, eval_sample, jit_compile)
    check_callbacks(callbacks)
    if eval_env is not None and not eval_episodes:
        raise ValueError("eval_env is played for eval_episodes episodes after each epoch: give their number, got 0")
    if checkpoint is not None:
        check_writable(checkpoint, "checkpoint")
    strategy = spread_by(strategy)
    steps, seed = int(steps), int(seed)
    algorithm_name, preset = find_preset(env, algorithm)
    if isinstance(algorithm, Agent):
        _check_further(algorithm, model, mixed_precision, strategy)
        strategy = algorithm.strategy
        steps += algorithm.steps
        if num_envs is None and own_number(env) is None:
            num_envs = algorithm.num_envs
        protocol, env_options = presentation_of(algorithm, env, protocol, env_options)
    environment = environment_of(
        env, preset, num_envs=num_envs, env_options=env_options, in_graph=in_graph, protocol=protocol
    )
    eval_made = environment if eval_env is None else as_environment(eval_env, environment)
    training = environment.make_training()
    try:
        _check_strategy(strategy, training.num_envs, stop_return)
        agent = _resumed(checkpoint, algorithm, algorithm_name, environment, strategy)
        if agent is None:
            all_envs = training.num_envs * num_workers(strategy)
            settings = settings_of(algorithm, algorithm_name, preset, steps, all_envs, callbacks)
            agent = new_agent(settings, model, optimizer, training, environment, seed, strategy, mixed_precision)
            if checkpoint is not None:
                check_can_be_saved(agent.optimizer)
                check_settings_can_be_saved(agent.algorithm)
                if model is not None:
                    check_can_be_loaded(agent.model)
        else:
            agent.check_spaces(training)
            if agent is not algorithm or optimizer is None:
                check_learning_rate_lasts(agent, steps, resumed=agent is not algorithm)
        if agent.q_learner is not None:
            agent.q_learner.check_batch_size(agent.algorithm.batch_size)  # before a callback overwrites files
        after_epoch = evaluation(agent, eval_made, episodes=eval_episodes, seed=seed, sample=eval_sample)
        other = fresh_optimizer(optimizer, agent.model, strategy) if agent is algorithm and optimizer else None
        check_learning_rate_can_move(other or agent.optimizer, callbacks)
        updates_per_epoch = updates_of_epoch(agent, training.num_envs, steps, steps_per_epoch)
        with _taken_back_after_an_error(agent):
            if other is not None:
                agent.replace_optimizer(other)
            agent.move_to(environment)
            engine = make_engine(agent, training, environment, updates_per_epoch, jit_compile)
        agent.num_envs = training.num_envs
        if verbose and learns_action_values(agent.algorithm):
            _tell_if_nothing_is_learned(agent, steps)
        reporters: list[keras.callbacks.Callback] = []
        if verbose:
            reporters.append(Progress(agent, steps, verbose))
        if checkpoint is not None:
            reporters.append(Checkpoint(agent, checkpoint))
        train(
            agent,
            engine,
            steps=steps,
            updates_per_epoch=updates_per_epoch,
            steps_per_epoch=steps_per_epoch,
            callbacks=callbacks,
            reporters=reporters,
            stop_return=stop_return,
            after_epoch=after_epoch,
        )
    finally:
        if isinstance(training, VectorAdapter):
            training.close()
    return agent


@contextlib.contextmanager
def _taken_back_after_an_error(agent: Agent) -> Iterator[None]:
    """Another optimizer and another environment, if the agent cannot be trained with them."""
    names = ("optimizer", "environment", "environment_state", "replay", "replay_begun_at")
    before = {name: getattr(agent, name) for name in names}
    try:
        yield
    except BaseException:
        if agent.optimizer is not before["optimizer"]:
            agent.replace_optimizer(before["optimizer"])
        for name, value in before.items():
            setattr(agent, name, value)
        raise


def _tell_if_nothing_is_learned(agent: Agent, steps: int) -> None:
    """The defaults are those of a paper that trains for millions of steps."""
    starts = agent.algorithm.learning_starts
    if steps - agent.replay_begun_at[0] <= starts:
        name = type(agent.algorithm).__name__
        print(f"nothing will be learned: {name}(learning_starts={starts}) begins after that many steps, of {steps}")


def _check_further(
    agent: Agent, model: ModelLike | None, mixed_precision: str | None, strategy: tf.distribute.Strategy | None
) -> None:
    if model is not None or mixed_precision is not None:
        given = {"model": model, "mixed_precision": mixed_precision}
        named = " and ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
        raise ValueError(f"model and mixed_precision are those of the agent that is trained further: leave out {named}")
    if strategy is not None and strategy is not agent.strategy:
        raise ValueError(
            "strategy is that of the agent that is trained further: leave it out, or load_agent(..., strategy=...); "
            f"got {strategy!r}"
        )


def _check_strategy(strategy: tf.distribute.Strategy | None, num_envs: int, stop_return: float | None) -> None:
    if strategy is None:
        return
    replicas = strategy.num_replicas_in_sync // num_workers(strategy)
    if num_envs % replicas:
        raise ValueError(f"num_envs must be a multiple of the strategy's {replicas} replicas, got {num_envs}")
    if stop_return is not None and num_workers(strategy) > 1:
        raise ValueError(
            "stop_return is for one process: each worker sees other episodes, and all must stop together; "
            f"got stop_return={stop_return} with {num_workers(strategy)} workers"
        )


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
        given = algorithm.algorithm if isinstance(algorithm, Agent) else algorithm
        asked = type(given) if algorithm_name is None else ALGORITHMS[algorithm_name]
        name = algorithm_of(path)
        if name != asked.__name__:
            raise ValueError(f"checkpoint {path} holds an agent of {name}, not of {given!r}: choose another path")
        known = given if algorithm_name is None else None
        agent = load_agent(path, env=environment, algorithm=known, strategy=strategy)
    elif path is not None and path.exists():
        raise FileExistsError(f"checkpoint {path} exists and is not a saved agent: choose another path")
    elif isinstance(algorithm, Agent):
        agent = algorithm
    else:
        return None
    return agent
