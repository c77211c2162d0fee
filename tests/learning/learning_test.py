"""Every algorithm learns tasks whose best score is known, to that score, with greedy actions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import kerasrl_pg as krl
from tests.learning.tasks import Corridor, GymnasiumSalary, Identity, Salary, true_values

ALGORITHMS = {
    "cross_entropy": krl.CrossEntropy(elite_share=0.25),
    # Half the discount and some entropy: without a critic the other steps' rewards are noise, which it would settle on.
    "reinforce": krl.Reinforce(discount=0.5, entropy_coef=0.05, standardize_returns=True),
    "policy_gradient": krl.PolicyGradient(rollout_length=8),
    "a2c": krl.A2C(rollout_length=8, normalize_advantage=True),
    "ppo": krl.PPO(rollout_length=32),
}


def quickly(chosen: str, of=ALGORITHMS):
    """The name of one algorithm as a parameter, and those of the others in the slow tests."""
    others = [pytest.param(name, marks=pytest.mark.slow) for name in of if name != chosen]
    return pytest.mark.parametrize("name", [chosen, *others])


def fit(env, algorithm, steps: int, learning_rate: float = 1e-2, **more) -> krl.Agent:
    # Without XLA: it would take longer to compile than these tasks take to learn.
    optimizer = keras.optimizers.Adam(learning_rate)
    return krl.fit_agent(env, algorithm, steps=steps, optimizer=optimizer, verbose=0, jit_compile=False, **more)


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_every_algorithm_learns_to_do_what_it_sees(algorithm):
    agent = fit(Identity(spaces.Discrete(4)), algorithm, steps=20_000)
    assert agent.act(np.arange(4)).tolist() == [0, 1, 2, 3]
    assert agent.evaluate(episodes=32).returns.tolist() == [8.0] * 32


@quickly("ppo")
def test_every_algorithm_learns_a_choice_of_several_parts(name):
    # At 1e-2, of six seeds two of `policy_gradient` and one of `a2c` settle on a wrong part; at 3e-3 none does.
    agent = fit(Identity(spaces.MultiDiscrete([2, 3])), ALGORITHMS[name], steps=40_000, learning_rate=3e-3)
    every = [[i, j] for i in range(2) for j in range(3)]
    assert agent.act(np.array(every)).tolist() == every


@quickly("ppo", of=["reinforce", "ppo"])
def test_bits_are_learned_each_on_its_own(name):
    agent = fit(Identity(spaces.MultiBinary(3)), ALGORITHMS[name], steps=40_000)
    every = [[i, j, k] for i in range(2) for j in range(2) for k in range(2)]
    assert agent.act(np.array(every)).tolist() == every


@quickly("ppo", of=["a2c", "ppo"])
def test_continuous_actions_come_close(name):
    # The best is 0; standing still in the middle earns -1/3 a step.
    task = Identity(spaces.Box(-1, 1, (2,)))
    agent = fit(task, ALGORITHMS[name], steps=60_000, learning_rate=3e-3)
    assert agent.evaluate(episodes=32).mean / 8 > {"a2c": -0.08, "ppo": -0.01}[name]


WEIGHING = {name: algorithm for name, algorithm in ALGORITHMS.items() if name != "cross_entropy"}
"""Those that know a good step from a bad one within an episode: to imitate all who arrive is to imitate detours too."""


@pytest.mark.parametrize("algorithm", WEIGHING.values(), ids=WEIGHING)
def test_credit_travels_back_through_a_corridor(algorithm):
    agent = fit(Corridor(), algorithm, steps=20_000)
    result = agent.evaluate(episodes=16)
    assert result.returns.tolist() == [1.0] * 16
    assert result.lengths.tolist() == [Corridor.length] * 16


CRITICS = {
    "policy_gradient": krl.PolicyGradient(rollout_length=8, discount=0.9, value_coef=1.0),
    "a2c": krl.A2C(rollout_length=8, discount=0.9, gae_lambda=0.9, value_coef=1.0, max_gradient_norm=None),
    "ppo": krl.PPO(rollout_length=32, discount=0.9, gae_lambda=0.9, value_coef=1.0, max_gradient_norm=None),
}


def learned_values(agent: krl.Agent) -> np.ndarray:
    return agent.policy(tf.range(Salary.length)).value.numpy()


@pytest.mark.parametrize("name", CRITICS)
def test_a_time_limit_is_not_the_end_of_the_task(name):
    agent = fit(Salary(terminates=False), CRITICS[name], steps=20_000)
    np.testing.assert_allclose(learned_values(agent), true_values(terminates=False, discount=0.9), rtol=0.02)


@pytest.mark.parametrize(
    "terminates", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["truncated", "terminated"]
)
@pytest.mark.parametrize("mode", AutoresetMode)
def test_nor_is_it_in_gymnasium_whichever_way_it_resets(mode, terminates):
    env = SyncVectorEnv([lambda: GymnasiumSalary(terminates)] * 8, autoreset_mode=mode)
    agent = fit(env, CRITICS["ppo"], steps=10_000)
    np.testing.assert_allclose(learned_values(agent), true_values(terminates, discount=0.9), rtol=0.02)


@quickly("ppo", of=CRITICS)
def test_after_a_termination_there_is_nothing_more_to_be_had(name):
    agent = fit(Salary(terminates=True), CRITICS[name], steps=20_000)
    np.testing.assert_allclose(learned_values(agent), true_values(terminates=True, discount=0.9), rtol=0.02)


def own_trunk() -> keras.Model:
    return keras.Sequential([keras.layers.Dense(32, "relu")])


def own_policy() -> keras.Model:
    state = keras.Input((), dtype="int32")
    row = keras.layers.Embedding(4, 16)(state)
    return keras.Model(state, (keras.layers.Dense(4)(row), keras.layers.Dense(1)(row)))


@pytest.mark.parametrize("make", [pytest.param(own_trunk, marks=pytest.mark.slow), own_policy])
def test_a_model_of_ones_own_learns_as_well(make):
    agent = fit(Identity(spaces.Discrete(4)), ALGORITHMS["ppo"], steps=20_000, model=make())
    assert agent.act(np.arange(4)).tolist() == [0, 1, 2, 3]
