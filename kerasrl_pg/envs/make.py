"""From whatever a user calls an environment to what the training loop steps."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from kerasrl_pg.checks import as_integer
from kerasrl_pg.envs.atari import AtariProtocol, is_atari, make_atari
from kerasrl_pg.envs.doom import DoomProtocol, find_doom_spec, is_doom, make_doom
from kerasrl_pg.envs.graph_envs import GRAPH_ENVIRONMENTS
from kerasrl_pg.envs.one_of_many import LeftOpen, OneOfMany
from kerasrl_pg.envs.tensor_env import is_tensor_env
from kerasrl_pg.envs.tensor_vector import TensorVectorEnv
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.types import TensorEnv

DEFAULT_NUM_ENVS = 8
MOST_EVALUATION_ENVS = {"numpy": 100, "python": 16}
"""Environments side by side in an evaluation: many where they are rows of one array, few where each is an object."""

EnvLike = str | gymnasium.Env | VectorEnv | TensorEnv | Callable[[], gymnasium.Env]
"""An id, an environment, a vector environment, a graph environment, or a function that makes an environment."""

GameProtocol = AtariProtocol | DoomProtocol
"""How a game is presented."""


@dataclasses.dataclass(frozen=True)
class Environment:
    """What the training loop needs to know of an environment."""

    make_training: Callable[[], TensorEnv | VectorAdapter]
    """Makes the N environments to learn from."""
    make_evaluation: Callable[[int], VectorAdapter]
    """From a number of episodes to environments to play them on: the Gymnasium originals where there are any."""
    id: str | None = None
    """Its Gymnasium id, from which it can be made again; None for objects."""
    spec: gymnasium.envs.registration.EnvSpec | None = None
    """Gymnasium's of its id; of an object, or of what a function makes, its own, where it has one."""
    reward_threshold: float | None = None
    """Mean return at which Gymnasium calls it solved."""
    max_episode_steps: int | None = None
    """Time limit in steps, where known."""
    protocol: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings that results depend on, such as sticky actions."""
    clip_reward: bool = False
    """Learn from the sign of the reward."""
    stack: int | None = None
    """Frames of which an observation's first axis is a stack; None if it is none."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments with which its id is made."""
    made_of: Any = None
    """The object or the function; None for ids."""

    @property
    def spec_id(self) -> str | None:
        """The id that it was registered by, without the module; of an object what its spec says, wrapped or not."""
        return None if self.spec is None else self.spec.id

    def is_like(self, other: Environment) -> bool:
        """Whether what was learned of one object holds for another: it is the same, or made by the same call."""
        if self.id is not None or other.id is not None or self.made_of is other.made_of:
            return True
        try:
            return self.spec is not None and self.spec == other.spec
        except ValueError:  # arrays among the arguments
            return False


def make_env(
    env: EnvLike,
    *,
    num_envs: int | None = None,
    in_graph: bool = True,
    protocol: GameProtocol | None = None,
    env_options: Mapping[str, Any] | None = None,
) -> Environment:
    """Make the environments to learn from and to evaluate on.

    Args:
        env: see `EnvLike`. A function is called once per environment; a single environment is used as it is.
        num_envs: environments to step together; None means 8, or as many as `env` already has.
        in_graph: step the environment as a TensorFlow graph if its id has such a twin.
        protocol: how a game is presented: an `AtariProtocol` or a `DoomProtocol`.
        env_options: keyword arguments for an id, as `gymnasium.make` takes them.

    Raises:
        ValueError: an unknown id (with the closest known ones), a `num_envs` that `env` cannot have, a `protocol` or
            options that are not for `env`, a `TensorEnv` that names an original which is not registered.
        ImportError: the id needs an extra that is not installed.
        TypeError: `env` is none of the kinds above, or `env_options` is no dict.

    Example:
        >>> make_env("CartPole-v1", num_envs=4).make_training().observation_space.shape
        (4,)
    """
    if num_envs is not None:
        num_envs = as_integer("num_envs", num_envs)
    if protocol is not None:
        _check_protocol(env, protocol)
    options = options_of(env_options)
    if options:
        _check_takes_options(env, options)
    if isinstance(env, str):
        return _from_id(env, num_envs or DEFAULT_NUM_ENVS, in_graph, protocol, options)
    if isinstance(env, VectorEnv):
        return _from_vector_env(env, num_envs)
    if isinstance(env, gymnasium.Env):
        return _from_single_env(env, num_envs)
    if is_tensor_env(env):
        return _from_tensor_env(env, num_envs)
    if callable(env):
        return _from_function(env, num_envs or DEFAULT_NUM_ENVS)
    raise TypeError(
        f"env must be an id, a Gymnasium environment or vector environment, a TensorEnv or a function that makes a "
        f"Gymnasium environment, got {env!r}"
    )


