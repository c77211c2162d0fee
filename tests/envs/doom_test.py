"""ViZDoom: an explicit protocol, real last observations, processes that end, and no files left behind."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image

import kerasrl_pg as krl
from kerasrl_pg.envs import doom, doom_game
from kerasrl_pg.envs.doom import DoomProtocol, area_average, find_doom_spec, is_doom, make_doom
from kerasrl_pg.envs.make import make_env
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.video import _doom_frames, record_video

CENTER = "VizdoomDefendCenter-v1"
"""Monsters come from all sides; who does nothing dies after about 90 steps."""
BASIC = "VizdoomBasic-v1"
"""Cut after 300 tics: 75 steps of 4."""
NOTHING, ATTACK = 0, 1
"""Actions of both: no button, the last button."""


@pytest.fixture
def vizdoom(tmp_path, monkeypatch):
    """The package; games keep their files, and everybody stands, where a test can look."""
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield pytest.importorskip("vizdoom")
    assert list(work.iterdir()) == []  # no test leaves a file where it stands


@pytest.fixture
def make(vizdoom):
    """Adapters that are closed in the end."""
    made = []

    def make_adapter(env_id=CENTER, num_envs=2, **protocol):
        made.append(VectorAdapter(make_doom(env_id, num_envs, DoomProtocol(**protocol))))
        return made[-1]

    yield make_adapter
    for adapter in made:
        adapter.close()


def play(adapter, actions, seed=0):
    """The first observation and the steps after it; the same action everywhere."""
    first = adapter.reset(seed=seed)
    return first, [adapter.step(np.full(adapter.num_envs, action))[0] for action in actions]


def random_actions(number, most=4, seed=0):
    return np.random.default_rng(seed).integers(0, most, number)


def processes(directory):
    """Ids of the games whose files lie in a directory."""
    listing = subprocess.run(["ps", "-eww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listing.splitlines() if str(directory) in line]


def test_observations_are_stacks_of_small_grey_frames(make):
    adapter = make(num_envs=3)
    observation = adapter.reset(seed=0)
    assert (observation.shape, observation.dtype) == ((3, 4, 60, 80), np.uint8)
    assert adapter.action_space == gymnasium.spaces.Discrete(4)  # no button, or one of three
    assert not observation[:, :-1].any()  # black before the first frame
    assert observation[:, -1].std() > 10
    step, valid = adapter.step(np.zeros(3, np.int64))
    np.testing.assert_array_equal(step.observation[:, -2], observation[:, -1])
    assert (step.reward.dtype, step.terminated.dtype, step.truncated.dtype) == (np.float32, bool, bool)
    assert valid.all()


def test_the_protocol_is_what_the_games_get(make):
    adapter = make(frame_skip=10, size=(84, 84), stack=2)
    assert adapter.reset(seed=0).shape == (2, 2, 84, 84)
    assert adapter.environment.max_episode_steps == 210
    assert make(size=(130, 150)).reset(seed=0).shape == (2, 4, 130, 150)  # drawn on a larger screen


def test_a_frame_is_the_last_tics(make):
    _, by_four = play(make(), [2, 2, 0])
    _, by_one = play(make(frame_skip=1), [2] * 8 + [0] * 4)
    for index, step in enumerate(by_four):
        np.testing.assert_array_equal(step.observation[:, -1], by_one[4 * index + 3].observation[:, -1])


def test_the_seed_decides_the_games(make):
    actions = random_actions(120)
    adapter = make()
    (_, first), (_, again), (_, other) = (play(adapter, actions, seed) for seed in (1, 1, 2))
    assert any(step.terminated.any() for step in first)  # the games after the first one, too
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.observation, two.observation)
        np.testing.assert_array_equal(one.reward, two.reward)
    assert (first[-1].observation[0] != first[-1].observation[1]).any()
    for one, two in zip(first, other, strict=True):  # environment n is seeded by seed + n
        np.testing.assert_array_equal(one.observation[1], two.observation[0])


def test_later_games_are_not_the_first_one_again(make):
    _, steps = play(make(num_envs=1), [NOTHING] * 250)
    deaths = np.flatnonzero([step.terminated[0] for step in steps])
    assert len(deaths) >= 2
    assert (
        deaths[0] + 1 != deaths[1] - deaths[0]
        or (steps[deaths[0] + 20].observation != steps[deaths[1] + 20].observation).any()
    )


def test_a_time_limit_truncates_and_shows_the_real_last_screen(make):
    """ViZDoom itself says `terminated` as well, and shows zeros."""
    _, steps = play(make(BASIC), [NOTHING] * 76)
    assert [step.truncated.any() for step in steps] == [False] * 74 + [True, False]
    assert not any(step.terminated.any() for step in steps)
    cut, before = steps[74], steps[73]
    assert cut.truncated.all()
    np.testing.assert_array_equal(cut.final_observation[:, :-1], before.observation[:, 1:])
    assert not cut.observation[:, :-1].any()  # of the new game
    without_limit = gymnasium.make(
        BASIC, frame_skip=4, episode_timeout=400, screen_resolution="RES_160X120", screen_format="GRAY8",
        vizdoom_path=doom_game._launcher(pathlib.Path(tempfile.mkdtemp())),
    )  # fmt: skip
    without_limit.reset(seed=1)
    for _ in range(75):
        observation, *_ = without_limit.step(NOTHING)
    without_limit.close()
    screen = observation["screen"][:, :, 0]  # [120, 160]
    np.testing.assert_array_equal(area_average((120, 160), (60, 80))(screen), cut.final_observation[1, -1])


def test_the_last_step_before_a_time_limit_may_be_shorter(make):
    _, steps = play(make(BASIC, num_envs=1, frame_skip=7), [NOTHING] * 43)
    assert steps[-1].truncated[0]
    assert [step.reward[0] for step in steps] == [-7] * 42 + [-6]  # -1 a tic


def test_a_death_terminates_and_shows_what_was_seen_before_it(make):
    _, steps = play(make(num_envs=1), [NOTHING] * 130)
    (death, *_) = np.flatnonzero([step.terminated[0] for step in steps])
    step = steps[death]
    assert not step.truncated[0]
    assert step.reward[0] == -1
    np.testing.assert_array_equal(step.final_observation, steps[death - 1].observation)
    assert not step.observation[:, :-1].any()
    assert not any(step.truncated[0] for step in steps)


def test_episodes_are_vizdooms_own(make):
    """Rewards and ends beside its Gymnasium environment, which calls a time limit an end of the task, too."""
    adapter = make(BASIC, num_envs=1)
    actions = random_actions(400)
    _, steps = play(adapter, actions, seed=3)
    theirs = gymnasium.make(BASIC, frame_skip=4, vizdoom_path=doom_game._launcher(pathlib.Path(tempfile.mkdtemp())))
    theirs.reset(seed=3)
    goals = limits = 0
    for action, step in zip(actions, steps, strict=True):
        _, reward, terminated, truncated, _ = theirs.step(action)
        assert reward == step.reward[0]
        assert truncated == step.truncated[0]
        assert terminated == (step.terminated[0] or step.truncated[0])
        goals, limits = goals + step.terminated[0], limits + step.truncated[0]
        if terminated:
            theirs.reset()
    theirs.close()
    assert goals > 0
    assert limits > 0


def test_a_kill_is_worth_one(make):
    _, steps = play(make(num_envs=4), random_actions(250))
    rewards = np.concatenate([step.reward for step in steps])
    assert set(rewards) == {-1, 0, 1}


def test_game_variables_come_in_hundreds(make):
    adapter = make(game_variables=True)
    observation = adapter.reset(seed=0)
    assert observation["screen"].shape == (2, 4, 60, 80)
    np.testing.assert_allclose(observation["game_variables"], [[0.26, 1.0]] * 2)  # ammunition, health
    steps = [adapter.step(np.full(2, ATTACK))[0] for _ in range(130)]
    assert steps[20].observation["game_variables"][0, 0] < 0.25
    (death, *_) = np.flatnonzero([step.terminated[0] for step in steps])
    assert steps[death].final_observation["game_variables"][0, 1] < 1
    assert steps[death].observation["game_variables"][0, 1] == 1
    with pytest.raises(ValueError, match=r"game_variables must be False for VizdoomMyWayHome-v1: this .* shows none"):
        make("VizdoomMyWayHome-v1", game_variables=True)


@pytest.mark.slow
def test_every_scenario_plays(make):
    find_doom_spec(CENTER)
    scenarios = [env_id for env_id in gymnasium.registry if is_doom(env_id) and env_id.endswith("-v1")]
    scenarios = [env_id for env_id in scenarios if "MultiBinary" not in env_id]
    assert len(scenarios) >= 12
    for env_id in (*scenarios, "VizdoomFreedoom1E1M1-S1-v0"):
        adapter = make(env_id, num_envs=1)
        adapter.reset(seed=0)
        step, _ = adapter.step(np.array([adapter.action_space.sample()]))
        assert step.observation[0, -1].std() > 5, env_id
        adapter.close()


def test_an_action_presses_the_buttons_that_vizdoom_says(make):
    """With buttons that take a number (Deathmatch) there are only the others to press."""
    assert make("VizdoomDeathmatch-v1").action_space == gymnasium.spaces.Discrete(18)
    bits = make("VizdoomDefendCenter-MultiBinary-v1", num_envs=1)
    assert bits.action_space == gymnasium.spaces.MultiBinary(3)
    bits.reset(seed=0)
    numbers = make(num_envs=1)
    numbers.reset(seed=0)
    for number, pressed in ((0, [0, 0, 0]), (3, [1, 0, 0]), (2, [0, 1, 0]), (1, [0, 0, 1])):  # left, right, attack
        one, _ = numbers.step(np.array([number]))
        two, _ = bits.step(np.array([pressed]))
        np.testing.assert_array_equal(one.observation, two.observation)


def test_closing_ends_the_processes_and_removes_their_files(make):
    first, second = make(), make(BASIC, num_envs=1)
    directory = tempfile.gettempdir()
    assert processes(directory) == []  # they start with the first reset
    first.reset(seed=0)
    second.reset(seed=0)
    assert len(processes(directory)) == len(list(pathlib.Path(directory).iterdir())) == 3
    first.close()
    assert len(processes(directory)) == 1
    step, _ = second.step(np.array([NOTHING]))  # the other one plays on
    assert step.observation[0, -1].std() > 5
    second.close()
    second.close()
    assert processes(directory) == list(pathlib.Path(directory).iterdir()) == []


def test_games_that_nobody_closes_end_with_their_owner(vizdoom):
    code = f"""
