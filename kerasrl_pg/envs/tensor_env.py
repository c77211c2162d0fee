"""What environments written as TensorFlow graphs share: auto-reset, argument checks, a contract checker.

The contract itself is `kerasrl_pg.types.TensorEnv`. An environment is its own dynamics plus these helpers;
there is no base class to read.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.vector.utils import batch_space

from kerasrl_pg.checks import as_integer
from kerasrl_pg.seeding import fold_in, make_seed
from kerasrl_pg.types import Step, TensorEnv


def auto_reset(ended: tf.Tensor, fresh: Any, current: Any) -> Any:
    """`fresh` where an episode ended, `current` elsewhere (Gymnasium's `AutoresetMode.SAME_STEP`).

    A plain select: fresh states are drawn for all N on every step and most are thrown away, and in exchange a
    compiled step has no branch, gather or scatter.

    Args:
        ended: [N] bool, terminated or truncated.
        fresh: A structure of [N, ...] tensors, as after a reset.
        current: The same structure, as after the step.

    Returns:
        The same structure; row n comes from `fresh` if `ended[n]`, else, bit for bit, from `current`.

    Example:
        >>> ended = tf.constant([True, False])
        >>> auto_reset(ended, tf.zeros([2, 3]), tf.ones([2, 3])).numpy().tolist()
        [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """

    def select(fresh_leaf: tf.Tensor, current_leaf: tf.Tensor) -> tf.Tensor:
        trailing = [1] * (len(current_leaf.shape) - 1)
        return tf.where(tf.reshape(ended, [-1, *trailing]), fresh_leaf, current_leaf)  # [N, ...]

    return tf.nest.map_structure(select, fresh, current)


def reset_noise(seed: tf.Tensor, num_components: int, num_envs: int) -> list[tf.Tensor]:
    """Uniform noise in [-1, 1] from which fresh states are made: integers x 2⁻³¹.

    TensorFlow's own uniform floats are others in a compiled function than outside it; the integers below them
    are the same, so they are drawn instead. Philox is asked for by name, since the default chooses by device.
    In a compiled loop on a CPU the noise takes 0.04 microseconds per CartPole, the rest of its step 0.01.

    Args:
        seed: [2] int32.
        num_components: How many numbers each environment needs.
        num_envs: N.

    Returns:
        `num_components` tensors [N] float32. For a given N, row n is a function of the seed and n.

    Example:
        >>> angle, velocity = reset_noise(tf.constant([0, 0]), num_components=2, num_envs=8)
        >>> angle.shape
        TensorShape([8])
    """
    shape = [num_components, num_envs]
    integers = tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg="philox")  # [C, N], all 2³²
    return tf.unstack(2.0**-31 * tf.cast(integers, tf.float32))  # [C, N] -> C times [N]


def validate_action(action: Any, action_space: gymnasium.Space, num_envs: int) -> tf.Tensor:
    """`action` as a tensor, if its shape and kind are those of a batch of environment actions.

    Only static facts are looked at, so that this costs nothing in a traced loop. Without it an action of
    shape [N, 1] where [N] is expected would broadcast to [N, N] in silence.

    Args:
        action: [N] int for a `Discrete` space, [N, *shape] float for a `Box`.
        action_space: The space of ONE environment.
        num_envs: N.

    Returns:
        The action as a tensor; a float action as float32.

    Raises:
        ValueError: If the shape is not [N, *action_space.shape].
        TypeError: If the action is a float for a `Discrete` space or an int for a `Box`.

    Example:
        >>> validate_action([0, 1], gymnasium.spaces.Discrete(2), num_envs=2).shape
        TensorShape([2])
    """
    action = tf.convert_to_tensor(action)
    expected = (num_envs, *(action_space.shape or ()))
    if not action.shape.is_compatible_with(expected):
        raise ValueError(f"action must have shape {expected} for {action_space}, got {tuple(action.shape)}.")
    if isinstance(action_space, gymnasium.spaces.Discrete):
        if not action.dtype.is_integer:
            raise TypeError(f"action must be an integer for {action_space}, got {action.dtype.name}.")
        return action
    if not action.dtype.is_floating:
        raise TypeError(f"action must be floating point for {action_space}, got {action.dtype.name}.")
    return tf.cast(action, tf.float32)


def check_tensor_env(env: TensorEnv, steps: int = 100) -> None:
    """Check that `env` keeps the `TensorEnv` contract, as Gymnasium's `check_env` does for its environments.

    Random actions drive it eagerly for `steps` steps, twice. Checked are the attributes; the structure, shape
    and dtype of everything that `reset` and `step` return; that the state keeps its structure, so that it can
    be looped; that `final_observation` equals `observation` where no episode ended; that the same seed gives
    the same trajectory; and that a step in a `tf.function` (without AutoGraph, as in training), and one compiled
    by XLA, give what the eager one gives.

    Args:
        env: The environment to check.
        steps: How many steps to drive it; enough for some episodes to end.

    Raises:
        ValueError: If the contract is broken; the message says where.

    Example:
        >>> from kerasrl_pg.envs.cartpole import CartPole
        >>> check_tensor_env(CartPole(num_envs=2), steps=20)
    """
    as_integer("steps", steps)
    _check_attributes(env)
    actions = _random_actions(env, steps)
    trajectory = _drive(env, actions)
    _check_equal(trajectory, _drive(env, actions), "two runs from the same seed", tolerance=0.0)
    _check_compiled(env, trajectory, actions, jit_compile=False)
    _check_compiled(env, trajectory, actions, jit_compile=True)


class _Moment(NamedTuple):
    """The state before a step, and what the step made of it."""

    state: Any
    next_state: Any
    step: Step


def _step_seed(time: int) -> tf.Tensor:
    return fold_in(make_seed(1), time)


def _check_attributes(env: TensorEnv) -> None:
    allowed: dict[str, tuple[type, ...]] = {
        "observation_space": (gymnasium.Space,),
        "action_space": (gymnasium.Space,),
        "num_envs": (int,),
        "max_episode_steps": (int, type(None)),
        "gymnasium_id": (str, type(None)),
    }
    for name, types in allowed.items():
        if not hasattr(env, name):
            raise ValueError(f"{type(env).__name__} has no attribute {name!r}.")
        if not isinstance(getattr(env, name), types):
            names = " or ".join(kind.__name__ for kind in types)
            raise ValueError(f"{name} must be {names}, got {getattr(env, name)!r}.")
    for name in ("num_envs", "max_episode_steps"):
        if getattr(env, name) is not None and getattr(env, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(env, name)}.")
    for name in ("reset", "step"):
        if not callable(getattr(env, name, None)):
            raise ValueError(f"{type(env).__name__} has no method {name!r}.")


def _random_actions(env: TensorEnv, steps: int) -> list[Any]:
    space = batch_space(env.action_space, env.num_envs)
    space.seed(0)
    # Policies sample int32 for discrete spaces, where Gymnasium samples int64.
    as_int32 = isinstance(env.action_space, gymnasium.spaces.Discrete)
    samples = [space.sample() for _ in range(steps)]
    return [sample.astype(np.int32) if as_int32 else sample for sample in samples]


def _drive(env: TensorEnv, actions: list[Any]) -> list[_Moment]:
    """A checked trajectory, eagerly: a graph would freeze numbers drawn by Python, and look deterministic."""
    state, observation = _pair(env.reset(_step_seed(0)), "reset", "(state, observation)")
    _check_state(state, env.num_envs)
    _check_observation(observation, env, "the observation that reset returns")
    moments = []
    elapsed = np.zeros(env.num_envs, int)
    for time, action in enumerate(actions, start=1):
        action = tf.nest.map_structure(tf.constant, action)
        next_state, step = _pair(env.step(state, action, _step_seed(time)), "step", "(state, Step)")
        _check_same_signature(state, next_state)
        _check_step(step, env)
        elapsed = np.where(step.terminated | step.truncated, 0, elapsed + 1)
        if env.max_episode_steps is not None and elapsed.max() >= env.max_episode_steps:
            raise ValueError(
                f"max_episode_steps is {env.max_episode_steps}, but an episode goes on after {elapsed.max()} steps: "
                "truncated must be True there."
            )
        moments.append(_Moment(state, next_state, step))
        state = next_state
    return moments


def _pair(result: Any, method: str, expected: str) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(f"{method} must return a tuple {expected}, got {type(result).__name__}.")
    return result


def _check_state(state: Any, num_envs: int) -> None:
    for leaf in tf.nest.flatten(state):
        if not tf.is_tensor(leaf):
            raise ValueError(f"state must consist of tensors, got {type(leaf).__name__} {leaf!r}.")
        if leaf.shape.rank == 0 or leaf.shape[0] != num_envs:
            raise ValueError(f"every state tensor must have shape [{num_envs}, ...], got {leaf.shape}.")


def _check_same_signature(state: Any, next_state: Any) -> None:
    """A loop over steps needs a state that keeps its structure, shapes and dtypes."""
    try:
        tf.nest.assert_same_structure(state, next_state)
    except (ValueError, TypeError) as error:
        raise ValueError(f"step changed the structure of the state: {error}") from error
    for before, after in zip(tf.nest.flatten(state), tf.nest.flatten(next_state), strict=True):
        if not tf.is_tensor(after) or before.dtype != after.dtype or before.shape != after.shape:
            found = f"{after.dtype.name} {after.shape}" if tf.is_tensor(after) else type(after).__name__
            raise ValueError(f"step changed the state: {before.dtype.name} {before.shape} became {found}.")


def _check_step(step: Step, env: TensorEnv) -> None:
    if not isinstance(step, Step):
        raise ValueError(f"step must return a kerasrl_pg.types.Step, got {type(step).__name__}.")
    for name, dtype in (("reward", tf.float32), ("terminated", tf.bool), ("truncated", tf.bool)):
        _check_tensor(getattr(step, name), (env.num_envs,), dtype, name)
    _check_observation(step.observation, env, "observation")
    _check_observation(step.final_observation, env, "final_observation")
    if not np.all(np.isfinite(step.reward)):
        raise ValueError(f"reward must be finite, got {step.reward.numpy()}.")
    going_on = ~np.logical_or(step.terminated, step.truncated)
    for observation, final in zip(
        tf.nest.flatten(step.observation), tf.nest.flatten(step.final_observation), strict=True
    ):
        if not np.array_equal(observation.numpy()[going_on], final.numpy()[going_on]):
            raise ValueError("final_observation differs from observation where no episode ended.")


def _check_observation(observation: Any, env: TensorEnv, name: str) -> None:
    _check_in_space(observation, env.observation_space, env.num_envs, name)


def _check_in_space(value: Any, space: gymnasium.Space, num_envs: int, name: str) -> None:
    """Shape and dtype; bounds are left alone since float32 rounding oversteps them by a hair."""
    if isinstance(space, gymnasium.spaces.Dict):
        if not isinstance(value, dict) or value.keys() != space.spaces.keys():
            raise ValueError(f"{name} must be a dict with the keys {sorted(space.spaces)}, got {value!r}.")
        for key, part in space.spaces.items():
            _check_in_space(value[key], part, num_envs, f"{name}[{key!r}]")
    elif isinstance(space, gymnasium.spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            raise ValueError(f"{name} must be a tuple of {len(space.spaces)}, got {value!r}.")
        for index, part in enumerate(space.spaces):
            _check_in_space(value[index], part, num_envs, f"{name}[{index}]")
    else:
        dtype = tf.as_dtype(space.dtype) if isinstance(space, gymnasium.spaces.Box) else None
        _check_tensor(value, (num_envs, *(space.shape or ())), dtype, name)


def _check_tensor(value: Any, shape: tuple[int, ...], dtype: tf.DType | None, name: str) -> None:
    """`dtype` None stands for an integer of any width, for what is not a `Box`."""
    if not tf.is_tensor(value):
        raise ValueError(f"{name} must be a tensor, got {type(value).__name__}.")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}.")
    if not (value.dtype.is_integer if dtype is None else value.dtype == dtype):
        allowed = "an integer" if dtype is None else dtype.name
        raise ValueError(f"{name} must be {allowed}, got {value.dtype.name}.")


def _check_compiled(env: TensorEnv, trajectory: list[_Moment], actions: list[Any], jit_compile: bool) -> None:
    """The first step and the last, by one and the same trace."""
    how = "compiled by XLA (jit_compile=True)" if jit_compile else "in a tf.function"
    compiled = tf.function(env.step, jit_compile=jit_compile, autograph=False)
    for index in (0, len(actions) - 1):
        moment = trajectory[index]
        action = tf.nest.map_structure(tf.constant, actions[index])
        try:
            result = compiled(moment.state, action, _step_seed(index + 1))
        except tf.errors.OperatorNotAllowedInGraphError as error:
            raise ValueError(
                f"step does not run {how}: a Python `if`, `while`, `for`, `and`, `or` or `not` asks a tensor for its "
                "value, which a graph does not know. Use tf.where, tf.cond, tf.while_loop or tf.logical_and instead."
            ) from error
        except Exception as error:  # whatever TensorFlow raises, the reader needs to know at which stage
            raise ValueError(f"step does not run {how}: {error}") from error
        _check_equal((moment.next_state, moment.step), result, f"a step run eagerly and one {how}", tolerance=1e-3)


def _check_equal(first: Any, second: Any, what: str, tolerance: float) -> None:
    for one, other in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        if one.dtype.is_floating:
            agree = np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            agree = np.array_equal(one, other)
        if not agree:
            raise ValueError(f"{what} must agree, got {one.numpy()} and {other.numpy()}.")


def is_tensor_env(env: Any) -> TypeGuard[TensorEnv]:
    """Whether an object, and no class, has all that a `TensorEnv` has."""
    names = (
        "observation_space",
        "action_space",
        "num_envs",
        "max_episode_steps",
        "gymnasium_id",
        "reset",
        "step",
    )
    return not isinstance(env, type) and all(hasattr(env, name) for name in names)
