"""Whatever Keras optimizer is handed in trains as it does with Keras' own `fit`, or is refused with one clear error."""

import json
import warnings

import keras
import numpy as np
import pytest
from keras.optimizers import SGD, Adam, AdamW, LossScaleOptimizer
from keras.optimizers.schedules import LearningRateSchedule, PolynomialDecay

import kerasrl_pg as krl
from tests.training_aids import FirstWeights


def fit(optimizer, algorithm=None, **arguments):
    """Forty steps are four updates of two environments."""
    settings = {"steps": 40, "num_envs": 2, "jit_compile": False, "verbose": 0}
    algorithm = krl.A2C(rollout_length=5) if algorithm is None else algorithm
    return krl.fit_agent("CartPole-v1", algorithm, optimizer=optimizer, **{**settings, **arguments})


def difference(agent, other):
    pairs = zip(agent.model.get_weights(), other.model.get_weights(), strict=True)
    return max(np.abs(weight - expected).max() for weight, expected in pairs)


@pytest.fixture(scope="module")
def plain():
    return fit(SGD(0.1))


@pytest.mark.parametrize(
    "scaled",
    [lambda: LossScaleOptimizer(SGD(0.1)), lambda: SGD(0.1, loss_scale_factor=1024.0)],
    ids=["dynamic", "fixed"],
)
def test_a_scale_of_the_loss_changes_nothing_but_rounding(scaled, plain):
    assert difference(fit(scaled()), plain) < 1e-6


def test_what_is_excluded_from_weight_decay_does_not_decay():
    excluding = AdamW(0.01, weight_decay=0.5)
    excluding.exclude_from_weight_decay(var_names=["kernel", "bias", "policy", "value"])
    agent = fit(excluding)
    assert difference(agent, fit(Adam(0.01))) < 1e-6
    assert difference(agent, fit(AdamW(0.01, weight_decay=0.5))) > 0.01


def test_averaged_weights_are_those_of_the_trained_agent(plain):
    first = FirstWeights()
    agent = fit(SGD(0.1, use_ema=True, ema_momentum=0.9), callbacks=[first], steps_per_epoch=10)
    weights = [variable.numpy() for variable in agent.model.trainable_variables]
    averages = [np.array(average) for average in agent.optimizer._model_variables_moving_average]
    for weight, average in zip(weights, averages, strict=True):
        np.testing.assert_array_equal(weight, average)
    moved, moved_plain = (
        sum(np.abs(now - before).sum() for now, before in zip(trained, first.weights, strict=True))
        for trained in (weights, [variable.numpy() for variable in plain.model.trainable_variables])
    )
    assert 0 < moved < moved_plain


FILLS_ONLY = krl.DQN(rollout_length=1, batch_size=4, replay_size=500, learning_starts=100)


@pytest.mark.parametrize("in_graph", [True, False])
def test_averages_of_no_gradient_step_are_not_the_weights(in_graph):
    # Keras' averages begin as zeros, and an agent of zeros learns nothing more.
    first = FirstWeights()
    agent = fit(Adam(1e-3, use_ema=True), FILLS_ONLY, callbacks=[first], in_graph=in_graph)
    for weight, before in zip(agent.model.trainable_variables, first.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), before)


