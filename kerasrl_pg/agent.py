"""An agent: an algorithm, a model and its optimizer, for one kind of observation and action."""

from __future__ import annotations

import bisect
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import gymnasium
import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg import export, ops, seeding
from kerasrl_pg.any_optimizer import check_can_be_saved, check_fits_replicas, described
from kerasrl_pg.checks import as_integer, as_switch
from kerasrl_pg.direct_calls import called_directly
from kerasrl_pg.envs.make import Environment, EnvLike, as_environment
from kerasrl_pg.envs.vector_adapter import LONGEST_EPISODE
from kerasrl_pg.episode_log import WINDOW, EpisodeLog
from kerasrl_pg.evaluate import Evaluation, evaluate_policy
from kerasrl_pg.learner import Learner
from kerasrl_pg.models.fusion import for_training
from kerasrl_pg.models.q_network import QPolicy
from kerasrl_pg.policies import learns_action_values, policy_of
from kerasrl_pg.q_learner import QLearner
from kerasrl_pg.saving import (
    StoredReplay,
    alone_in,
    as_json,
    check_settings_can_be_saved,
    put_back,
    scratch_of,
    settings_to_json,
    task_of,
    without_link,
)
from kerasrl_pg.spaces import as_batch, map_observation, map_space, space_to_json, tensor_dtype
from kerasrl_pg.strategies import scope


