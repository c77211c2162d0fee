"""The lessons' settings: networks of their sizes, and what only they use."""

import keras
import numpy as np
import pytest

import kerasrl_pg as krl
from kerasrl_pg.envs.make import make_env
from kerasrl_pg.lesson_presets import LESSON_PRESETS
from kerasrl_pg.optimizers import RMSpropFromOne


def kernels(name: str) -> list[tuple[int, ...]]:
    preset = LESSON_PRESETS[name]
    training = make_env(preset.env, num_envs=1).make_training()
    model = preset.build(preset.steps, preset.num_envs).model(training.observation_space, training.action_space)
    return sorted(tuple(weight.shape) for weight in model.trainable_variables if weight.path.endswith("kernel"))


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("cartpole-cross-entropy", [(4, 128), (128, 2)]),
        ("cartpole-reinforce-lesson", [(4, 128), (128, 2)]),
        ("cartpole-reinforce-batched", [(4, 128), (128, 2)]),
        ("cartpole-reinforce-dropout", [(4, 128), (128, 2)]),
        ("cartpole-a2c-monte-carlo", [(4, 128), (4, 128), (128, 1), (128, 2)]),
        ("cartpole-actor-critic", [(4, 256), (4, 256), (256, 1), (256, 2)]),
        ("lab-policy-gradient", [(4, 32), (4, 32), (32, 1), (32, 2)]),
        *(
            (name, [(3, 3, 64, 64), (4, 4, 32, 64), (8, 8, 4, 32), (512, 1), (512, 6), (3136, 512), (3136, 512)])
            for name in ("pong-a2c", "pong-a2c-lesson")
        ),
        ("pong-a2c-baselines", [(3, 3, 64, 64), (4, 4, 32, 64), (8, 8, 4, 32), (512, 1), (512, 6), (3136, 512)]),
    ],
)
def test_the_networks_have_the_lessons_sizes(name, shapes):
    assert kernels(name) == sorted(shapes)


def settings(name: str):
    preset = LESSON_PRESETS[name]
    return preset.build(preset.steps, preset.num_envs)


@pytest.mark.parametrize(
    ("name", "baseline"),
    [("lab-policy-gradient", "none"), ("lab-baselined-policy-gradient", "mean"), ("lab-actor-critic", "value")],
)
def test_the_laboratorys_agents_differ_in_their_baseline_only(name, baseline):
    lab = settings(name)
    assert lab.algorithm == krl.PolicyGradient(baseline=baseline, rollout_length=32, discount=0.99, value_coef=0.5)
    assert float(lab.optimizer.learning_rate) == pytest.approx(0.005)
    assert (LESSON_PRESETS[name].num_envs, LESSON_PRESETS[name].steps) == (1, 10_000)


def test_pongs_optimizers_are_the_lessons():
    adam, rmsprop = settings("pong-a2c-lesson").optimizer, settings("pong-a2c-baselines").optimizer
    assert isinstance(adam, keras.optimizers.Adam)
    assert (float(adam.learning_rate), adam.epsilon) == pytest.approx((1e-3, 1e-3))
    assert isinstance(rmsprop, RMSpropFromOne)
    assert (float(rmsprop.learning_rate), rmsprop.rho, rmsprop.epsilon) == pytest.approx((7e-4, 0.99, 1e-5))


def dropout_training(**more) -> krl.Agent:
    return krl.fit_agent("CartPole-v1", "cartpole-reinforce-dropout", jit_compile=False, verbose=0, **more)


def test_dropout_drops_while_learning_only():
    agent = dropout_training(steps=100)
    (layer,) = [layer for layer in agent.model._flatten_layers() if isinstance(layer, keras.layers.Dropout)]
    assert layer.rate == 0.6
    observation = np.ones((1, 4), np.float32)
    learning = [agent.policy(observation, training=True).distribution.logits.numpy() for _ in range(2)]
    assert np.abs(learning[0] - learning[1]).max() > 0
    assert agent.act(observation[0]) == agent.act(observation[0])


def test_a_training_with_dropout_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path):
    whole = dropout_training(steps=200, num_envs=2)
    part = dropout_training(steps=100, num_envs=2, checkpoint=tmp_path / "agent")
    assert part.updates < whole.updates
    resumed = dropout_training(steps=200, num_envs=2, checkpoint=tmp_path / "agent")
    assert resumed.updates == whole.updates
    for weight, same in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)


def solve(name: str, seed: int) -> krl.Agent:
    return krl.fit_agent("CartPole-v1", name, steps=600_000, stop_return=475, seed=seed, verbose=0)


def test_the_cross_entropy_method_solves_cartpole():
    agent = solve("cartpole-cross-entropy", seed=0)
    assert agent.evaluate(episodes=100).mean >= 475


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_the_cross_entropy_method_solves_cartpole_whatever_the_seed(seed):
    agent = solve("cartpole-cross-entropy", seed)
    assert agent.evaluate(episodes=100).mean >= 475


def test_reinforce_with_a_step_per_episode_passes_180_within_20_rounds():
    stop = krl.StopAtReturn(monitor="episode_return", value=180)  # the mean of the 100 episodes of the round
    agent = krl.fit_agent("CartPole-v1", "cartpole-reinforce-lesson", steps=300_000, callbacks=[stop], verbose=0)
    assert stop.stopped_epoch is not None
    assert agent.updates <= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cartpole-reinforce-batched", "cartpole-a2c-monte-carlo"])
@pytest.mark.parametrize("seed", range(2))
def test_lessons_settings_solve_cartpole(name, seed):
    agent = solve(name, seed)
    assert agent.evaluate(episodes=100).mean >= 475
