"""The helpers of the graph environments, and a checker that finds what is wrong with somebody's own."""

import random
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from kerasrl_pg.envs.tensor_env import auto_reset, check_tensor_env, reset_noise, validate_action
from kerasrl_pg.types import Step


class Walk:
    """Three walkers on a line, started near 0, who are home beyond ±2: small, and right."""

    def __init__(self) -> None:
        self.observation_space: gymnasium.Space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space: gymnasium.Space = gymnasium.spaces.Discrete(2)
        self.num_envs = 3
        self.max_episode_steps: int | None = None
        self.gymnasium_id: str | None = None

    def reset(self, seed: tf.Tensor) -> tuple[Any, Any]:
        (position,) = reset_noise(seed, 1, self.num_envs)  # [N]
        return position, position[:, None]  # [N, 1]

    def step(self, state: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Step]:
        state = state + 2 * tf.cast(action, tf.float32) - 1
        ended = tf.abs(state) > 2
        final_observation = state[:, None]  # [N, 1]
        state, observation = auto_reset(ended, self.reset(seed), (state, final_observation))
        return state, Step(observation, tf.ones([3]), ended, tf.zeros_like(ended), final_observation)


def walk_but(**changes: Any) -> Walk:
    """A walk in which the named attributes or methods are others."""
    env = Walk()
    for name, value in changes.items():
        setattr(env, name, value)
    return env


def step_but(change: Callable[[Any, Step], Any]) -> Callable:
    """A step whose result is changed before it is returned."""
    return lambda state, action, seed: change(*Walk().step(state, action, seed))


def replace(**fields: Callable[[tf.Tensor], Any]) -> Callable:
    """A step in which the named fields of `Step` are functions of what they should be."""
    return step_but(lambda state, step: (state, step._replace(**{k: f(getattr(step, k)) for k, f in fields.items()})))


def test_the_checker_accepts_a_correct_environment():
    check_tensor_env(Walk(), steps=20)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (walk_but(num_envs=0), "num_envs must be at least 1, got 0"),
        (walk_but(observation_space=(1,)), "observation_space must be Space"),
        (walk_but(gymnasium_id=3), "gymnasium_id must be str or NoneType, got 3"),
        (walk_but(max_episode_steps=-5), "max_episode_steps must be at least 1, got -5"),
        (walk_but(step=None), "Walk has no method 'step'"),
        (walk_but(max_episode_steps=2), "max_episode_steps is 2, but an episode goes on after 2 steps"),
        (walk_but(reset=lambda seed: tf.zeros([3, 1])), r"reset must return a tuple \(state, observation\)"),
        (walk_but(reset=lambda seed: (0.0, tf.zeros([3, 1]))), "state must consist of tensors, got float"),
        (walk_but(reset=lambda seed: (tf.zeros([4]), tf.zeros([3, 1]))), r"shape \[3, ...\], got \(4,\)"),
        (
            walk_but(reset=lambda seed: (tf.zeros([3]), tf.zeros([3]))),
            r"must have shape \(3, 1\), got \(3,\)",
        ),
        (walk_but(step=step_but(lambda state, step: step)), r"step must return a tuple \(state, Step\)"),
        (walk_but(step=step_but(lambda state, step: (state, tuple(step)))), "types.Step, got tuple"),
        (walk_but(step=step_but(lambda state, step: ((state,), step))), "changed the structure of the state"),
        (walk_but(step=step_but(lambda state, step: (tf.cast(state, tf.float64), step))), "became float64"),
        (walk_but(step=replace(reward=lambda r: r[:, None])), r"reward must have shape \(3,\), got \(3, 1\)"),
        (walk_but(step=replace(reward=lambda r: tf.cast(r, tf.int32))), "reward must be float32, got int32"),
        (walk_but(step=replace(reward=lambda r: r / 0)), "reward must be finite"),
        (walk_but(step=replace(terminated=lambda t: tf.cast(t, tf.float32))), "terminated must be bool"),
        (walk_but(step=replace(truncated=lambda t: False)), "truncated must be a tensor, got bool"),
        (walk_but(step=replace(observation=lambda o: tf.cast(o, tf.float64))), "observation must be float32"),
        (
            walk_but(step=replace(final_observation=lambda o: o + 1)),
            "differs from observation where no episode",
        ),
        (
            walk_but(step=replace(reward=lambda r: r * random.random())),
            "two runs from the same seed must agree",
        ),
        (walk_but(step=replace(reward=lambda r: tf.constant(r.numpy()))), "does not run in a tf.function"),
        (
            walk_but(step=replace(reward=lambda r: tf.numpy_function(lambda x: x, [r], tf.float32, False))),
            "does not run compiled by XLA",
        ),
        (
            walk_but(step=replace(reward=lambda r: r if tf.executing_eagerly() else 2 * r)),
            "run eagerly and one in a tf.function must agree",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_checker_says_what_is_wrong(env, message):
    with pytest.raises(ValueError, match=message):
        check_tensor_env(env, steps=20)


def test_the_checker_finds_a_hidden_variable():
    """An environment that counts in a `tf.Variable` goes on where the previous run stopped."""
    count = tf.Variable(0.0)
    env = walk_but(step=replace(reward=lambda r: r * count.assign_add(1.0)))
    with pytest.raises(ValueError, match="two runs from the same seed must agree"):
        check_tensor_env(env, steps=5)


def test_the_checker_follows_dict_and_tuple_observations():
    def pair(observation: tf.Tensor) -> dict[str, Any]:
        return {"place": observation, "parity": (tf.cast(observation[:, 0], tf.int32) % 2,)}  # [N, 1], [N]

    def build(place: tuple[int, ...]) -> Walk:
        box = gymnasium.spaces.Box(-np.inf, np.inf, place, np.float32)
        parity = gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2)])
        return walk_but(
            observation_space=gymnasium.spaces.Dict({"place": box, "parity": parity}),
            reset=lambda seed: (Walk().reset(seed)[0], pair(Walk().reset(seed)[1])),
            step=replace(observation=pair, final_observation=pair),
        )

    check_tensor_env(build((1,)), steps=5)
    with pytest.raises(ValueError, match=r"\['place'\] must have shape \(3, 2\), got \(3, 1\)"):
        check_tensor_env(build((2,)), steps=5)


