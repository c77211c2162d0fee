"""Every kind of observation and of action goes through training, acting, evaluation, saving and export.

Each observation is paired with one action space and one algorithm, so that all of them occur; quickly, there is one
observation for each action space, and the kinds that are left are parts of one of them. The environment is strict: an
action that is not in its space is an error.
"""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import kerasrl_pg as krl
from kerasrl_pg.models import default_model

INF = np.inf
IMAGE = spaces.Box(0, 255, (16, 18, 3), np.uint8)

OBSERVATIONS: dict[str, spaces.Space] = {
    "number": spaces.Box(-1, 1, ()),
    "vector": spaces.Box(-1, 1, (3,)),
    "matrix": spaces.Box(-1, 1, (2, 3)),
    "grey image": spaces.Box(0, 255, (16, 18), np.uint8),
    "colour image": IMAGE,
    "channels first": spaces.Box(0, 255, (3, 16, 18), np.uint8),
    "stacked images": spaces.Box(0, 255, (2, 16, 18, 3), np.uint8),
    "float image": spaces.Box(0, 1, (16, 18, 1), np.float64),
    "float64": spaces.Box(-1, 1, (2,), np.float64),
    "integers": spaces.Box(-5, 5, (2,), np.int64),
    "small unsigned": spaces.Box(0, 9, (2, 2), np.uint8),
    "unbounded": spaces.Box(-INF, INF, (2,)),
    "unbounded integers": spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    "Discrete": spaces.Discrete(4, start=-2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3], start=[1, -1]),
    "MultiDiscrete 2-D": spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
    "MultiBinary": spaces.MultiBinary(3),
    "MultiBinary 2-D": spaces.MultiBinary([2, 3]),
    "Dict": spaces.Dict({"position": spaces.Box(-1, 1, (2,)), "room": spaces.Discrete(3)}),
    "nested Dict": spaces.Dict(
        {
            "self": spaces.Dict({"speed": spaces.Box(-1, 1, ()), "gear": spaces.Discrete(5)}),
            "goal": spaces.MultiBinary(2),
        }
    ),
    "Tuple": spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.Discrete(2, start=1)]),
    "camera": spaces.Dict({"camera": IMAGE, "speed": spaces.Box(-INF, INF, (2,)), "gear": spaces.Discrete(5)}),
    "Tuple of Dict": spaces.Tuple([spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0, 1, (1,))}), IMAGE]),
    "only one part": spaces.Dict({"it": spaces.Box(-1, 1, (2,))}),
}

ACTIONS: dict[str, spaces.Space] = {
    "Discrete": spaces.Discrete(3),
    "Discrete from -1": spaces.Discrete(3, start=-1),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3], start=[0, 5]),
    "MultiDiscrete 2-D": spaces.MultiDiscrete(np.array([[2, 3], [1, 4]])),
    "MultiBinary": spaces.MultiBinary(3),
    "MultiBinary 2-D": spaces.MultiBinary([2, 2]),
    "Box": spaces.Box(-1, 1, (2,)),
    "asymmetric Box": spaces.Box(np.array([0, -5], np.float32), np.array([0.1, 10], np.float32)),
    "unbounded Box": spaces.Box(-INF, INF, (1,)),
    "half-bounded Box": spaces.Box(np.array([0, -INF], np.float32), np.array([INF, 3], np.float32)),
    "Box 2-D": spaces.Box(-2, 2, (2, 2)),
    "Box number": spaces.Box(0, 2, ()),
    "float64 Box": spaces.Box(-0.3, 0.7, (2,), np.float64),
}

ALGORITHMS = [
    krl.PPO(rollout_length=8, epochs=2, num_minibatches=2),
    krl.A2C(rollout_length=8),
    krl.PolicyGradient(rollout_length=8),
    krl.Reinforce(),
    krl.CrossEntropy(),
]

PARTS = {
    "matrix", "grey image", "channels first", "float image", "float64", "integers", "small unsigned", "unbounded",
    "unbounded integers", "MultiDiscrete 2-D", "MultiBinary 2-D", "camera",
}  # fmt: skip


def cases(observations, marks=()):
    for index, (name, observation_space) in enumerate(observations.items()):
        action, algorithm = list(ACTIONS)[index % len(ACTIONS)], ALGORITHMS[index % len(ALGORITHMS)]
        yield pytest.param(
            observation_space, ACTIONS[action], algorithm, id=f"{name}-{action}-{type(algorithm).__name__}", marks=marks
        )


