"""The optimizers of one kernel against Keras' own and against a recurrence written out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrl_pg.optimizers import FusedAdam, RMSpropFromOne

SCHEDULE = keras.optimizers.schedules.PolynomialDecay(0.05, 4, 0.01)
ADAM = {"learning_rate": SCHEDULE, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}


def weights_after(optimizer, run=lambda apply: apply, steps=5, **variable):
    """Two weights after a few steps with gradients without end."""
    rng = np.random.default_rng(0)
    weights = [keras.Variable(rng.normal(size=shape), dtype="float32", **variable) for shape in ((3, 2), (2,))]
    optimizer.build(weights)
    apply = run(lambda *gradients: optimizer.apply(list(gradients), weights))
    for _ in range(steps):
        apply(*[tf.constant(rng.normal(size=weight.shape).astype(np.float32)) for weight in weights])
    return [weight.numpy() for weight in weights]


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"clipnorm": 0.5}], ids=str)
def test_fused_adam_takes_the_steps_of_adam(variant, settings):
    expected = weights_after(keras.optimizers.Adam(**ADAM, **settings))
    for ours, theirs in zip(weights_after(FusedAdam(**ADAM, **settings), variant), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_fused_adam_keeps_what_adam_keeps_so_that_one_goes_on_from_the_other():
    optimizers = [kind(**ADAM) for kind in (FusedAdam, keras.optimizers.Adam)]
    for optimizer in optimizers:
        weights_after(optimizer)
    for ours, theirs in zip(*(optimizer.variables for optimizer in optimizers), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [FusedAdam, RMSpropFromOne])
def test_replicas_hand_in_shares_of_one_step(kind, two_replicas):
    """Keras sums what replicas apply."""
    expected = weights_after(kind(0.05))
    with two_replicas.scope():
        optimizer = kind(0.05)

        def run(apply):
            share = lambda *gradients: apply(*(gradient / 2 for gradient in gradients))  # noqa: E731
            return tf.function(lambda *gradients: two_replicas.run(share, args=gradients), autograph=False)

        weights = weights_after(optimizer, run)
    for ours, theirs in zip(weights, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_rmsprop_from_one_takes_the_steps_of_its_recurrence(variant):
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((3, 2), (2,))]
    mean_squares = [np.ones_like(weight) for weight in weights]
    for _ in range(5):
        for weight, mean_square in zip(weights, mean_squares, strict=True):
            gradient = rng.normal(size=weight.shape)
            mean_square += 0.1 * (gradient**2 - mean_square)
            weight -= 0.05 * gradient / np.sqrt(mean_square + 1e-3)
    found = weights_after(RMSpropFromOne(learning_rate=0.05, rho=0.9, epsilon=1e-3), variant)
    for ours, expected in zip(found, weights, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4)


@pytest.mark.parametrize("optimizer", [FusedAdam(**ADAM), RMSpropFromOne(0.01, rho=0.99, epsilon=1e-5)])
def test_one_is_saved_with_a_model_and_goes_on_where_it_was(optimizer, tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer=optimizer)
    gradients = [np.ones((2, 1), np.float32), np.ones(1, np.float32)]
    model.optimizer.apply(gradients, model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.optimizer.apply(gradients, each.trainable_variables)
    assert type(loaded.optimizer) is type(optimizer)
    for weight, same in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        (FusedAdam, {"amsgrad": True}, "amsgrad"),
        (RMSpropFromOne, {"centered": True}, "centered"),
        (RMSpropFromOne, {"momentum": 0.9}, "momentum"),
    ],
)
def test_what_the_kernels_do_not_know_is_refused(kind, settings, named):
    with pytest.raises(ValueError, match=f"{named}.*keras.optimizers"):
        kind(0.01, **settings)
