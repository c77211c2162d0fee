"""Atari through ale-py's vector environment: an explicit protocol, whole games, raw rewards in every figure."""

import dataclasses
import json
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrl_pg as krl
from kerasrl_pg.envs.atari import AtariProtocol, is_atari, make_atari
from kerasrl_pg.envs.make import make_env
from kerasrl_pg.envs.vector_adapter import VectorAdapter

SHORT = AtariProtocol(max_frames=400, noop_max=1, size=36, stack=2)
"""Games are cut after 100 steps, and frames are small: quick."""


def play(protocol, steps, env_id="ALE/Centipede-v5", seed=0):
    """The steps of two games in which somebody fires all the time."""
    adapter = VectorAdapter(make_atari(env_id, 2, protocol))
    adapter.reset(seed=seed)
    return [adapter.step(np.ones(2, np.int64)) for _ in range(steps)]


def test_observations_are_stacks_of_small_grey_frames():
    adapter: Any = make_env("ALE/Pong-v5", num_envs=3).make_training()
    observation = adapter.reset(seed=0)
    assert (observation.shape, observation.dtype) == ((3, 4, 84, 84), np.uint8)
    assert adapter.action_space == gymnasium.spaces.Discrete(6)
    step, valid = adapter.step(np.zeros(3, np.int64))
    assert step.observation.shape == (3, 4, 84, 84)
    assert (step.reward.dtype, step.terminated.dtype, step.truncated.dtype) == (np.float32, bool, bool)
    assert valid.all()


def test_the_protocol_is_what_the_emulator_gets():
    protocol = AtariProtocol(full_action_space=True, stack=3, size=40)
    adapter = VectorAdapter(make_atari("ALE/Pong-v5", 2, protocol))
    assert adapter.reset(seed=0).shape == (2, 3, 40, 40)
    assert adapter.action_space == gymnasium.spaces.Discrete(18)


def test_every_games_id_is_understood():
    """Names with digits too: ALE/TicTacToe3D-v5 is tic_tac_toe_3d."""
    assert make_atari("ALE/TicTacToe3D-v5", 1, SHORT).num_envs == 1
    assert make_atari("ALE/MsPacman-v5", 1, SHORT).num_envs == 1
    assert is_atari("ale_py:ALE/Pong-v5")
    assert make_env("ale_py:ALE/Pong-v5", num_envs=1).protocol == make_env("ALE/Pong-v5", num_envs=1).protocol