TOGETHER = spaces.Dict({name.replace(" ", "_"): OBSERVATIONS[name] for name in sorted(PARTS)})
ALONE = {name: space for name, space in OBSERVATIONS.items() if name not in PARTS}
QUICK = [
    *cases({**ALONE, "all others": TOGETHER}),
    *cases({name: OBSERVATIONS[name] for name in sorted(PARTS)}, marks=pytest.mark.slow),
]


class Strict(gymnasium.Env):
    """Random observations; episodes of 4 steps, by turns terminated and truncated."""

    def __init__(self, observation_space, action_space):
        self.observation_space = observation_space
        self.action_space = action_space
        self.episodes = 0

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        self.episodes += 1
        return self.observation_space.sample(), {}

    def step(self, action):
        # Gymnasium hands over a number as np.float32, which Box only takes with a warning.
        action = np.asarray(action) if self.action_space.shape == () and isinstance(action, np.floating) else action
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        self.time += 1
        over = self.time == 4
        terminated, truncated = over and self.episodes % 2 == 1, over and self.episodes % 2 == 0
        return self.observation_space.sample(), float(self.time), terminated, truncated, {}


def train(observation_space, action_space, algorithm):
    return krl.fit_agent(
        lambda: Strict(observation_space, action_space), algorithm, steps=32, num_envs=2, jit_compile=False, verbose=0
    )


def batch_of(space, count):
    return tf.nest.map_structure(lambda *rows: np.stack(rows), *[plain(space.sample()) for _ in range(count)])


def plain(observation):
    """Gymnasium's own dicts and arrays as tf.nest knows them."""
    if isinstance(observation, dict):
        return {name: plain(part) for name, part in observation.items()}
    return tuple(map(plain, observation)) if isinstance(observation, tuple) else np.asarray(observation)


@pytest.mark.parametrize(("observation_space", "action_space", "algorithm"), QUICK)
def test_every_space_is_trained_on_acted_in_saved_and_loaded(observation_space, action_space, algorithm, tmp_path):
    agent = train(observation_space, action_space, algorithm)
    assert agent.updates >= 2
    figures = {name: values for name, values in agent.history.history.items() if name != "best_return"}
    assert all(np.isfinite(values).all() for values in figures.values())  # the best of 100 episodes needs as many

    one = observation_space.sample()
    assert action_space.contains(np.asarray(agent.act(one)))
    for sample in (False, True):
        actions = agent.act(batch_of(observation_space, 50), sample=sample)
        assert actions.dtype == action_space.dtype
        assert all(action_space.contains(np.asarray(action)) for action in actions)

    result = agent.evaluate(episodes=3, seed=1, sample=True)
    assert result.lengths.tolist() == [4, 4, 4]
    assert result.returns.tolist() == [1 + 2 + 3 + 4] * 3

    agent.save(tmp_path / "agent")
    loaded = krl.load_agent(tmp_path / "agent", env=lambda: Strict(observation_space, action_space))
    assert (loaded.observation_space, loaded.action_space) == (observation_space, action_space)
    observations = batch_of(observation_space, 20)
    np.testing.assert_allclose(loaded.act(observations), agent.act(observations), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("observation_space", "action_space", "algorithm"), [*cases(OBSERVATIONS)])
def test_every_space_is_exported(observation_space, action_space, algorithm, tmp_path):
    agent = train(observation_space, action_space, algorithm)
    policy = krl.load_policy(agent.export(tmp_path / "policy"))
    observations = batch_of(observation_space, 20)
    np.testing.assert_allclose(policy.act(observations), agent.act(observations), rtol=1e-6)
    one = observation_space.sample()
    np.testing.assert_allclose(policy.act(one), agent.act(one), rtol=1e-6)


def test_integers_with_bounds_that_say_nothing_are_not_scaled_away():
    """Scaled by the range of an int64, every value that ever occurs would be the same number."""
    space = OBSERVATIONS["unbounded integers"]
    model = default_model(space, ACTIONS["Discrete"])
    first, second = model(np.array([[0, 0], [2, -3]], np.float32))["value"].numpy()
    assert abs(first - second) > 1e-3