def test_a_call_that_finds_nothing_to_do_leaves_the_weights_that_a_callback_put_back(tmp_path):
    class PutBack(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            for variable in self.model.trainable_variables:
                variable.assign(0.5 * keras.ops.ones_like(variable))

    for callbacks in ([PutBack()], []):
        agent = fit(SGD(0.1, use_ema=True), callbacks=callbacks, checkpoint=tmp_path / "run")
        assert all((variable.numpy() == 0.5).all() for variable in agent.model.trainable_variables)


def test_gradients_that_an_optimizer_gathers_count_each_for_itself():
    # As Keras' own learning-rate schedules count them.
    algorithm = krl.NFQ(rollout_length=5, gradient_steps=4, batch_size=4, learning_starts=10)
    targets = []

    class Spy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            targets.append(agent.q_learner.target.model.get_weights()[0].sum())

    agent = fit(Adam(1e-2, gradient_accumulation_steps=3), algorithm)
    fit(None, agent, callbacks=[Spy()], num_envs=None)
    assert len(set(targets)) == len(targets) == 4  # fitted Q iteration: a copy at every update


class WarmUp(LearningRateSchedule):
    """As tutorials write it: without a configuration."""

    def __call__(self, step):
        return 0.1 * keras.ops.minimum(1.0, (step + 1) / 4)


def rate():
    return 0.1


class OnlyTwo(keras.optimizers.SGD):
    """Takes less than its configuration has."""

    def __init__(self, learning_rate):
        super().__init__(learning_rate)


@pytest.mark.parametrize("learning_rate", [WarmUp(), rate, lambda: 0.1], ids=["schedule", "function", "lambda"])
def test_a_learning_rate_that_no_file_can_hold_trains_and_is_not_saved(learning_rate, plain, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = fit(SGD(learning_rate), steps_per_epoch=10)
    first_rates = [0.05, 0.075] if isinstance(learning_rate, WarmUp) else [0.1, 0.1]
    assert agent.history.history["learning_rate"][:2] == pytest.approx(first_rates)
    if callable(learning_rate) and not isinstance(learning_rate, WarmUp):
        assert difference(agent, plain) == 0
    json.dumps(agent.describe())
    with pytest.raises(ValueError, match=r"optimizer cannot be saved.*register_keras_serializable"):
        agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match="optimizer cannot be saved"):
        fit(SGD(learning_rate), checkpoint=tmp_path / "agent")
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_would_lose_is_not_saved(tmp_path):
    excluding = AdamW(0.01)
    excluding.exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(ValueError, match="exclude_from_weight_decay"):
        fit(excluding, checkpoint=tmp_path / "agent")


def test_an_optimizer_that_cannot_be_made_again_is_named():
    with pytest.raises(TypeError, match="optimizer: OnlyTwo cannot be made from its configuration"):
        fit(OnlyTwo(0.1))


def test_a_schedule_is_seen_within_loss_scaling(tmp_path):
    over = LossScaleOptimizer(SGD(PolynomialDecay(0.1, 4, 0.0)))
    agent = fit(over)
    with pytest.raises(ValueError, match="learning rate is 0"):
        krl.fit_agent("CartPole-v1", agent, steps=40, verbose=0)
    with pytest.raises(ValueError, match="adaptive_kl moves the learning rate"):
        fit(over, krl.PPO(rollout_length=4, num_minibatches=1, epochs=1, adaptive_kl=0.01))
    agent.save(tmp_path / "agent")
    loaded = krl.load_agent(tmp_path / "agent")
    assert isinstance(loaded.optimizer, LossScaleOptimizer)
    assert loaded.describe()["optimizer"] == agent.describe()["optimizer"]


def test_adaptive_kl_moves_the_rate_within_loss_scaling():
    ppo = krl.PPO(rollout_length=4, num_minibatches=1, epochs=4, adaptive_kl=1e-9)
    agent = fit(LossScaleOptimizer(SGD(0.1)), ppo)
    assert float(agent.optimizer.learning_rate.numpy()) < 0.1


def test_an_overflow_of_the_backward_pass_lowers_the_scale():
    # In float16 there is nothing above 65,504. The gradients are clipped, so they alone would never tell.
    half = keras.Sequential([keras.layers.Dense(8, "tanh", dtype="mixed_float16")])
    agent = fit(LossScaleOptimizer(SGD(0.1), initial_scale=2.0**30), model=half, steps=200)
    assert 1 <= float(agent.optimizer.dynamic_scale) < 2.0**30
    assert 0 < int(agent.optimizer.inner_optimizer.iterations) < 20  # as many as did not overflow


def test_a_scale_of_the_loss_changes_nothing_of_an_embedding():
    """Its gradient comes as slices, which cannot be divided."""

    def embedding(*spaces, seed):
        state = keras.Input((), dtype="int32")
        row = keras.layers.Embedding(90, 4, embeddings_initializer=keras.initializers.RandomNormal(seed=1))(state)
        sizes = {"policy": 4, "value": 1}
        heads = {name: keras.layers.Dense(size, kernel_initializer="ones")(row) for name, size in sizes.items()}
        return keras.Model(state, heads)

    agents = [
        krl.fit_agent(
            "kerasrl_pg/GridWorld-v0", krl.A2C(rollout_length=5), env_options={"observation": "index"}, steps=40,
            num_envs=2, model=embedding, optimizer=SGD(0.01, loss_scale_factor=scale), jit_compile=False, verbose=0,
        )
        for scale in (None, 1024.0)
    ]  # fmt: skip
    assert difference(*agents) < 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clipnorm": 0.5}, "clipnorm would clip each replica's share"),
        ({"clipvalue": 0.5}, "clipvalue would clip each replica's share"),
        ({"global_clipnorm": 0.5}, "global_clipnorm would clip each replica's share"),
        ({"gradient_accumulation_steps": 2}, "Keras has no gradient_accumulation_steps under a strategy"),
        ({"use_ema": True, "ema_overwrite_frequency": 1}, "Keras has no ema_overwrite_frequency under a strategy"),
    ],
)
def test_what_replicas_would_not_do_together_is_refused(settings, message, two_replicas, tmp_path):
    with pytest.raises(ValueError, match=f"optimizer: {message}"):
        fit(SGD(0.1, **settings), strategy=two_replicas)
    alone = fit(SGD(0.1, **settings), steps=10)
    with pytest.raises(ValueError, match=f"optimizer: {message}"):
        krl.load_agent(alone.save(tmp_path / "agent"), strategy=two_replicas)