def test_the_seed_decides_the_games():
    """The no-ops before a game and sticky actions are drawn by chance."""
    chancy = dataclasses.replace(SHORT, repeat_action_probability=0.5, noop_max=30)
    first, again, other = (play(chancy, 60, seed=seed)[-1][0].observation for seed in (1, 1, 8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[0] != first[1]).any()  # environment n is seeded by seed + n


def test_a_game_that_is_cut_is_truncated_and_shows_its_own_last_frame():
    steps = play(SHORT, 110)
    cut = [index for index, (step, _) in enumerate(steps) if step.truncated.any()]
    assert len(cut) == 1
    step, valid = steps[cut[0]]
    assert step.truncated.all()
    assert not step.terminated.any()
    assert valid.all()
    assert (step.final_observation != step.observation).any()
    before = steps[cut[0] - 1][0].observation
    np.testing.assert_array_equal(step.final_observation[:, :-1], before[:, 1:])  # the stack moved on by a frame
    assert not step.observation[:, 0].any()  # that of the new game begins with an empty frame


def test_a_lost_life_ends_nothing():
    """Breakout's ball is not hit: five lives are one game of 200 steps and more."""
    protocol = dataclasses.replace(SHORT, max_frames=108_000)
    steps = play(protocol, 130, "ALE/Breakout-v5")
    assert not any(step.terminated.any() for step, _ in steps[:100])


def test_rewards_come_unclipped():
    rewards = np.array([step.reward for step, _ in play(SHORT, 60)])
    assert rewards.max() >= 10  # as much as the smallest insect is worth


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watching:
    """An algorithm that learns nothing and reports the sizes of the rewards that it is given."""

    rollout_length = 100

    def update(self, learner, rollout, seed):
        return learner.mean(
            lambda own: {"largest": tf.reduce_max(own.reward), "sum": tf.reduce_sum(own.reward)}, rollout
        )


@pytest.mark.parametrize("clipping", [True, False])
def test_learning_sees_clipped_rewards_and_the_log_raw_ones(clipping):
    protocol = dataclasses.replace(SHORT, reward_clipping=clipping)
    agent = krl.fit_agent(
        "ALE/Centipede-v5", Watching(), steps=200, num_envs=2, model=tiny_model(), protocol=protocol, verbose=0
    )
    largest = agent.history.history["largest"][-1]
    assert largest == 1 if clipping else largest >= 10
    assert max(agent.episodes.episode_return) >= 10
    assert agent.episodes.episode_length == [100, 100]
    if not clipping:
        assert sum(agent.episodes.episode_return) == agent.history.history["sum"][-1]
    assert agent.evaluate(episodes=2, seed=0, sample=True).returns.max() >= 10


def tiny_model():
    """A trunk that computes in no time."""
    return keras.Sequential([keras.layers.AveragePooling2D(6), keras.layers.Flatten()])


def test_pong_trains_for_real_and_says_under_which_protocol(tmp_path):
    agent = krl.fit_agent(
        "ALE/Pong-v5", krl.PPO(rollout_length=8, epochs=2, num_minibatches=2), steps=32, num_envs=2, verbose=0
    )
    assert (agent.steps, agent.updates) == (32, 2)
    assert np.isfinite(agent.history.history["loss"]).all()
    description = agent.describe()
    assert description["environment"] == "ALE/Pong-v5"
    assert description["protocol"] == dataclasses.asdict(AtariProtocol())
    loaded: Any = krl.load_agent(agent.save(tmp_path / "agent"))
    assert loaded.environment.protocol == dataclasses.asdict(AtariProtocol())


def test_a_protocol_is_for_atari_only():
    with pytest.raises(ValueError, match=r"protocol is for ids of Atari games .* 'CartPole-v1'"):
        make_env("CartPole-v1", protocol=SHORT)
    with pytest.raises(ValueError, match=r"repeat_action_probability must be in \[0, 1\], got 25"):
        AtariProtocol(repeat_action_probability=25)


def test_a_protocol_takes_numpys_integers_and_survives_json():
    protocol = AtariProtocol(stack=np.int64(2), noop_max=np.int32(0))
    assert AtariProtocol(**json.loads(json.dumps(dataclasses.asdict(protocol)))) == protocol


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("frame_skip", 0, 1),
        ("stack", 0, 1),
        ("size", 0, 1),
        ("max_frames", 0, 1),
        ("noop_max", -1, 0),
        ("stack", 1.5, 1),
    ],
)
def test_a_protocol_that_no_game_can_have_is_refused(name, value, least):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least {least}, got {value}"):
        AtariProtocol(**{name: value})


@pytest.mark.parametrize("name", ["fire_reset", "reward_clipping", "full_action_space"])
def test_a_switch_is_true_or_false(name):
    with pytest.raises(ValueError, match=f"{name} must be True or False, got 'no'"):
        AtariProtocol(**{name: "no"})
    assert getattr(AtariProtocol(**{name: np.bool_(True)}), name) is True


def test_a_probability_may_be_numpys_and_is_no_text():
    protocol = AtariProtocol(repeat_action_probability=np.float32(0.25))
    assert AtariProtocol(**json.loads(json.dumps(dataclasses.asdict(protocol)))) == protocol
    with pytest.raises(ValueError, match=r"repeat_action_probability must be in \[0, 1\], got '0\.2'"):
        AtariProtocol(repeat_action_probability="0.2")


def test_the_last_step_of_a_cut_game_may_have_fewer_frames():
    protocol = dataclasses.replace(SHORT, max_frames=10, frame_skip=4)
    environment = krl.make_env("ALE/Pong-v5", num_envs=1, protocol=protocol)
    played = environment.make_evaluation(1)
    played.reset(seed=2**31)
    ended = [bool(played.step(np.array([0]))[0].truncated[0]) for _ in range(3)]
    played.close()
    assert ended == [False, False, True]
    assert environment.max_episode_steps == 3
