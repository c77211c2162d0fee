import numpy as np
import tensorflow as tf

from kerasrl_pg import ops
from kerasrl_pg.types import Batch

VALID = np.array([[1, 1], [1, 0], [0, 1]], np.float32)
ADVANTAGE = np.array([[1.0, -2.0], [3.0, 1e6], [-1e6, 6.0]], np.float32)  # [T, N]


def batch():
    """Values twice and targets three times as large as the advantages; two steps are not valid."""
    columns = {"advantage": ADVANTAGE, "value": 2 * ADVANTAGE, "value_target": 3 * ADVANTAGE, "weight": VALID}
    rest = {name: tf.zeros([3, 2]) for name in ("observation", "action", "log_prob")}
    return Batch(**{name: tf.constant(column) for name, column in columns.items()}, **rest)


def test_means_of_a_batch_are_those_of_its_valid_steps(variant):
    means = variant(ops.batch_means)(batch())
    assert means.keys() == {"advantage_mean", "value_mean", "value_target_mean"}
    for name, factor in (("advantage", 1), ("value", 2), ("value_target", 3)):
        np.testing.assert_allclose(means[f"{name}_mean"], factor * (1 - 2 + 3 + 6) / 4)


def test_a_critic_is_judged_by_valid_steps(variant):
    explained = variant(ops.critic_metrics)(batch())["explained_variance"]
    np.testing.assert_allclose(explained, 1 - (1 / 3) ** 2, rtol=1e-5)  # a third of every target is left