class Agent:
    """What training returns: acts, is evaluated, saved and exported.

    Made by `fit_agent` and `load_agent`.

    Attributes:
        algorithm: its hyperparameters.
        model: the Keras model, preprocessing included.
        optimizer: the Keras optimizer.
        history: a `keras.callbacks.History`: `.history["episode_return"]` and so on, one entry per epoch.
        episodes: an `EpisodeLog` of every episode that ended in training.
        steps: environment steps of training so far.
        updates: updates of the algorithm so far.
        environment: what it was trained on.
        num_envs: environments side by side when it was trained last; None before.
    """

    def __init__(
        self,
        algorithm: Any,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        environment: Environment | None = None,
        seed: int = 0,
        strategy: tf.distribute.Strategy | None = None,
    ):
        check_fits_replicas(optimizer, strategy)
        self.algorithm = algorithm
        self.model = model
        self.optimizer = optimizer
        self.observation_space = observation_space
        self.action_space = action_space
        self.environment = environment
        self.num_envs: int | None = None
        self.strategy = strategy
        self.policy = policy_of(algorithm, model, observation_space, action_space)
        self.learner = Learner(self._for_training(self.policy), optimizer, strategy)
        self.q_learner = QLearner(self.learner, self._frozen_copy()) if learns_action_values(algorithm) else None
        self._greedy, self._sampled = self._compile_act()
        self._begin(seed)
        # Keras' callbacks look for the optimizer here.
        if getattr(model, "optimizer", None) is not optimizer:
            model.compile(optimizer=optimizer)

    def restart(self, seed: int, weights: list[np.ndarray], optimizer_variables: list[np.ndarray]) -> None:
        """Forget everything and begin anew from these weights; what was compiled stays.

        Args:
            seed: of all that follows.
            weights: as `model.get_weights()` gives them.
            optimizer_variables: one array for each of `optimizer.variables`.
        """
        self.model.set_weights(weights)
        for variable, value in zip(self.optimizer.variables, optimizer_variables, strict=True):
            variable.assign(value)
        if self.q_learner is not None and self.q_learner.target is not None:
            self.q_learner.copy_to_target()
        self._begin(seed)

    def replace_optimizer(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Learn with another one from now on. Its `iterations`, which schedules of gradient steps go by, are 0."""
        check_fits_replicas(optimizer, self.strategy)
        self.optimizer = self.learner.optimizer = optimizer
        self.model.compile(optimizer=optimizer)

    def move_to(self, environment: Environment) -> None:
        """Go on in `environment`; what was seen of another, or with another protocol or options, is forgotten."""
        known, before = self.environment, self.describe()
        self.environment = environment
        if known is not None and not known.is_like(environment):
            self.forget_environment()
        self.forget_another(before)

    def has_reached(self, episode_return: float) -> bool:
        """Whether the last 100 episodes average so much, all of its present environment."""
        before = bisect.bisect_right(self.episodes.step, self.replay_begun_at[0])
        return len(self.episodes) - before >= WINDOW and self.episodes.mean_return() >= episode_return

    def forget_another(self, description: dict[str, Any]) -> None:
        """Forget what was seen, if the `description` of who saw it names another environment than the present one."""
        if task_of(description) != task_of(self.describe()):
            self.forget_environment()

    def environment_seed(self) -> int:
        """Of environments outside the graph: another for every worker, and whenever training goes on."""
        seed = self.learner.worker_seed(seeding.make_seed(seeding.integers(self.seed, 2)[0]))
        return int(seeding.fold_in(seed, self.updates)[0] if self.updates else seed[0]) & 0x3FFFFFFF

    def forget_environment(self) -> None:
        """Begin new episodes, with an empty replay."""
        self.environment_state: list[Any] | None = None
        """Where graph environments and their replay stand, so that training goes on as if it had not stopped."""
        self.replay: Any = None
        """What environments outside the graph have seen, if the algorithm learns from a replay."""
        self.replay_begun_at = self.steps, self.updates
        """When it came here, and the replay was empty last: learning starts so much later."""

    def _begin(self, seed: int) -> None:
        self.history = keras.callbacks.History()
        self.history.epoch = []
        self.episodes = EpisodeLog()
        self.steps = 0
        self.updates = 0
        self.forget_environment()
        self.seed = seed
        self._seed = seeding.make_seed(seed)
        self._acts = 0

    def act(self, observation: Any, *, sample: bool = False, seed: int | None = None) -> np.ndarray:
        """Choose actions.

        Args:
            observation: one observation or a batch `[B, *observation]`, told apart by the space.
            sample: draw from the policy instead of taking its most probable action.
            seed: of the draw; None draws anew each time, in a sequence that follows from the agent's own seed.

        Returns:
            One action, or a batch of them, as the environment takes it.

        Raises:
            ValueError: `observation` has neither the space's shape nor that of a batch; a negative seed.
        """
        batch, is_single = as_batch(self.observation_space, observation)
        if as_switch("sample", sample):
            if seed is None:
                self._acts += 1
                base, number = self._seed, self._acts
            else:
                base, number = seeding.make_seed(as_integer("seed", seed, least=0)), 0
            action = self._sampled(batch, seeding.fold_in(base, number)).numpy()
        else:
            action = self._greedy(batch).numpy()
        return action[0] if is_single else action

    def action_values(self, observation: Any) -> np.ndarray:
        """What the agent expects of each action: [A] for one observation, [B, A] for a batch.

        Raises:
            ValueError: its algorithm learns a policy, and no action values.
        """
        if not learns_action_values(self.algorithm):
            raise ValueError(f"{type(self.algorithm).__name__} learns no action values; DQN and NFQ do")
        batch, is_single = as_batch(self.observation_space, observation)
        values = self.policy.action_values(map_observation(tf.constant, batch)).numpy()
        return values[0] if is_single else values

    def evaluate(
        self,
        *,
        episodes: int = 100,
        seed: int = 0,
        sample: bool = False,
        env: EnvLike | Environment | None = None,
        longest_episode: int = LONGEST_EPISODE,
    ) -> Evaluation:
        """Play whole episodes on the Gymnasium environment itself, never on its graph twin.

        Args:
            episodes: how many.
            seed: of the environments and, with `sample`, of the actions. Where environments are seeded one by one,
                neighbouring seeds share most of their episodes: for independent ones take seeds 100 apart.
            sample: draw actions instead of taking the most probable ones.
            env: another environment than that of training.
            longest_episode: steps after which an episode is taken to have no end.

        Returns:
            An `Evaluation`: `mean`, `std`, `returns`, `lengths`. Rewards are never clipped.

        Raises:
            ValueError: `episodes` or `longest_episode` is not positive, `seed` is negative, the spaces of `env` are
                not the agent's, it is the object of training in another wrapper, or there is none.
            RuntimeError: an episode took more than `longest_episode` steps.
        """
        made = self.environment if env is None else as_environment(env, self.environment)
        if made is None:
            raise ValueError("this agent knows no environment that can be made again: pass evaluate(env=...)")
        sample = as_switch("sample", sample)
        episodes, seed = as_integer("episodes", episodes), as_integer("seed", seed, least=0)
        longest_episode = as_integer("longest_episode", longest_episode)
        environment = made.make_evaluation(episodes)
        draws = _seeds(seeding.make_seed(seed))
        chosen = called_directly((self._sampled if sample else self._greedy).get_concrete_function())

        def act(observation):
            observation = map_observation(tf.constant, observation)
            draw = (tf.constant(next(draws)),) if sample else ()
            return chosen(observation, *draw).numpy()

        try:
            self.check_spaces(environment)
            return evaluate_policy(act, environment, episodes=episodes, seed=seed, longest_episode=longest_episode)
        finally:
            environment.close()

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> pathlib.Path:
        """Write all that is needed to go on training: weights, optimizer, counters, history and episodes.

        Args:
            path: a directory that does not exist yet. It appears whole or not at all.
            overwrite: replace an agent saved there before.

        Raises:
            FileExistsError: there is something at `path` already.
            ValueError: the optimizer cannot be read again from a file.
            TypeError: a setting of the algorithm that JSON cannot hold.
        """
        path, overwrite = without_link(path), as_switch("overwrite", overwrite)
        check_can_be_saved(self.optimizer)
        check_settings_can_be_saved(self.algorithm)
        with alone_in(path.parent):
            put_back(path)
            if path.exists() and not (overwrite and (path / "agent.json").exists()):
                raise FileExistsError(f"{path} exists already: choose another path, or remove it first")
            scratch = scratch_of(path)
            shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed while it wrote
            try:
                (scratch / "new").mkdir(parents=True)
                self._write(scratch / "new")
                if path.exists():
                    os.replace(path, scratch / "old")
                os.replace(scratch / "new", path)
            finally:
                put_back(path)
                shutil.rmtree(scratch, ignore_errors=True)
            if isinstance(self.replay, StoredReplay) and not self.replay.is_there():
                self.replay = StoredReplay(path / "replay.npz")  # it was read from here, and is written here
        return path

    def export(self, path: str | os.PathLike, *, format: str = "saved_model") -> pathlib.Path:
        """Write the policy for use without this package, and check it against this one on real observations.

        Args:
            path: a directory that does not exist yet.
            format: "saved_model", "litert" or "onnx"; see `kerasrl_pg.export`.

        Raises:
            FileExistsError: there is something at `path` already.
            ValueError: an unknown format.
            RuntimeError: what was written does not act as this agent does.
        """
        return export.export_policy(
            self.policy, path, observations=self._some_observations(), metadata=self.describe(), format=format
        )

    def describe(self) -> dict[str, Any]:
        """What this agent is, as JSON: the environment, its protocol, the algorithm and its settings, the budget."""
        return {
            "environment": self.environment.id if self.environment else None,
            "protocol": self.environment.protocol if self.environment else {},
            "env_options": as_json(self.environment.options) if self.environment else {},
            "num_envs": self.num_envs,
            "algorithm": {
                "name": type(self.algorithm).__name__,
                "settings": settings_to_json(self.algorithm),
            },
            "optimizer": described(self.optimizer),
            "steps": self.steps,
            "updates": self.updates,
            "seed": self.seed,
        }

    def _frozen_copy(self) -> QPolicy | None:
        """The target network, equal to the model; None for an algorithm that has none."""
        if self.algorithm.target_every is None:
            return None
        with scope(self.strategy):
            return self._for_training(self.policy.copy())

    def _for_training(self, policy: Any) -> Any:
        # A strategy's replicas each trace the model with variables of their own, which a function inside it would mix.
        return policy if self.strategy else for_training(policy)

    def _compile_act(self):
        specs = map_space(lambda leaf: tf.TensorSpec([None, *leaf.shape], tensor_dtype(leaf)), self.observation_space)

        @tf.function(input_signature=[specs], autograph=False)
        def greedy(observation):
            action = self.policy(observation).distribution.mode()
            return ops.to_environment(self.action_space, action)

        @tf.function(input_signature=[specs, tf.TensorSpec([2], tf.int32)], autograph=False)
        def sampled(observation, seed):
            action = ops.sample(self.action_space, self.policy(observation).distribution, seed)
            return ops.to_environment(self.action_space, action)

        return greedy, sampled

    def check_spaces(self, environment: Any) -> None:
        """Raise ValueError unless an environment has the agent's spaces."""
        for name in ("observation_space", "action_space"):
            if getattr(environment, name) != getattr(self, name):
                raise ValueError(
                    f"the environment's {name} is {getattr(environment, name)}, the agent's {getattr(self, name)}"
                )

    def _some_observations(self) -> Any:
        """A batch of observations from the environment itself or, where it is not known or closed, from the space."""
        if self.environment is None:
            return self._random_observations()
        environment = self.environment.make_evaluation(8)
        try:
            observation = environment.reset(seed=self.seed)
            for _ in range(4):
                observation = environment.step(self._greedy(observation).numpy())[0].observation
        except gymnasium.error.ClosedEnvironmentError:
            return self._random_observations()
        finally:
            environment.close()
        return observation

    def _random_observations(self) -> Any:
        samples = [as_batch(self.observation_space, self.observation_space.sample())[0] for _ in range(16)]
        return tf.nest.map_structure(lambda *rows: np.concatenate(rows), *samples)

    def _write(self, directory: pathlib.Path) -> None:
        self.model.save(directory / "model.keras")
        description = {
            **self.describe(),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "history": {name: [float(x) for x in values] for name, values in self.history.history.items()},
            "epoch": list(self.history.epoch),
            "replay_begun_at": self.replay_begun_at,
        }
        (directory / "agent.json").write_text(json.dumps(description, indent=1))
        state: dict[str, Any] = {f"environment_{i}": leaf for i, leaf in enumerate(self.environment_state or [])}
        if self.q_learner is not None and self.q_learner.target is not None:
            state |= {f"target_{i}": leaf for i, leaf in enumerate(self.q_learner.target.model.get_weights())}
        if self.replay is not None:
            np.savez(directory / "replay.npz", **self.replay.arrays())
        np.savez(
            directory / "training.npz",
            step=self.episodes.step,
            episode_return=self.episodes.episode_return,
            episode_length=self.episodes.episode_length,
            **state,
        )


def _seeds(seed: tf.Tensor) -> Iterator[np.ndarray]:
    """The seeds [2] number 0, 1, ... under `seed`, by the thousand: NumPy hashes them as fast as a graph hashes one."""
    for first in itertools.count(0, 1000):
        yield from seeding.fold_in(seed, tf.range(first, first + 1000)).numpy()
