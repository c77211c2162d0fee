"""Atari with a cropped screen: what the agent sees, learns from and exports."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import kerasrl_pg as krl
from kerasrl_pg.envs.atari import AtariProtocol, make_atari, make_atari_screens
from kerasrl_pg.envs.vector_adapter import VectorAdapter
from kerasrl_pg.frames import crop_and_resize

PONG = (14, 196, 8, 159)
CROPPED = AtariProtocol(crop=PONG)
WITHOUT_THE_PACKAGE = """
import json, sys
import ale_py, numpy as np, tensorflow as tf
sys.modules["kerasrl_pg"] = None  # so that importing it would fail
policy = tf.saved_model.load(sys.argv[1])
serve = policy.signatures["serving_default"]
assert list(serve.structured_input_signature[1]["observation"].shape) == [None, 4, 210, 160]
game = ale_py.ALEInterface()
game.setFloat("repeat_action_probability", 0.0)
game.loadROM(ale_py.roms.get_rom_path("pong"))
actions, stack = game.getMinimalActionSet(), np.zeros((1, 4, 210, 160), np.uint8)
chosen = []
for _ in range(40):
    stack = np.concatenate([stack[:, 1:], game.getScreenGrayscale()[None, None]], axis=1)
    action = int(serve(observation=stack)["action"][0])
    chosen.append(action)
    for _ in range(4):
        game.act(actions[action])
print(json.dumps(chosen))
"""


@pytest.fixture(scope="module")
def agent():
    algorithm = krl.PPO(rollout_length=8, epochs=1, num_minibatches=2)
    return krl.fit_agent("ALE/Pong-v5", algorithm, steps=32, num_envs=2, protocol=CROPPED, verbose=0)


def test_the_agent_sees_stacks_of_the_cut_screen_black_before_a_game():
    small, whole = make_atari("ALE/Pong-v5", 3, CROPPED), make_atari_screens("ALE/Pong-v5", 3, CROPPED, stack=4)
    seen, screens = small.reset(seed=2)[0], whole.reset(seed=2)[0]
    assert small.single_observation_space.shape == (4, 84, 84)
    assert not seen[:, :-1].any()
    for _ in range(6):
        np.testing.assert_array_equal(seen, crop_and_resize(screens, PONG, 84))
        seen, screens = small.step(np.full(3, 2))[0], whole.step(np.full(3, 2))[0]


def test_a_game_that_ends_shows_its_own_last_stack_and_the_next_begins_black():
    short = dataclasses.replace(CROPPED, max_frames=400, noop_max=1)
    adapter = VectorAdapter(make_atari("ALE/Pong-v5", 2, short))
    adapter.reset(seed=0)
    steps = [adapter.step(np.ones(2, np.int64))[0] for _ in range(102)]
    [cut] = [index for index, step in enumerate(steps) if step.truncated.any()]
    np.testing.assert_array_equal(steps[cut].final_observation[:, :-1], steps[cut - 1].observation[:, 1:])
    assert steps[cut].final_observation[:, 0].any()
    assert not steps[cut].observation[:, :-1].any()
    np.testing.assert_array_equal(steps[cut + 1].observation[:, -2], steps[cut].observation[:, -1])


def test_it_trains_and_its_protocol_comes_back(agent, tmp_path):
    assert np.isfinite(agent.history.history["loss"]).all()
    assert agent.describe()["protocol"]["crop"] == PONG
    loaded = krl.load_agent(agent.save(tmp_path / "agent"))
    assert loaded.environment is not None
    assert AtariProtocol(**loaded.environment.protocol) == CROPPED


def test_a_dqn_keeps_each_cut_frame_once():
    algorithm = krl.DQN(replay_size=200, learning_starts=16, batch_size=4)
    agent = krl.fit_agent("ALE/Pong-v5", algorithm, steps=64, num_envs=2, protocol=CROPPED, verbose=0)
    frames = [leaf for leaf in agent.replay.arrays().values() if leaf.dtype == np.uint8]
    assert sum(leaf.nbytes for leaf in frames) < 1.2 * 84 * 84 * 200


@pytest.mark.parametrize("protocol", [CROPPED, AtariProtocol()], ids=["cut", "standard"])
def test_what_is_exported_for_screens_acts_on_them_as_the_agent_on_its_frames(agent, protocol, tmp_path):
    if protocol.crop is None:
        agent = krl.fit_agent("ALE/Pong-v5", agent.algorithm, steps=16, num_envs=2, protocol=protocol, verbose=0)
    path = krl.export_for_screens(agent, tmp_path / "policy")
    serve = tf.saved_model.load(path).signatures["serving_default"]
    small, whole = make_atari("ALE/Pong-v5", 4, protocol), make_atari_screens("ALE/Pong-v5", 4, protocol, stack=4)
    seen, screens = small.reset(seed=9)[0], whole.reset(seed=9)[0]
    for _ in range(20):
        probabilities = agent.policy(seen).distribution.probs_parameter()
        np.testing.assert_allclose(serve(observation=screens)["probabilities"], probabilities, atol=0.02)
        action = agent.act(seen)
        seen, screens = small.step(action)[0], whole.step(action)[0]
    assert json.loads((path / "metadata.json").read_text())["protocol"]["size"] == 84


@pytest.mark.slow
def test_it_plays_from_the_emulators_screens_where_this_package_is_not(agent, tmp_path):
    path = krl.export_for_screens(agent, tmp_path / "policy")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout.splitlines()[-1])) <= set(range(6))


def test_only_atari_agents_have_screens(tmp_path):
    agent = krl.fit_agent("CartPole-v1", "a2c", steps=64, jit_compile=False, verbose=0)
    with pytest.raises(ValueError, match="screens are exported for Atari games, this agent plays CartPole-v1"):
        krl.export_for_screens(agent, tmp_path / "policy")
    with pytest.raises(ValueError, match=r"crop must be .* within 210 x 160 pixels and at least 84 apart"):
        AtariProtocol(crop=(14, 211, 8, 159))
