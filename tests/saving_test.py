"""The files of a saved agent: settings as JSON, and everything that a Q-learner needs to go on."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from keras.optimizers.schedules import CosineDecay, ExponentialDecay, PolynomialDecay

import kerasrl_pg as krl
from kerasrl_pg.algorithms import A2C, ALGORITHMS, DQN, NFQ, PPO, Prioritized
from kerasrl_pg.models import mlp_trunk
from kerasrl_pg.saving import StoredReplay, numbered, settings_from_json, settings_to_json

N = 60
"""Steps: six updates of two environments and five steps, of which the last three learn."""

SMALL = DQN(rollout_length=5, batch_size=8, gradient_steps=2, learning_starts=30, replay_size=90, target_every=5)
"""Twelve gradient steps in 2 N: copies to the target network are before and after the save; the replay overflows."""

SAMPLER = Prioritized(importance_exponent=PolynomialDecay(0.4, 100, 1.0))
VARIANTS = {
    "dqn": SMALL,
    "prioritized": DQN(**{**vars(SMALL), "sampler": SAMPLER, "epsilon": PolynomialDecay(1.0, 100, 0.1)}),
    "n-step": DQN(**{**vars(SMALL), "n_step": 3, "double": True}),
    "no target": DQN(**{**vars(SMALL), "target_every": None}),
    "nfq": NFQ(rollout_length=5, gradient_steps=3, learning_starts=30, replay_size=90),
}


def trunk():
    return mlp_trunk((8,), activation="relu", dropout=0.2, seed=1)


def fit(steps, algorithm=SMALL, **arguments):
    """Interpreted: XLA's compilation would take most of the time."""
    settings = {"num_envs": 2, "steps_per_epoch": 20, "jit_compile": False, "verbose": 0}
    return krl.fit_agent("CartPole-v1", algorithm, steps=steps, **{**settings, **arguments})


def state_of(agent):
    """All that a training goes on from, by name: arrays."""
    state = {f"weight_{i}": weight for i, weight in enumerate(agent.model.get_weights())}
    state |= {f"optimizer_{i}": np.array(variable) for i, variable in enumerate(agent.optimizer.variables)}
    if agent.q_learner.target is not None:
        state |= {f"target_{i}": weight for i, weight in enumerate(agent.q_learner.target.model.get_weights())}
    state |= {f"environment_{i}": np.array(leaf) for i, leaf in enumerate(agent.environment_state or [])}
    if agent.replay is not None:
        state |= {f"replay_{name}": np.array(array) for name, array in agent.replay.arrays().items()}
    return state


def assert_same_state(one, other):
    one, other = state_of(one), state_of(other)
    assert one.keys() == other.keys()
    for name, expected in one.items():
        np.testing.assert_array_equal(other[name], expected, err_msg=name)


# Settings

SETTINGS = [
    *(algorithm() for algorithm in ALGORITHMS.values()),
    *VARIANTS.values(),
    DQN(epsilon=ExponentialDecay(1.0, 10, 0.5), sampler=Prioritized(exponent=0.3, offset=0.2, importance_exponent=0.5)),
    PPO(clip_epsilon=CosineDecay(0.2, 100)),
    PPO(entropy_values=(-1, 1)),
    A2C(rollout_length=None),
]


@pytest.mark.parametrize("algorithm", SETTINGS, ids=lambda algorithm: type(algorithm).__name__)
def test_settings_come_back_from_json_as_they_were(algorithm):
    text = json.dumps(settings_to_json(algorithm), allow_nan=False)
    again = type(algorithm)(**settings_from_json(json.loads(text)))
    # Keras' schedules do not compare, but their settings do.
    assert settings_to_json(again) == settings_to_json(algorithm)
    for name, value in vars(algorithm).items():
        assert type(getattr(again, name)) is type(value)


def test_a_schedule_that_comes_back_has_the_same_values():
    algorithm = VARIANTS["prioritized"]
    again = DQN(**settings_from_json(json.loads(json.dumps(settings_to_json(algorithm)))))
    for step in (0, 50, 1000):
        assert float(again.epsilon(step)) == float(algorithm.epsilon(step))
        one, other = (each.sampler.importance_exponent(step) for each in (again, algorithm))
        assert float(one) == float(other)


def test_numbered_arrays_come_in_the_order_of_their_numbers():
    arrays = {f"target_{i}": np.array(i) for i in reversed(range(12))}
    arrays |= {"target": np.array(-1), "other_0": np.array(9)}
    assert [int(array) for array in numbered(arrays, "target")] == list(range(12))
    assert numbered(arrays, "environment") == []


# Graph environments: exactly as if training had not stopped


