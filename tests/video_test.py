"""Films: whole episodes, in files that are whole or not there."""

import sys

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from kerasrl_pg.envs.atari import AtariProtocol
from kerasrl_pg.fit import fit_agent
from kerasrl_pg.video import _atari_frames, record_video, show_video


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


def test_bad_input_is_named(agent, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.mp4 or \.gif, got .*film\.avi"):
        record_video(agent, tmp_path / "film.avi")
    with pytest.raises(ValueError, match="episodes must be positive, got 0"):
        record_video(agent, tmp_path / "film.mp4", episodes=0)
    with pytest.raises(ValueError, match="size must be positive"):
        record_video(agent, tmp_path / "film.mp4", size=(0, 100))
    with pytest.raises(ValueError, match=r'render_mode="rgb_array", got None'):
        record_video(agent, tmp_path / "film.mp4", env=gymnasium.make("CartPole-v1"))


def test_the_missing_extra_is_named(agent, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r'pip install "kerasrl-pg\[video\]"'):
        record_video(agent, tmp_path / "film.mp4")


def test_a_notebook_embeds_the_film(agent, tmp_path):
    path = record_video(agent, tmp_path / "film.gif")
    assert show_video(path)._repr_html_().startswith('<img src="data:image/gif;base64,R0lGOD')
    with pytest.raises(FileNotFoundError, match=r"there is no video at .*other\.mp4"):
        show_video(tmp_path / "other.mp4")