def as_environment(env: EnvLike | Environment, known: Environment | None = None) -> Environment:
    """What `make_env` returned already, as it is; anything else made by it.

    The object that `known` was made of is `known`: whoever steps an object must see that others did.

    Raises:
        ValueError: it is that object in another wrapper, through which its steps would not be seen.
    """
    if known is not None and env is known.made_of:
        return known
    object_of_training = getattr(known, "made_of", None)
    if isinstance(env, gymnasium.Env | VectorEnv) and env.unwrapped is getattr(object_of_training, "unwrapped", None):
        raise ValueError(
            f"{env} is the environment of training in another wrapper: pass that object itself, or another"
        )
    return env if isinstance(env, Environment) else make_env(env)


def own_number(env: EnvLike) -> int | None:
    """How many environments an object is; None for what makes as many as it is asked for.

    Example:
        >>> own_number("CartPole-v1"), own_number(gymnasium.make("CartPole-v1"))
        (None, 1)
    """
    return 1 if isinstance(env, gymnasium.Env) else getattr(env, "num_envs", None)


def options_of(env_options: Mapping[str, Any] | None) -> dict[str, Any]:
    """`env_options` as a dict of their own, empty for None.

    Raises:
        TypeError: they are no mapping.

    Example:
        >>> options_of(None), options_of({"task": "simple"})
        ({}, {'task': 'simple'})
    """
    if env_options is not None and not isinstance(env_options, Mapping):
        raise TypeError(f"env_options must be a dict of keyword arguments, got {env_options!r}")
    return dict(env_options or {})


def protocol_of(env_id: str) -> type[AtariProtocol] | type[DoomProtocol] | None:
    """The class of protocols that an id can be presented by; None where there is nothing to choose.

    Example:
        >>> protocol_of("ALE/Pong-v5").__name__, protocol_of("VizdoomBasic-v1").__name__, protocol_of("CartPole-v1")
        ('AtariProtocol', 'DoomProtocol', None)
    """
    if is_atari(env_id):
        return AtariProtocol
    return DoomProtocol if is_doom(env_id) else None


def protocol_from(env_id: str, settings: Mapping[str, Any]) -> GameProtocol | None:
    """The protocol that `Environment.protocol` describes; None where there is none to choose.

    Example:
        >>> protocol_from("ALE/Pong-v5", {"stack": 2}).stack
        2
    """
    kind = protocol_of(env_id)
    return None if kind is None else kind(**settings)


def find_spec(env_id: str) -> gymnasium.envs.registration.EnvSpec:
    """Gymnasium's specification of an id.

    Raises:
        ValueError: no such id; the message names the closest ones.
        ImportError: the id needs an extra that is not installed, or its module imports what is not.

    Example:
        >>> find_spec("CartPole-v1").reward_threshold
        475.0
    """
    if is_doom(env_id):
        return find_doom_spec(env_id)
    module, _, name = env_id.rpartition(":")
    try:
        if module:  # "module:Id-v0", as in gymnasium.make: importing the module registers the id
            importlib.import_module(module)
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks what it imports itself
        close = difflib.get_close_matches(env_id, gymnasium.registry, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(close)}?" if close else "gymnasium.pprint_registry() prints all that are known"
        )
        raise ValueError(f"unknown environment {env_id!r}; {hint}") from error