@pytest.mark.parametrize(
    "name",
    [
        "prioritized",
        *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name != "prioritized"),
    ],
)
def test_training_saved_in_the_middle_is_the_uninterrupted_one_bit_for_bit(name, tmp_path):
    """Weights, dropout's masks, target network, optimizer, environments and the replay with its priorities."""
    algorithm = VARIANTS[name]
    whole = fit(2 * N, algorithm, model=trunk())
    half = fit(N, algorithm, model=trunk())
    assert half.optimizer.iterations > 0
    loaded = krl.load_agent(half.save(tmp_path / "agent"))
    assert_same_state(half, loaded)
    resumed = fit(N, loaded)
    assert_same_state(whole, resumed)
    assert resumed.episodes.episode_return == whole.episodes.episode_return
    for name in ("steps", "loss", "td_error", "epsilon", "episode_return"):
        np.testing.assert_array_equal(resumed.history.history[name], whole.history.history[name])


@pytest.mark.slow
def test_a_save_before_learning_has_started_does_not_start_it_earlier_or_later(tmp_path):
    whole = fit(N, model=trunk())
    loaded = krl.load_agent(fit(20, model=trunk()).save(tmp_path / "agent"))
    assert loaded.optimizer.iterations == 0
    assert_same_state(whole, fit(N - 20, loaded))


