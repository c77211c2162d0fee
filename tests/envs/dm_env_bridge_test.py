"""dm_env's environments through Gymnasium: spaces, endings, seeds, training."""

import sys

import dm_env
import gymnasium
import keras
import numpy as np
import pytest
from dm_env import specs
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

import kerasrl_pg as krl
from kerasrl_pg.envs.dm_env_bridge import from_dm_env
from kerasrl_pg.envs.make import make_env

ROWS, COLUMNS = 6, 5


class Catch(dm_env.Environment):
    """A ball falls from the top of a board, and a paddle at its bottom is moved below it: +1 for a catch, else -1.

    Source: the task of Mnih et al. 2014, "Recurrent Models of Visual Attention", section 4.3. With a `limit`, the
    episode is cut after so many steps.
    """

    def __init__(self, seed=None, limit=None):
        self._random = np.random.default_rng(seed)
        self._limit = limit

    def reset(self):
        self._row, self._ball, self._paddle = 0, int(self._random.integers(COLUMNS)), COLUMNS // 2
        return dm_env.restart(self._board())

    def step(self, action):
        self.action_spec().validate(action)
        self._paddle = int(np.clip(self._paddle + action - 1, 0, COLUMNS - 1))
        self._row += 1
        if self._row == ROWS - 1:
            return dm_env.termination(1.0 if self._ball == self._paddle else -1.0, self._board())
        if self._row == self._limit:
            return dm_env.truncation(0.0, self._board())
        return dm_env.transition(0.0, self._board())

    def observation_spec(self):
        return specs.BoundedArray((ROWS, COLUMNS), np.float32, 0, 1)

    def action_spec(self):
        return specs.DiscreteArray(3, dtype=np.int32)

    def _board(self):
        board = np.zeros((ROWS, COLUMNS), np.float32)
        board[self._row, self._ball] = board[ROWS - 1, self._paddle] = 1
        return board


class OtherSpecs(Catch):
    """A dict of observations, and forces for actions."""

    def reset(self):
        return dm_env.restart({"position": np.zeros(3), "lit": np.array(True)})

    def step(self, action):
        self.action_spec().validate(action)
        return dm_env.transition(None, {"position": np.ones(3), "lit": np.array(False)})

    def observation_spec(self):
        return {"position": specs.Array([3], np.float64), "lit": specs.Array([], bool)}

    def action_spec(self):
        return specs.BoundedArray([2], np.float64, [-1, -2], [1, 2])


def play(env, actions):
    return [env.step(action) for action in actions]


def test_the_bridge_is_a_gymnasium_environment():
    env = from_dm_env(Catch)
    assert env.observation_space == spaces.Box(0, 1, (ROWS, COLUMNS), np.float32)
    assert env.action_space == spaces.Discrete(3)
    check_env(env, skip_render_check=True)


def test_an_end_of_the_task_is_terminated_and_pays():
    env = from_dm_env(Catch)
    env.reset(seed=3)
    *earlier, last = play(env, [1] * (ROWS - 1))
    assert [(terminated, truncated) for _, _, terminated, truncated, _ in earlier] == [(False, False)] * (ROWS - 2)
    assert last[1:4] in ((1.0, True, False), (-1.0, True, False))
    assert last[4]["timestep.discount"] == 0


def test_a_cut_by_a_limit_is_truncated():
    env = from_dm_env(lambda seed: Catch(seed, limit=3))
    env.reset(seed=3)
    *_, last = play(env, [1] * 3)
    assert last[1:4] == (0.0, False, True)
    assert last[4]["timestep.discount"] == 1


def test_a_seed_decides_what_a_function_makes_and_only_that():
    env = from_dm_env(Catch)
    balls = [
        [env.reset(seed=seed)[0][0].argmax(), *(env.reset()[0][0].argmax() for _ in range(9))] for seed in (4, 4, 5)
    ]
    assert balls[0] == balls[1] != balls[2]
    board = Catch(seed=1)
    unseeded = from_dm_env(board)
    assert len({int(unseeded.reset(seed=0)[0][0].argmax()) for _ in range(20)}) > 1  # the object's own chance


def test_other_specs_become_the_spaces_that_they_mean():
    env = from_dm_env(OtherSpecs())
    assert env.observation_space["position"] == spaces.Box(-np.inf, np.inf, (3,), np.float64)
    assert env.observation_space["lit"] == spaces.Box(0, 1, (), bool)
    assert env.action_space == spaces.Box(np.array([-1.0, -2.0]), np.array([1.0, 2.0]), dtype=np.float64)
    env.reset()
    observation, reward, *_ = env.step(np.array([0.5, 1.5], np.float32))
    assert env.observation_space.contains(observation)
    assert reward == 0.0  # None, as dm_env has it where there is none


@pytest.mark.slow
def test_an_agent_learns_to_catch():
    algorithm = krl.PPO(rollout_length=2 * (ROWS - 1), num_minibatches=5, entropy_coef=0.0)
    settings = {"optimizer": keras.optimizers.Adam(3e-3), "num_envs": 16, "steps": 8000, "jit_compile": False}
    agent = krl.fit_agent(lambda: from_dm_env(Catch), algorithm, verbose=0, **settings)
    assert set(agent.episodes.episode_length) == {ROWS - 1}
    assert np.mean(agent.episodes.episode_return[:100]) < 0
    assert agent.episodes.mean_return() > 0.7
    assert agent.evaluate(episodes=20).mean > 0.7


def test_a_cut_episode_reaches_the_algorithm_as_cut():
    adapter = make_env(lambda: from_dm_env(lambda seed: Catch(seed, limit=3)), num_envs=2).make_training()
    adapter.reset(seed=0)
    step, _ = [adapter.step(np.ones(2, np.int64)) for _ in range(3)][-1]
    assert (step.terminated.tolist(), step.truncated.tolist()) == ([False, False], [True, True])
    assert step.final_observation[:, 3].sum(axis=-1).tolist() == [1.0, 1.0]  # the ball stands in row 3


def test_what_is_no_dm_env_environment_is_named_and_so_is_a_missing_extra(monkeypatch):
    with pytest.raises(TypeError, match=r"must be a dm_env.Environment or a function of a seed, got 3"):
        from_dm_env(3)
    with pytest.raises(TypeError, match=r"must return a dm_env.Environment, it returned <.*CartPole"):
        from_dm_env(lambda seed: gymnasium.make("CartPole-v1"))
    monkeypatch.setitem(sys.modules, "dm_env", None)
    with pytest.raises(ImportError, match=r'\(from a clone: pip install "\.\[dm-env\]"\)'):
        from_dm_env(Catch)
