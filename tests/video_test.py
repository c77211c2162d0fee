"""Films: whole episodes, in files that are whole or not there."""

import sys

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from kerasrl_pg import video
from kerasrl_pg.algorithms import PPO
from kerasrl_pg.envs.atari import AtariProtocol
from kerasrl_pg.fit import fit_agent
from kerasrl_pg.video import _atari_frames, record_video, show_video
from kerasrl_pg.video_recorder import VideoRecorder


@pytest.fixture(scope="module")
def agent():
    return fit_agent("CartPole-v1", "ppo", steps=512, seed=0, jit_compile=False, verbose=0)


@pytest.fixture
def env():
    with gymnasium.make("CartPole-v1", render_mode="rgb_array") as env:
        yield env


def episode_length(agent, env, seed):
    observation, _ = env.reset(seed=seed)
    length, ended = 0, False
    while not ended:
        observation, _, terminated, truncated, _ = env.step(agent.act(observation))
        length, ended = length + 1, terminated or truncated
    return length


def test_an_mp4_holds_the_first_frame_and_one_after_every_step(agent, env, tmp_path):
    path = record_video(agent, tmp_path / "films" / "cartpole.mp4", seed=3)
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(path)
    assert frames == episode_length(agent, env, seed=3) + 1
    assert frames / seconds == pytest.approx(50, rel=0.05)  # CartPole's own speed
    assert [file.name for file in path.parent.iterdir()] == ["cartpole.mp4"]


def test_a_gif_can_have_another_size_and_speed(agent, tmp_path):
    path = record_video(agent, tmp_path / "cartpole.gif", episodes=2, fps=10, size=(301, 200))
    with Image.open(path) as film:
        assert film.size == (300, 200)  # even, as for an .mp4
        milliseconds = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]
    assert all(duration % 100 == 0 for duration in milliseconds)  # a frame that does not change stays on


def test_a_small_screen_is_enlarged_by_a_whole_factor(agent, tmp_path):
    class Tiny(gymnasium.Wrapper):
        def render(self):
            return self.env.render()[::4, ::4]  # [100, 150, 3]

    with Tiny(gymnasium.make("CartPole-v1", render_mode="rgb_array")) as env:
        path = record_video(agent, tmp_path / "tiny.gif", env=env)
    with Image.open(path) as film:
        assert film.size == (600, 400)


@pytest.mark.slow
def test_the_film_of_a_cut_screen_shows_all_of_it(tmp_path):
    protocol = AtariProtocol(crop=(14, 196, 8, 159), max_frames=200)
    algorithm = PPO(rollout_length=4, epochs=1, num_minibatches=1)
    agent = fit_agent("ALE/Pong-v5", algorithm, steps=8, num_envs=2, protocol=protocol, verbose=0)
    with Image.open(record_video(agent, tmp_path / "pong.gif")) as film:
        assert film.size == (320, 420)


@pytest.mark.parametrize("repeat_action_probability", [0.0, 0.25])
def test_an_atari_film_shows_what_the_agent_sees(repeat_action_probability):
    class Chance:
        """Acts at random and remembers what it saw."""

        def __init__(self):
            self.seen, self.random = [], np.random.default_rng(0)

        def act(self, observation):
            self.seen.append(observation[0, -1])  # [84, 84]
            return self.random.integers(0, 6, 1)

    agent = Chance()
    protocol = AtariProtocol(repeat_action_probability=repeat_action_probability, max_frames=1200)
    frames = list(_atari_frames(agent, "ALE/Pong-v5", protocol, episodes=2, seed=5))
    assert len(frames) == len(agent.seen) > 500
    for frame, seen in zip(frames[::50], agent.seen[::50], strict=True):
        grey = Image.fromarray(frame).convert("L").resize((84, 84), Image.Resampling.BOX)
        assert np.abs(np.asarray(grey, float) - seen).mean() < 4.0


def test_a_recorder_films_any_environment_at_any_size_and_speed(tmp_path):
    env = gymnasium.make("kerasrl_pg/GridWorld-v0", render_mode="rgb_array")
    with VideoRecorder(tmp_path / "new" / "grid.mp4", fps=12.5, size=(320, 200)) as video:
        env.reset(seed=0)
        for action in (0, 1, 2, 3) * 5:
            env.step(action)
            video.capture(env)
        assert not video.path.exists()  # it appears when it is whole
    reader = imageio_ffmpeg.read_frames(video.path)
    facts = next(reader)
    reader.close()
    assert (facts["size"], facts["fps"]) == ((320, 200), 12.5)
    assert imageio_ffmpeg.count_frames_and_secs(video.path)[0] == video.frames == 20
    assert [file.name for file in video.path.parent.iterdir()] == ["grid.mp4"]


def test_a_recorder_takes_frames_that_somebody_painted(tmp_path):
    with VideoRecorder(tmp_path / "ramp.gif", fps=5) as video:
        for grey in (0, 100, 200):
            video.add(np.full((400, 300, 3), grey, np.uint8))
    with Image.open(video.path) as film:
        shown = [np.asarray(frame.convert("L")).mean() for frame in ImageSequence.Iterator(film)]
    np.testing.assert_allclose(shown, [0, 100, 200], atol=3)