ANOTHER_PROCESS = """
import sys, numpy
import kerasrl_pg as krl
agent = krl.fit_agent(
    "CartPole-v1", krl.load_agent(sys.argv[1]), steps=int(sys.argv[2]), num_envs=2, steps_per_epoch=20,
    jit_compile=sys.argv[3] == "XLA", verbose=0)
agent.save(sys.argv[4])
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["XLA", "interpreted"])
def test_another_process_goes_on_bit_for_bit(how, tmp_path):
    algorithm, jit_compile = VARIANTS["prioritized"], how == "XLA"
    whole = fit(2 * N, algorithm, model=trunk(), jit_compile=jit_compile)
    path = fit(N, algorithm, model=trunk(), jit_compile=jit_compile).save(tmp_path / "half")
    command = [sys.executable, "-c", ANOTHER_PROCESS, str(path), str(N), how, str(tmp_path / "whole")]
    subprocess.run(command, check=True)
    assert_same_state(whole, krl.load_agent(tmp_path / "whole"))


@pytest.mark.slow
def test_a_checkpoint_is_gone_on_from(tmp_path):
    whole = fit(2 * N, model=trunk())
    fit(N, model=trunk(), checkpoint=tmp_path / "agent")
    resumed = fit(2 * N, checkpoint=tmp_path / "agent")
    assert_same_state(whole, resumed)
    assert resumed.updates == whole.updates == 12


# Other environments: their state is lost, everything else is not


@pytest.fixture(scope="module")
def outside():
    return fit(N, VARIANTS["prioritized"], model=trunk(), in_graph=False)


def test_the_replay_of_other_environments_comes_back_with_its_priorities(outside, tmp_path):
    loaded = krl.load_agent(outside.save(tmp_path / "agent"))
    assert isinstance(loaded.replay, StoredReplay)
    assert_same_state(outside, loaded)
    saved = outside.replay.arrays()
    assert {"sampler/priorities", "action", "reward", "ended", "frame"} <= saved.keys()
    assert np.ptp(saved["sampler/priorities"][saved["sampler/priorities"] > 0]) > 0


def test_training_goes_on_with_that_replay_at_once(outside, tmp_path):
    loaded = krl.load_agent(outside.save(tmp_path / "agent"))
    before = loaded.replay.arrays()
    iterations = int(loaded.optimizer.iterations)
    resumed = fit(10, loaded, in_graph=False)
    assert resumed.optimizer.iterations == iterations + SMALL.gradient_steps  # the one update learned
    after = resumed.replay.arrays()
    # Five steps, and the first place of a new episode.
    assert (after["head"] - before["head"]).tolist() == [6, 6]
    old = np.ones((2, 45), bool)
    for number in range(2):
        old[number, (before["head"][number] + np.arange(6)) % 45] = False
    old = old[:, : before["frame"].shape[1]]
    assert old.sum() > 50
    for name in ("frame", "action", "reward"):
        np.testing.assert_array_equal(after[name][:, : old.shape[1]][old], before[name][old])


def test_a_loaded_agent_saved_again_keeps_its_replay_and_may_replace_itself(outside, tmp_path):
    first = outside.save(tmp_path / "first")
    loaded = krl.load_agent(first)
    assert_same_state(outside, krl.load_agent(loaded.save(tmp_path / "second")))
    assert_same_state(outside, krl.load_agent(loaded.save(first, overwrite=True)))
    assert_same_state(outside, loaded)


def test_what_is_saved_in_its_place_is_not_taken_for_a_loaded_replay(outside, tmp_path):
    path = outside.save(tmp_path / "agent")
    loaded = krl.load_agent(path)
    fit(20, VARIANTS["prioritized"], model=trunk(), in_graph=False, seed=1).save(path, overwrite=True)
    with pytest.raises(RuntimeError, match=r"replay\.npz was replaced or removed after its agent was loaded: load the"):
        fit(10, loaded, in_graph=False)


def test_half_a_replay_is_no_whole_agent(outside, tmp_path):
    path = outside.save(tmp_path / "agent")
    whole = (path / "replay.npz").read_bytes()
    (path / "replay.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"not a whole saved agent: .*replay\.npz cannot be read"):
        krl.load_agent(path)


def test_a_replay_of_other_settings_is_refused_with_both(outside, tmp_path):
    loaded = krl.load_agent(outside.save(tmp_path / "agent"))
    with pytest.raises(
        ValueError, match=r"the stored replay has \[num_envs, .* \[2, 45, 0, 1\], this one \[3, 30, 0, 1\]"
    ):
        fit(10, loaded, in_graph=False, num_envs=3)


def test_an_agent_without_a_replay_has_no_file_of_one(tmp_path):
    files = {path.name for path in fit(20, A2C(rollout_length=5), in_graph=False).save(tmp_path / "a2c").iterdir()}
    assert files == {"agent.json", "model.keras", "training.npz"}


@pytest.mark.parametrize("target_every", [5, None])
def test_a_target_network_is_saved_where_there_is_one(target_every, tmp_path):
    algorithm = DQN(**{**vars(SMALL), "target_every": target_every})
    path = fit(N, algorithm, model=trunk(), in_graph=False).save(tmp_path / "agent")
    with np.load(path / "training.npz") as arrays:
        saved = numbered(arrays, "target")
    loaded = krl.load_agent(path)
    assert bool(saved) == (target_every is not None)
    if target_every is None:
        assert loaded.q_learner.target is None
        return
    for expected, weight in zip(saved, loaded.q_learner.target.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert any((a != b).any() for a, b in zip(saved, loaded.model.get_weights(), strict=True))


def test_a_replay_that_was_sampled_in_another_way_is_refused(outside, tmp_path):
    path = outside.save(tmp_path / "agent")
    other = dataclasses.replace(outside.algorithm, sampler=None if outside.algorithm.sampler else Prioritized())
    with pytest.raises(ValueError, match="the stored replay was sampled in another way"):
        fit(100, other, in_graph=False, checkpoint=path)


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_graphs_replay_goes_on_only_with_the_same_n_step(n_step, tmp_path):
    # Of other n, transitions would be drawn that are not whole, or never those that are.
    path = fit(40, VARIANTS["n-step"]).save(tmp_path / "agent")
    agent = krl.load_agent(path, algorithm=dataclasses.replace(VARIANTS["n-step"], n_step=n_step))
    assert (agent.environment_state is None) == (n_step == 1)
    agent = fit(40, agent)
    assert agent.replay_begun_at == ((40, 4) if n_step == 1 else (0, 0))


@pytest.mark.parametrize("content", ["{}", "[1]", "no JSON", '{"algorithm": {"name": "A2C"}}'])
def test_what_is_no_saved_agent_is_called_so(content, tmp_path):
    (tmp_path / "agent.json").write_text(content)
    with pytest.raises(ValueError, match=r"is not a saved agent: agent\.json"):
        krl.load_agent(tmp_path)
    with pytest.raises(ValueError, match="is not a saved agent"):
        fit(20, A2C(rollout_length=5), checkpoint=tmp_path)


def test_an_agent_is_loaded_only_as_what_it_was_trained_as(tmp_path):
    path = fit(20, A2C(rollout_length=5), in_graph=False).save(tmp_path / "a2c")
    for algorithm in ("ppo", krl.PPO()):
        with pytest.raises(ValueError, match="holds an agent of A2C, which algorithm="):
            krl.load_agent(path, algorithm=algorithm)
    assert krl.load_agent(path, algorithm=A2C(rollout_length=7)).algorithm.rollout_length == 7


def test_a_saved_agent_of_which_a_part_is_damaged_is_called_so(tmp_path):
    path = fit(20, A2C(rollout_length=5), in_graph=False).save(tmp_path / "a2c")
    whole = (path / "training.npz").read_bytes()
    (path / "training.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"is not a whole saved agent: training\.npz cannot be read"):
        krl.load_agent(path)
    (path / "training.npz").write_bytes(whole)
    (path / "model.keras").write_bytes(b"no zip file")
    with pytest.raises(ValueError, match=r"model\.keras cannot be read: .* Layers and models of your own must be"):
        krl.load_agent(path)
