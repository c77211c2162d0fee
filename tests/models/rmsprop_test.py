"""RMSprop with mean squares that start at 1, against the recurrence written out."""

import keras
import numpy as np

from kerasrl_pg.models import RMSpropFromOne


def test_the_steps_are_those_of_the_recurrence():
    rng = np.random.default_rng(0)
    weight = keras.Variable(rng.normal(size=(3, 2)).astype(np.float32))
    expected, mean_square = weight.numpy().astype(np.float64), np.ones((3, 2))
    optimizer = RMSpropFromOne(learning_rate=0.05, rho=0.9, epsilon=1e-3)
    for _ in range(5):
        gradient = rng.normal(size=(3, 2)).astype(np.float32)
        optimizer.apply([gradient], [weight])
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        expected -= 0.05 * gradient / np.sqrt(mean_square + 1e-3)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-5)


def test_it_is_saved_with_a_model_and_goes_on_where_it_was(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer=RMSpropFromOne(0.01, rho=0.99, epsilon=1e-5))
    gradients = [np.ones((2, 1), np.float32), np.ones(1, np.float32)]
    model.optimizer.apply(gradients, model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.optimizer.apply(gradients, each.trainable_variables)
    assert isinstance(loaded.optimizer, RMSpropFromOne)
    for weight, same in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)
