"""`load_agent`: from what `Agent.save` wrote to an agent that goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasrl_pg import optimizers  # noqa: F401  Keras must know the optimizers that it loads
from kerasrl_pg.agent import Agent
from kerasrl_pg.algorithms import ALGORITHMS
from kerasrl_pg.envs.make import Environment, EnvLike, as_environment, make_env, protocol_from
from kerasrl_pg.saving import StoredReplay, numbered, settings_from_json, whole_agent
from kerasrl_pg.spaces import space_from_json
from kerasrl_pg.strategies import scope, spread_by

WRITTEN = {
    "action_space",
    "algorithm",
    "env_options",
    "environment",
    "epoch",
    "history",
    "num_envs",
    "observation_space",
    "protocol",
    "replay_begun_at",
    "seed",
    "steps",
    "updates",
}
"""Of what `Agent.save` writes to agent.json, enough to tell it from another file."""


def load_agent(
    path: str | os.PathLike,
    *,
    env: EnvLike | Environment | None = None,
    algorithm: Any = None,
    strategy: tf.distribute.Strategy | None = None,
) -> Agent:
    """Read an agent that `Agent.save` or a checkpoint wrote.

    Args:
        path: the directory.
        env: the environment, needed for those that have no id.
        algorithm: the algorithm, needed for those that are not this package's.
        strategy: under which to go on training.

    Returns:
        The `Agent`, which acts, evaluates and trains further as the one that was saved.

    Raises:
        FileNotFoundError: there is no saved agent at `path`.
        ValueError: its algorithm is not this package's and none was passed, another was passed than it was trained by,
            what is at `path` is no saved agent or a damaged one, or Keras does not know a layer of its model.

    Example:
        >>> import tempfile
        >>> import kerasrl_pg as krl
        >>> agent = krl.fit_agent("CartPole-v1", krl.A2C(), steps=40, seed=0, jit_compile=False, verbose=0)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     again = load_agent(agent.save(directory + "/agent"))
        >>> again.steps, bool(agent.act([0.0, 0.1, 0.2, 0.3]) == again.act([0.0, 0.1, 0.2, 0.3]))
        (40, True)
    """
    directory, strategy = whole_agent(path), spread_by(strategy)
    if not (directory / "agent.json").is_file():
        raise FileNotFoundError(f"no saved agent at {directory}: agent.json is missing")
    description = _description(directory)
    classes = {cls.__name__: cls for cls in ALGORITHMS.values()}
    name = description["algorithm"]["name"]
    if algorithm is None:
        if name not in classes:
            raise ValueError(f"algorithm {name!r} is not of this package: pass load_agent(algorithm=...)")
        algorithm = classes[name](**settings_from_json(description["algorithm"]["settings"]))
    elif name in classes and type(algorithm).__name__ != name:
        raise ValueError(f"{directory} holds an agent of {name}, which algorithm={algorithm!r} is not")
    with scope(strategy):
        model = _model(directory / "model.keras")
    agent = Agent(
        algorithm,
        model,
        model.optimizer,
        space_from_json(description["observation_space"]),
        space_from_json(description["action_space"]),
        environment=_environment(env, description),
        seed=description["seed"],
        strategy=strategy,
    )
    agent.steps, agent.updates = description["steps"], description["updates"]
    agent.replay_begun_at = tuple(description["replay_begun_at"])
    agent.num_envs = description["num_envs"]
    agent.history.history, agent.history.epoch = description["history"], description["epoch"]
    with (
        _readable(directory, "training.npz"),
        open(directory / "training.npz", "rb") as file,
        np.load(file) as arrays,
    ):
        agent.episodes.extend(arrays["step"], arrays["episode_return"], arrays["episode_length"])
        agent.environment_state = numbered(arrays, "environment") or None
        target = numbered(arrays, "target")  # none, where the algorithm that was stored learned without one
        if target and agent.q_learner is not None and agent.q_learner.target is not None:
            agent.q_learner.target.model.set_weights(target)
    if (directory / "replay.npz").is_file():
        with _readable(directory, "replay.npz"):
            agent.replay = StoredReplay(directory / "replay.npz")
    agent.forget_another(description)
    stored = description["algorithm"]["settings"].get("n_step")
    if stored != getattr(algorithm, "n_step", stored):
        agent.environment_state = None  # a graph's replay: which transitions are whole depends on n_step
    return agent


@contextlib.contextmanager
def _readable(directory: pathlib.Path, name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{directory} is not a whole saved agent: {name} cannot be read ({error})") from error


def _model(path: pathlib.Path) -> keras.Model:
    try:
        return keras.saving.load_model(path)
    except (OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Layers and models of your own must be registered with "
            "keras.saving.register_keras_serializable before"
        ) from error


def _description(directory: pathlib.Path) -> dict[str, Any]:
    try:
        description = json.loads((directory / "agent.json").read_text())
        missing = WRITTEN - set(description)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{directory} is not a saved agent: agent.json cannot be read ({error})") from error
    if missing or not isinstance(description, dict):
        raise ValueError(f"{directory} is not a saved agent: agent.json is without {', '.join(sorted(missing))}")
    return description


def _environment(env: EnvLike | Environment | None, description: dict[str, Any]) -> Environment | None:
    """What the user says, else what the description names."""
    if env is not None:
        return as_environment(env)
    if description["environment"] is None:
        return None
    env_id, options = description["environment"], description["env_options"]
    return make_env(env_id, protocol=protocol_from(env_id, description["protocol"]), env_options=options)