def make_render_env(env_id: str, options: Mapping[str, Any] | None = None) -> gymnasium.Env:
    """One environment that renders RGB frames; `options` are those of `make_env`.

    Raises:
        ValueError: an unknown id, or one that has no render mode "rgb_array".

    Example:
        >>> make_render_env("CartPole-v1").render_mode
        'rgb_array'
    """
    find_spec(env_id)
    try:
        return gymnasium.make(env_id, **{**(options or {}), "render_mode": "rgb_array"})
    except AssertionError as error:  # Gymnasium's own check
        raise ValueError(f"{env_id} renders no frames: {error}") from error


def _from_id(env_id: str, num_envs: int, in_graph: bool, protocol: Any, options: dict[str, Any]) -> Environment:
    spec = find_spec(env_id)
    if is_atari(env_id):
        return _from_atari(env_id, num_envs, protocol or AtariProtocol())
    if is_doom(env_id):
        return _from_doom(env_id, num_envs, protocol or DoomProtocol())
    has_twin = in_graph and env_id in GRAPH_ENVIRONMENTS and _knows(GRAPH_ENVIRONMENTS[env_id], options)
    most = MOST_EVALUATION_ENVS["numpy" if spec.vector_entry_point else "python"]
    return Environment(
        make_training=lambda: (
            GRAPH_ENVIRONMENTS[env_id](num_envs, **options) if has_twin else _vector_env(env_id, num_envs, options)
        ),
        make_evaluation=lambda episodes: _vector_env(env_id, min(episodes, most), options),
        id=env_id,
        spec=spec,
        reward_threshold=spec.reward_threshold,
        max_episode_steps=options.get("max_episode_steps", spec.max_episode_steps),
        options=options,
    )


