"""Acting with weights that are cast once a rollout is acting with those that are cast at every step."""

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import kerasrl_pg as krl
from kerasrl_pg.models import default_model
from kerasrl_pg.training import off_policy, on_policy
from kerasrl_pg.training.acting import acting_policy

SCREEN = spaces.Box(0, 255, (1, 40, 40), np.uint8)


class Dots(gymnasium.Env):
    """A bright dot in one half of the screen; the action that names the half is paid."""

    observation_space = SCREEN
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._screen(), {}

    def step(self, action):
        paid = float(action == self._half)
        self._steps += 1
        return self._screen(), paid, False, self._steps == 8, {}

    def _screen(self):
        self._half = int(self.np_random.integers(2))
        screen = np.zeros((1, 40, 40), np.uint8)
        screen[0, self.np_random.integers(40), 20 * self._half + self.np_random.integers(20)] = 255
        return screen


ALGORITHMS = {
    "a2c": krl.A2C(rollout_length=5),
    "ppo": krl.PPO(rollout_length=8, epochs=2, num_minibatches=2),
    "dqn": krl.DQN(replay_size=128, batch_size=8, learning_starts=16, target_every=3),
}


def train(algorithm, *, mixed_precision="bfloat16", **settings):
    return krl.fit_agent(
        Dots, algorithm, steps=64, num_envs=2, seed=3, mixed_precision=mixed_precision, verbose=0, **settings
    )


def values_of(policy):
    observation = tf.constant(np.random.default_rng(0).integers(0, 256, (4, *SCREEN.shape)), tf.uint8)
    return policy(observation).value.numpy()


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_a_training_is_the_same_with_and_without_the_copy(algorithm, monkeypatch):
    with_copy = train(algorithm)
    acting = []

    def own_policy(agent):
        acting.append(agent)
        return agent.learner.policy, lambda: None

    monkeypatch.setattr(on_policy, "acting_policy", own_policy)
    monkeypatch.setattr(off_policy, "acting_policy", own_policy)
    without = train(algorithm)
    assert len(acting) == 1
    for expected, found in zip(without.model.get_weights(), with_copy.model.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, found)


def test_the_copy_follows_once_it_is_told():
    agent = train(ALGORITHMS["a2c"])
    policy, refresh = acting_policy(agent)
    assert policy.model is not agent.model
    np.testing.assert_array_equal(values_of(policy), values_of(agent.policy))
    agent.model.set_weights([weight + 0.01 for weight in agent.model.get_weights()])
    assert np.all(values_of(policy) != values_of(agent.policy))
    refresh()
    np.testing.assert_array_equal(values_of(policy), values_of(agent.policy))


def test_in_one_precision_there_is_nothing_to_cast():
    agent = train(ALGORITHMS["a2c"], mixed_precision="float32")
    assert acting_policy(agent)[0] is agent.learner.policy


def test_a_model_that_keras_cannot_copy_acts_itself():
    class Uncopied(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, inputs):
            return self.inner(inputs)

    agent = train(ALGORITHMS["a2c"], model=lambda *spaces, seed: Uncopied(default_model(*spaces, seed=seed)))
    assert acting_policy(agent)[0] is agent.learner.policy


def test_a_target_network_in_bfloat16_survives_saving(tmp_path):
    agent = train(ALGORITHMS["dqn"])
    target = agent.q_learner.target.model.get_weights()
    assert "bfloat16" in {weight.dtype.name for weight in target}
    agent.save(tmp_path / "agent")
    loaded = krl.load_agent(tmp_path / "agent", env=Dots).q_learner.target.model.get_weights()
    for expected, found in zip(target, loaded, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(expected.astype(np.float32), found.astype(np.float32))
    assert np.any([np.any(a.astype(np.float32) != b) for a, b in zip(target, agent.model.get_weights(), strict=True)])