def branches_in_python(state: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Step]:
    """Right when run eagerly, and when AutoGraph rewrites it; training traces without AutoGraph."""
    state, step = Walk().step(state, action, seed)
    if tf.reduce_any(step.terminated):
        return state, step._replace(reward=tf.zeros([3]))
    return state, step


def test_the_checker_refuses_a_python_branch_on_a_tensor():
    with pytest.raises(ValueError, match=r"a Python `if`.* Use tf.where, tf.cond"):
        check_tensor_env(walk_but(step=branches_in_python), steps=20)


def test_the_checker_needs_a_step():
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got 0"):
        check_tensor_env(Walk(), steps=0)


def test_auto_reset_takes_whole_rows_of_every_tensor():
    fresh = (tf.zeros([3]), {"image": tf.zeros([3, 2, 2])})
    current = (tf.constant([1.0, 2.0, 3.0]), {"image": tf.ones([3, 2, 2])})
    vector, images = auto_reset(tf.constant([False, True, False]), fresh, current)
    assert vector.numpy().tolist() == [1.0, 0.0, 3.0]
    assert images["image"].numpy().tolist() == [[[1.0] * 2] * 2, [[0.0] * 2] * 2, [[1.0] * 2] * 2]


def test_reset_noise_is_the_same_eagerly_and_compiled():
    """`tf.random.stateless_uniform` itself is not: its floats differ under XLA."""
    compiled = tf.function(reset_noise, jit_compile=True)
    seed = tf.constant([5, 6])
    np.testing.assert_array_equal(reset_noise(seed, 3, 100), compiled(seed, 3, 100))


def test_reset_noise_is_uniform_and_another_for_every_step_seed():
    noise = np.array([reset_noise(tf.constant([0, time]), 2, 50) for time in range(200)])  # [T, C, N]
    assert len(np.unique(noise)) > 0.999 * noise.size
    histogram, _ = np.histogram(noise, bins=10, range=(-1.0, 1.0))
    expected = noise.size / 10
    assert np.sum((histogram - expected) ** 2 / expected) < 27.9  # chi², 9 degrees of freedom, p = 0.001


@pytest.mark.parametrize(
    ("action", "space", "error", "message"),
    [
        ([[0], [1]], gymnasium.spaces.Discrete(2), ValueError, r"must have shape \(2,\) .* got \(2, 1\)"),
        ([0.0, 1.0], gymnasium.spaces.Discrete(2), TypeError, "must be an integer .* got float32"),
        (
            [0.0, 1.0],
            gymnasium.spaces.Box(-1, 1, (1,)),
            ValueError,
            r"must have shape \(2, 1\) .* got \(2,\)",
        ),
        ([[0], [1]], gymnasium.spaces.Box(-1, 1, (1,)), TypeError, "must be floating point .* got int32"),
    ],
)
def test_actions_of_the_wrong_shape_or_kind_are_refused(action, space, error, message):
    with pytest.raises(error, match=message):
        validate_action(tf.constant(action), space, num_envs=2)


def test_a_float64_action_is_taken_as_float32():
    space = gymnasium.spaces.Box(-1, 1, (1,))
    assert validate_action(np.zeros([2, 1]), space, num_envs=2).dtype == tf.float32