def test_a_recording_that_breaks_off_or_is_empty_leaves_no_file(tmp_path):
    def painted():
        yield np.zeros((400, 300, 3), np.uint8)
        raise OSError("the brush broke")

    def record(path, frames):
        with VideoRecorder(path) as video:
            for frame in frames:
                video.add(frame)

    with pytest.raises(OSError, match="the brush broke"):
        record(tmp_path / "film.mp4", painted())
    for name in ("film.gif", "film.mp4"):
        with pytest.raises(ValueError, match=r"nothing was recorded for .*film"):
            record(tmp_path / name, [])
    assert list(tmp_path.iterdir()) == []


def test_an_agent_is_filmed_in_its_own_task(tmp_path):
    corridor = {"task": ["S......G"], "observation": "one_hot", "max_episode_steps": 9}
    agent = fit_agent("kerasrl_pg/GridWorld-v0", "a2c", env_options=corridor, steps=64, jit_compile=False, verbose=0)
    with Image.open(record_video(agent, tmp_path / "corridor.gif", size=None)) as film:
        assert film.size[0] == 8 * film.size[1]


def test_nothing_is_overwritten(agent, tmp_path):
    path = tmp_path / "film.mp4"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=r"film\.mp4 exists already"):
        record_video(agent, path)
    assert path.read_text() == "precious"


def test_a_film_that_breaks_off_leaves_no_file(agent, tmp_path):
    class Breaks(gymnasium.Wrapper):
        def step(self, action):
            raise OSError("the pole broke")

    env = Breaks(gymnasium.make("CartPole-v1", render_mode="rgb_array"))
    with pytest.raises(OSError, match="the pole broke"):
        record_video(agent, tmp_path / "film.mp4", env=env)
    env.close()
    assert list(tmp_path.iterdir()) == []


def test_a_film_without_an_end_is_an_error_and_leaves_no_file(agent, tmp_path, monkeypatch):
    class Endless(gymnasium.Wrapper):
        def step(self, action):
            return np.zeros(4, np.float32), 0.0, False, False, {}

    monkeypatch.setattr(video, "LONGEST_VIDEO", 20)
    with (
        Endless(gymnasium.make("CartPole-v1", render_mode="rgb_array")) as env,
        pytest.raises(RuntimeError, match="the video did not end within 40 frames"),
    ):
        record_video(agent, tmp_path / "film.gif", env=env, episodes=2)
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_cannot_be_made_is_refused_with_the_value_that_prevents_it(agent, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.mp4 or \.gif, got .*film\.avi"):
        record_video(agent, tmp_path / "film.avi")
    with pytest.raises(ValueError, match="episodes must be an integer of at least 1, got 0"):
        record_video(agent, tmp_path / "film.mp4", episodes=0)
    with pytest.raises(ValueError, match=r"size must be .* both positive"):
        record_video(agent, tmp_path / "film.mp4", size=(0, 100))
    with pytest.raises(ValueError, match=r"size must be .* both positive, got 5"):
        record_video(agent, tmp_path / "film.mp4", size=5)
    with pytest.raises(ValueError, match=r"size must be .* both positive, got \(300\.5, 200\)"):
        VideoRecorder(tmp_path / "film.mp4", size=(300.5, 200))
    with pytest.raises(ValueError, match="fps must be positive, got '30'"):
        VideoRecorder(tmp_path / "film.mp4", fps="30")
    with pytest.raises(RuntimeError, match="records within a with statement"):
        VideoRecorder(tmp_path / "film.mp4").add(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        record_video(agent, tmp_path / "film.mp4", seed=-1)
    with pytest.raises(TypeError, match=r"env must be a Gymnasium environment .*, got 'CartPole-v1'"):
        record_video(agent, tmp_path / "film.mp4", env="CartPole-v1")
    with pytest.raises(ValueError, match=r'render_mode="rgb_array", got None'):
        record_video(agent, tmp_path / "film.mp4", env=gymnasium.make("CartPole-v1"))


def test_the_missing_extra_is_named(agent, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r'\(from a clone: pip install "\.\[video\]"\)'):
        record_video(agent, tmp_path / "film.mp4")


def test_a_notebook_embeds_the_film(agent, tmp_path):
    path = record_video(agent, tmp_path / "film.gif")
    assert show_video(path)._repr_html_().startswith('<img src="data:image/gif;base64,R0lGOD')
    with pytest.raises(FileNotFoundError, match=r"there is no video at .*other\.mp4"):
        show_video(tmp_path / "other.mp4")


def test_frames_that_are_no_bytes_are_refused(agent, tmp_path):
    class Pale(gymnasium.Wrapper):
        def render(self):
            return self.env.render() / 255.0

    env = Pale(gymnasium.make("CartPole-v1", render_mode="rgb_array"))
    with pytest.raises(ValueError, match="must render one frame as an array of uint8, it rendered float64 numbers"):
        record_video(agent, tmp_path / "film.gif", env=env)
    assert list(tmp_path.iterdir()) == []