import os, signal
from kerasrl_pg.envs.doom import DoomProtocol, make_doom
environment = make_doom({BASIC!r}, 2, DoomProtocol())
environment.reset(seed=0)
print("started", flush=True)
os.kill(os.getpid(), signal.SIGKILL) if {{killed}} else None
"""
    directory = tempfile.gettempdir()
    for killed in (False, True):
        run = subprocess.run(
            [sys.executable, "-c", code.format(killed=killed)],
            env={"TMPDIR": directory, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert "started" in run.stdout
        assert processes(directory) == []
        if not killed:
            assert (run.stderr, list(pathlib.Path(directory).iterdir())) == ("", [])


def test_a_game_that_dies_is_an_error_and_not_a_hang(make):
    adapter = make(num_envs=1)
    adapter.reset(seed=0)
    (process,) = processes(tempfile.gettempdir())
    os.kill(process, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"the environment VizdoomDefendCenter-v1 raised .*Exception in step 1"):
        adapter.step(np.array([NOTHING]))


def test_where_no_program_may_start_the_error_says_so(make, monkeypatch):
    monkeypatch.setattr(doom_game.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"no program may be started from .*: set TMPDIR"):
        make(num_envs=1).reset(seed=0)


def test_doom_trains_for_real_and_says_under_which_protocol(vizdoom, tmp_path):
    protocol = DoomProtocol(size=(45, 60), stack=2)
    agent = krl.fit_agent(
        CENTER, krl.PPO(rollout_length=8, epochs=1, num_minibatches=2), steps=32, num_envs=2, protocol=protocol,
        jit_compile=False, verbose=0,
    )  # fmt: skip
    assert np.isfinite(agent.history.history["loss"]).all()
    description = agent.describe()
    assert (description["environment"], description["protocol"]) == (CENTER, dataclasses.asdict(protocol))
    loaded: Any = krl.load_agent(agent.save(tmp_path / "agent"))
    assert loaded.environment.protocol == dataclasses.asdict(protocol)
    result = loaded.evaluate(episodes=2, seed=0)
    np.testing.assert_array_equal(result.returns, agent.evaluate(episodes=2, seed=0).returns)
    assert loaded.environment.max_episode_steps == 525
    assert record_video(loaded, tmp_path / "film.mp4", size=(80, 60)).stat().st_size > 0
    assert processes(tempfile.gettempdir()) == []


def test_a_film_shows_what_the_agent_sees(vizdoom):
    frames: list[np.ndarray] = []
    differences: list[float] = []

    class Chance:
        """Acts at random and compares what it sees with the film's newest picture."""

        random = np.random.default_rng(0)

        def act(self, observation):
            grey = Image.fromarray(frames[-1]).convert("L").resize((80, 60), Image.Resampling.BOX)
            differences.append(np.abs(np.asarray(grey, float) - observation[0, -1]).mean())
            return self.random.integers(0, 4, 1)

    for frame in _doom_frames(Chance(), CENTER, DoomProtocol(), episodes=2, seed=5):
        frames.append(frame)
        assert frame.shape == (480, 640, 3)
    assert 4 * len(differences) - 6 <= len(frames) - 2 <= 4 * len(differences)  # and one at each start
    assert max(differences) < 4