def _from_atari(env_id: str, num_envs: int, protocol: AtariProtocol) -> Environment:
    make = lambda count: VectorAdapter(make_atari(env_id, count, protocol))  # noqa: E731
    return Environment(
        make_training=lambda: make(num_envs),
        make_evaluation=lambda episodes: make(min(episodes, MOST_EVALUATION_ENVS["python"])),
        id=env_id,
        spec=find_spec(env_id),
        reward_threshold=find_spec(env_id).reward_threshold,
        max_episode_steps=-(-protocol.max_frames // protocol.frame_skip),  # the last step may have fewer frames
        protocol=dataclasses.asdict(protocol),
        clip_reward=protocol.reward_clipping,
        stack=protocol.stack,
    )


def _from_doom(env_id: str, num_envs: int, protocol: DoomProtocol) -> Environment:
    make = lambda count: VectorAdapter(make_doom(env_id, count, protocol))  # noqa: E731
    return Environment(
        make_training=lambda: make(num_envs),
        make_evaluation=lambda episodes: make(min(episodes, MOST_EVALUATION_ENVS["python"])),
        id=env_id,
        spec=find_spec(env_id),
        max_episode_steps=make_doom(env_id, 1, protocol).max_episode_steps,
        protocol=dataclasses.asdict(protocol),
        stack=None if protocol.game_variables else protocol.stack,
    )


def _knows(twin: Callable[..., TensorEnv], options: dict[str, Any]) -> bool:
    """Whether a twin takes all options; where it does not, the original is trained on."""
    return set(options) <= set(inspect.signature(twin).parameters)


def _vector_env(env_id: str, num_envs: int, options: dict[str, Any]) -> VectorAdapter:
    try:
        if find_spec(env_id).vector_entry_point:
            return VectorAdapter(
                gymnasium.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point", **options)
            )
        return VectorAdapter(_same_step([lambda: gymnasium.make(env_id, **options)] * num_envs))
    except TypeError as error:
        if not options:
            raise
        raise ValueError(f"env_options {options} do not fit {env_id}: {error}") from error


def _same_step(makers: list[Callable[[], gymnasium.Env]]) -> SyncVectorEnv:
    kept = [lambda make=make: OneOfMany(make()) for make in makers]
    return SyncVectorEnv(kept, autoreset_mode=AutoresetMode.SAME_STEP)


def _check_takes_options(env: EnvLike, options: dict[str, Any]) -> None:
    if not isinstance(env, str):
        raise ValueError(
            f"env_options are for ids: make this environment with them yourself, got {options} with {env!r}"
        )
    if "num_envs" in options:
        raise ValueError(f"num_envs is an argument of its own: leave it out of env_options, got {options}")
    protocol = protocol_of(env)
    if protocol is not None:
        raise ValueError(f"env_options are not for {env}: pass protocol=krl.{protocol.__name__}(...), got {options}")


def _check_protocol(env: EnvLike, protocol: GameProtocol) -> None:
    kind = protocol_of(env) if isinstance(env, str) else None
    if kind is None:
        raise ValueError(f"protocol is for ids of Atari games (ALE/...) and of Doom (Vizdoom...), got it with {env!r}")
    if not isinstance(protocol, kind):
        raise ValueError(f"the protocol of {env!r} must be of {kind.__name__}, got {protocol!r}")


def _from_vector_env(env: VectorEnv, num_envs: int | None) -> Environment:
    if num_envs not in (None, env.num_envs):
        raise ValueError(f"num_envs must be that of the vector environment ({env.num_envs}), got {num_envs}")
    adapter = VectorAdapter(env, owned=False)  # one for both: training thus sees when an evaluation has used it
    return Environment(lambda: adapter, lambda _episodes: adapter, made_of=env, **_facts(env.spec))


def _from_single_env(env: gymnasium.Env, num_envs: int | None) -> Environment:
    if num_envs not in (None, 1):
        raise ValueError(
            f"one environment object cannot be stepped {num_envs} times side by side: pass a function that makes one, "
            "or num_envs=1"
        )
    # The evaluation plays on the same object, which may hold state that no copy would have.
    adapter = VectorAdapter(_same_step([lambda: LeftOpen(env)]), owned=False)
    return Environment(lambda: adapter, lambda _episodes: adapter, made_of=env, **_facts(env.spec))


def _from_function(make: Callable[[], gymnasium.Env], num_envs: int) -> Environment:
    first = make()
    if not isinstance(first, gymnasium.Env):
        raise TypeError(f"the function {make!r} must return a gymnasium.Env, it returned {first!r}")
    facts = _facts(first.spec)
    first.close()

    def adapt(count: int) -> VectorAdapter:
        made = [make() for _ in range(count)]
        if len({id(env.unwrapped) for env in (first, *made)}) <= count:
            raise ValueError(f"the function {make!r} must make a new environment each time, it returned one twice")
        return VectorAdapter(_same_step([lambda env=env: env for env in made]))  # type: ignore[misc]

    return Environment(
        lambda: adapt(num_envs),
        lambda episodes: adapt(min(episodes, MOST_EVALUATION_ENVS["python"])),
        made_of=make,
        **facts,
    )


def _from_tensor_env(env: TensorEnv, num_envs: int | None) -> Environment:
    if num_envs not in (None, env.num_envs):
        raise ValueError(f"num_envs must be that of the TensorEnv ({env.num_envs}), got {num_envs}")
    if env.gymnasium_id is None:
        return Environment(
            lambda: env,
            lambda _episodes: VectorAdapter(TensorVectorEnv(env)),
            max_episode_steps=env.max_episode_steps,
            made_of=env,
        )
    try:
        original = _from_id(env.gymnasium_id, env.num_envs, False, None, {})
    except ValueError as error:
        raise ValueError(f"gymnasium_id of {type(env).__name__} must be registered, or None: {error}") from error
    return dataclasses.replace(
        original, make_training=lambda: env, max_episode_steps=env.max_episode_steps, made_of=env
    )


def _facts(spec: Any) -> dict[str, Any]:
    if spec is None:
        return {}
    return {
        "spec": spec,
        "reward_threshold": spec.reward_threshold,
        "max_episode_steps": spec.max_episode_steps,
    }
