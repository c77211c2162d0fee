"""The command line: what each command leaves behind, and how it says no."""

import dataclasses
import functools
import json
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

import kerasrl_pg as krl
from kerasrl_pg import demo
from kerasrl_pg.cli import main
from kerasrl_pg.fit import fit_agent
from kerasrl_pg.presets import PRESETS


@pytest.fixture
def interpreted(monkeypatch):
    """Trainings whose files and messages matter: XLA's compilation would take most of the time."""
    monkeypatch.setattr("kerasrl_pg.fit.fit_agent", functools.partial(fit_agent, jit_compile=False))


def test_help_does_not_wait_for_tensorflow():
    script = """import sys, kerasrl_pg.cli as cli
cli.main(['fit', '--help'])
print('tensorflow' in sys.modules)"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--stop-return" in process.stdout
    assert process.stdout.endswith("False\n")


@pytest.mark.usefixtures("interpreted")
def test_fit_writes_what_evaluate_and_play_read(tmp_path, capfd):
    outputs = {name: tmp_path / "new" / file for name, file in [
        ("save", "agent"), ("export", "policy"), ("csv", "episodes.csv"), ("plot", "curve.png"),
    ]}  # fmt: skip
    options = [word for name, path in outputs.items() for word in (f"--{name}", str(path))]
    assert main(["fit", "CartPole-v1", "a2c", "--steps", "512", "--num-envs", "4", *options]) == 0
    assert "512 steps, last 100 episodes: " in capfd.readouterr().out
    assert outputs["csv"].read_text().startswith("step,episode_return,episode_length\n")
    assert outputs["plot"].stat().st_size > 10_000
    assert json.loads((outputs["export"] / "metadata.json").read_text())["environment"] == "CartPole-v1"

    assert main(["evaluate", str(outputs["save"]), "--episodes", "3"]) == 0
    assert capfd.readouterr().out.endswith("over 3 episodes\n")
    assert main(["play", str(outputs["save"]), "--video", str(tmp_path / "film.gif")]) == 0
    assert (tmp_path / "film.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "CartPole-v2", "--steps", "9"], "error: unknown environment 'CartPole-v2'; did you mean"),
        (["fit", "CartPole-v1", "pppo", "--steps", "9"], "error: unknown algorithm 'pppo'; did you mean ppo"),
        (["fit", "CartPole-v1", "--steps", "0"], "error: steps must be an integer of at least 1, got 0"),
        (["fit", "CartPole-v1", "--steps", "9", "--plot", "a.txt"], "error: --plot must end in one of .png"),
        (["evaluate", "nowhere"], "error: no saved agent at nowhere"),
        (["play", "nowhere", "--video", "film.avi"], "error: a video's path must end in .mp4 or .gif"),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments, message, capfd):
    assert main(arguments) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(message)


@pytest.mark.parametrize("option", ["--save", "--export", "--csv", "--plot"])
def test_what_exists_is_refused_before_training(option, tmp_path, capfd):
    existing = tmp_path / "precious.png"
    existing.touch()
    assert main(["fit", "CartPole-v1", "--steps", str(10**12), option, str(existing)]) == 2
    assert capfd.readouterr().err.startswith(f"error: {existing} exists already")


@pytest.mark.usefixtures("interpreted")
def test_a_training_in_which_no_episode_ended_has_no_curve_and_succeeds(tmp_path, capfd):
    assert main(["fit", "Pendulum-v1", "a2c", "--steps", "40", "--plot", str(tmp_path / "curve.png")]) == 0
    assert "learning curve: none, for no episode has ended" in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("interpreted")
def test_without_steps_a_preset_says_how_many(monkeypatch, capfd):
    short = {"lab-policy-gradient": 64, "cartpole-a2c": 256}
    for name, steps in short.items():
        monkeypatch.setitem(PRESETS, name, dataclasses.replace(PRESETS[name], steps=steps))
    assert main(["fit", "CartPole-v1", "lab-policy-gradient"]) == 0
    assert "64 steps, last 100 episodes: " in capfd.readouterr().out
    assert main(["fit", "CartPole-v1", "a2c"]) == 0
    assert "256 steps, last 100 episodes: " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MountainCar-v0"], "error: --steps is needed: there is no preset of 'ppo' for MountainCar-v0"),
        (["CartPole-v1", "pppo"], "error: unknown algorithm 'pppo'; did you mean ppo"),
        (["CartPole-v2"], "error: unknown environment 'CartPole-v2'; did you mean"),
    ],
)  # fmt: skip
def test_without_steps_and_a_preset_they_are_asked_for(arguments, message, capfd):
    assert main(["fit", *arguments]) == 2
    assert capfd.readouterr().err.startswith(message)


@pytest.mark.usefixtures("interpreted")
def test_a_training_goes_on_from_its_checkpoint(tmp_path, capfd):
    checkpoint = tmp_path / "new" / "checkpoint"
    arguments = ["fit", "CartPole-v1", "lab-policy-gradient", "--checkpoint", str(checkpoint), "--steps-per-epoch=64"]
    assert main([*arguments, "--steps", "64"]) == 0
    assert krl.load_agent(checkpoint).steps == 64
    capfd.readouterr()
    assert main([*arguments, "--steps", "128", "--save", str(tmp_path / "agent")]) == 0
    assert f"checkpoint: {checkpoint}\n" in capfd.readouterr().out
    resumed = krl.load_agent(tmp_path / "agent")
    assert (resumed.steps, resumed.updates) == (128, 4)
    assert resumed.history.history["steps"] == [64, 128]  # two updates an epoch
    assert krl.load_agent(checkpoint).steps == 128


def test_describe_prints_the_environments_card(capfd):
    assert main(["describe", "CartPole-v1"]) == 0
    assert capfd.readouterr().out == f"{krl.describe('CartPole-v1')}\n"


def test_help_says_what_there_is(capfd):
    for arguments, words in (
        (["--help"], "policy gradients and Q-learning on Gymnasium environments"),
        (["describe", "--help"], "Print an environment's spaces, time limit, solved threshold, protocol and presets"),
    ):
        assert main(arguments) == 0
        assert words in " ".join(capfd.readouterr().out.split())


def test_list_names_algorithms_presets_and_graph_environments(capfd):
    assert main(["list"]) == 0
    out = capfd.readouterr().out
    for word in (
        "  reinforce\n",
        "  cartpole-ppo: CartPole-v1, ppo, 100,000 steps; settings from: Stable-Baselines3 zoo, ppo.yml\n",
        "  Acrobot-v1\n",
    ):
        assert word in out


def test_the_demo_solves_cartpole_and_what_it_exports_does_too(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    out = capfd.readouterr().out
    directory = tmp_path / "runs" / "demo-cartpole"
    assert "475 was reached" in out
    assert "over 100 episodes of Gymnasium's CartPole-v1\n" in out
    assert {path.name for path in directory.iterdir()} == {
        "agent", "saved_model", "video.mp4", "learning_curve.png",
    }  # fmt: skip
    returns = demo.play_saved_model(directory / "saved_model", episodes=5, seed=9)
    assert min(returns) >= 475


def test_a_demo_says_by_which_rules_it_was_evaluated():
    pong = {"environment": "ALE/Pong-v5", "protocol": dataclasses.asdict(krl.AtariProtocol())}
    assert demo.played_on(pong) == "ALE/Pong-v5 under the protocol in metadata.json"


def test_an_export_that_fails_elsewhere_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"metadata\.json"):
        demo.play_saved_model(tmp_path, episodes=1, seed=0)


class Broken(gymnasium.Env):
    """It raises in its third step."""

    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 3:
            raise OverflowError("motor broke")
        return np.zeros(2, np.float32), 0.0, False, False, {}


@pytest.mark.usefixtures("interpreted")
def test_an_environment_that_raises_is_one_line_too(monkeypatch, capfd):
    spec = gymnasium.envs.registration.EnvSpec("Broken-v0", entry_point=Broken)
    monkeypatch.setitem(gymnasium.registry, "Broken-v0", spec)
    assert main(["fit", "Broken-v0", "a2c", "--steps", "1000"]) == 2
    error = "error: the environment Broken-v0 raised OverflowError in step 3: motor broke"
    assert capfd.readouterr().err.splitlines()[-1] == error


def test_somebody_elses_runtime_error_keeps_its_traceback(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a fault of the library")

    monkeypatch.setattr(demo, "run_demo", fail)
    with pytest.raises(RuntimeError, match="a fault of the library"):
        main(["demo"])


@pytest.mark.usefixtures("interpreted")
def test_files_may_be_put_into_the_agents_directory(tmp_path):
    agent, csv, policy = tmp_path / "a" / "agent", tmp_path / "a" / "agent" / "x" / "episodes.csv", tmp_path / "policy"
    options = ["--save", str(agent), "--csv", str(csv), "--export", str(policy), "--plot", str(policy / "curve.svg")]
    assert main(["fit", "CartPole-v1", "a2c", "--steps", "160", "--num-envs", "2", *options]) == 0
    assert krl.load_agent(agent).steps == 160
    assert csv.is_file()
    assert (policy / "curve.svg").is_file()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"--save": "o", "--export": "o"}, "--save {}/o and --export {}/o conflict"),
        ({"--save": "o/a", "--export": "o"}, "--save {}/o/a and --export {}/o conflict"),
        ({"--csv": "o.png", "--plot": "o.png"}, "--csv {}/o.png and --plot {}/o.png conflict"),
        ({"--csv": "o", "--plot": "o/c.png"}, "--csv {}/o and --plot {}/o/c.png conflict"),
        ({"--checkpoint": "o", "--save": "o"}, "--checkpoint {}/o and --save {}/o conflict"),
        ({"--checkpoint": "o", "--csv": "o/c.csv"}, "--checkpoint {}/o and --csv {}/o/c.csv conflict"),
        ({"--checkpoint": "o/a", "--export": "o"}, "--checkpoint {}/o/a and --export {}/o conflict"),
        ({"--export": "x[1]"}, "TensorFlow takes *, ? and [ in {}/x[1] for a pattern"),
    ],
)
def test_outputs_that_cannot_all_be_written_are_refused_before_training(outputs, message, tmp_path, capfd):
    options = [word for option, path in outputs.items() for word in (option, str(tmp_path / path))]
    assert main(["fit", "CartPole-v1", "--steps", str(10**12), *options]) == 2
    assert f"error: {message.format(tmp_path, tmp_path)}" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_is_refused_leaves_no_directories(tmp_path):
    assert main(["fit", "NoSuch-v1", "--steps", "9", "--save", str(tmp_path / "p" / "q" / "r")]) == 2
    assert list(tmp_path.iterdir()) == []