def test_shrinking_is_an_average_over_areas():
    image = np.random.default_rng(0).integers(0, 256, (10, 14)).astype(np.uint8)
    fine = image.repeat(7, axis=0).repeat(4, axis=1)  # [70, 56]
    expected = fine.reshape(7, 10, 4, 14).mean(axis=(1, 3))  # [7, 4]
    np.testing.assert_allclose(area_average((10, 14), (7, 4))(image), expected, atol=0.51)
    np.testing.assert_array_equal(area_average((10, 14), (10, 14))(image), image)


def test_scenarios_that_do_not_exist_are_answered_with_those_that_do(vizdoom):
    with pytest.raises(ValueError, match=r"unknown environment 'VizdoomDefendCentre-v1'; did you mean Vizdoom.*-v1"):
        make_env("VizdoomDefendCentre-v1")
    with pytest.raises(ValueError, match=r"'vizdoom:VizdoomDefendCenter-v0'; did you mean VizdoomDefendCenter-v1"):
        make_env("vizdoom:VizdoomDefendCenter-v0")
    assert make_env("vizdoom:VizdoomDefendCenter-v1").max_episode_steps == 525
    assert make_env("VizdoomTakeCover-v1").max_episode_steps is None


def test_a_protocol_is_for_its_own_kind_of_game(vizdoom):
    with pytest.raises(ValueError, match=r"the protocol of 'VizdoomBasic-v1' must be of DoomProtocol, got Atari"):
        make_env(BASIC, protocol=krl.AtariProtocol())
    with pytest.raises(ValueError, match=r"the protocol of 'ALE/Pong-v5' must be of AtariProtocol, got Doom"):
        make_env("ALE/Pong-v5", protocol=DoomProtocol())
    with pytest.raises(ValueError, match=r"Doom \(Vizdoom...\), got it with 'CartPole-v1'"):
        make_env("CartPole-v1", protocol=DoomProtocol())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame_skip": 0}, "frame_skip must be an integer of at least 1, got 0"),
        ({"stack": 2.0}, "stack must be an integer of at least 1, got 2.0"),
        ({"stack": True}, "stack must be an integer of at least 1, got True"),
        ({"size": 84}, r"size must be \(height, width\) in pixels, at most \(480, 640\), got 84"),
        ({"size": (0, 80)}, r"size must be .*, got \(0, 80\)"),
        ({"size": (True, 80)}, r"size must be .*, got \(True, 80\)"),
        ({"size": (60.5, 80)}, r"size must be .*, got \(60.5, 80\)"),
        ({"size": (481, 640)}, r"size must be .*, got \(481, 640\)"),
        ({"size": (60, 80, 3)}, r"size must be .*, got \(60, 80, 3\)"),
        ({"game_variables": 1}, "game_variables must be True or False, got 1"),
    ],
)
def test_a_bad_protocol_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DoomProtocol(**settings)


def test_a_protocol_survives_json():
    assert DoomProtocol(**{**dataclasses.asdict(DoomProtocol()), "size": [60, 80]}) == DoomProtocol()
    of_numpy = DoomProtocol(stack=np.int64(2), size=tuple(np.array([60, 80])), game_variables=np.False_)
    assert DoomProtocol(**json.loads(json.dumps(dataclasses.asdict(of_numpy)))) == of_numpy


def test_without_vizdoom_the_error_says_what_to_install(monkeypatch):
    for name in ("vizdoom", "vizdoom.gymnasium_wrapper"):
        monkeypatch.setitem(sys.modules, name, None)
    for module in (doom, doom_game):  # can still be imported
        spec: Any = importlib.util.spec_from_file_location(f"fresh_{module.__name__}", module.__file__)
        monkeypatch.setitem(sys.modules, spec.name, importlib.util.module_from_spec(spec))
        spec.loader.exec_module(sys.modules[spec.name])
    assert is_doom(CENTER)
    with pytest.raises(
        ImportError, match=r'VizdoomDefendCenter-v1 needs the .* \(from a clone: pip install "\.\[doom\]"\)'
    ):
        make_env(CENTER)
