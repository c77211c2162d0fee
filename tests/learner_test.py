"""One gradient step is the same on one device and on two, down to what is clipped, weighted and shuffled.

The policy is a linear function w · x and the loss its weighted mean, so that the gradient is the weighted mean of x:
everything can be worked out by hand.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg import ops
from kerasrl_pg.learner import Learner
from kerasrl_pg.metrics import pack_metrics, unpack_metrics
from kerasrl_pg.models import actor_critic
from kerasrl_pg.models.actor_critic import PolicyModel, layers_of
from kerasrl_pg.models.preprocessing import RunningNormalizer, ValueDenormalizer
from kerasrl_pg.strategies import number_in_cluster
from kerasrl_pg.types import Batch, Rollout

TWO = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())
REPLICAS = pytest.mark.parametrize("strategy", [None, TWO], ids=["no strategy", "2 replicas"])


class Linear:
    """The policy w · x, with w = 0."""

    def __init__(self, size):
        self.model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
        self.model.build((None, size))

    def __call__(self, observation, training=False):
        return self.model(observation)[:, 0]  # [B, 1] -> [B]

    @property
    def weights(self):
        return self.model.weights[0].numpy()[:, 0]


def make_learner(strategy, size, learning_rate=1.0):
    with strategy.scope() if strategy else tf.name_scope("alone"):
        policy = Linear(size)
        optimizer = keras.optimizers.SGD(learning_rate)
        optimizer.build(policy.model.trainable_variables)
    return Learner(policy, optimizer, strategy)


def make_batch(learner, observation, weight=None):
    """Per-replica batches of `observation` [T, N, size] and `weight` [T, N]."""
    observation = tf.constant(observation, tf.float32)
    zeros = tf.zeros(observation.shape[:2])
    weight = tf.ones_like(zeros) if weight is None else tf.constant(weight, tf.float32)
    batch = Batch(observation, zeros, zeros, zeros, zeros, zeros, weight)
    return learner.map(lambda own: own, batch)


@REPLICAS
def test_what_the_model_adds_to_the_loss_is_minimised_too(strategy):
    """Once, however many replicas there are: w = 1, the mean of x is 3, and the penalty 0.25 w² has the slope 0.5 w."""
    learner = make_learner(strategy, 1)
    learner.policy.model.weights[0].regularizer = keras.regularizers.L2(0.25)
    learner.policy.model.set_weights([np.ones((1, 1))])
    metrics = descend(learner, [[[1.0], [5.0]], [[2.0], [4.0]]])
    np.testing.assert_allclose(learner.policy.weights, [1 - 3 - 0.5], rtol=1e-6)
    assert metrics["loss"] == pytest.approx(3 + 0.25)


def mean_output(policy, batch):
    output = policy(batch.observation, training=True)
    return ops.weighted_mean(output, batch.weight), {"first": ops.weighted_mean(batch.observation[:, 0], batch.weight)}


def descend(learner, observation, weight=None, **options):
    metrics = tf.function(
        lambda: learner.descend(mean_output, make_batch(learner, observation, weight), **options), autograph=False
    )()
    return {name: float(value) for name, value in metrics.items()}


@REPLICAS
def test_a_step_follows_the_mean_gradient(strategy):
    learner = make_learner(strategy, 2)
    metrics = descend(learner, [[[3, 0], [-1, 4]]])
    np.testing.assert_allclose(learner.policy.weights, [-1, -2])
    assert metrics["gradient_norm"] == pytest.approx(5**0.5)
    assert metrics["first"] == 1


@REPLICAS
def test_clipping_bounds_the_norm_of_the_mean_gradient(strategy):
    """The mean (1, 2) is brought to norm 1. Each clipped by itself, (1, 0) and (-1, 4)/√17 would give another
    direction."""
    learner = make_learner(strategy, 2)
    metrics = descend(learner, [[[3, 0], [-1, 4]]], max_gradient_norm=1.0)
    np.testing.assert_allclose(learner.policy.weights, [-(5**-0.5), -2 * 5**-0.5], rtol=1e-6)
    assert metrics["gradient_norm"] == pytest.approx(5**0.5)  # that before clipping


@REPLICAS
def test_opposite_gradients_cancel_before_anything_is_clipped(strategy):
    """Clipped one by one, 5 and -3 would both become 1 and cancel; their mean, 1, is within the bound."""
    learner = make_learner(strategy, 1)
    assert descend(learner, [[[5.0], [-3.0]]], max_gradient_norm=1.0)["gradient_norm"] == 1
    np.testing.assert_allclose(learner.policy.weights, [-1])


@REPLICAS
def test_a_gradient_within_the_bound_is_left_alone(strategy):
    learner = make_learner(strategy, 2)
    descend(learner, [[[3, 0], [-1, 4]]], max_gradient_norm=100.0)
    np.testing.assert_allclose(learner.policy.weights, [-1, -2])


@REPLICAS
def test_steps_count_alike_however_unevenly_the_valid_ones_are_spread(strategy):
    """Three valid steps on one replica and one on the other: their mean is over four, not over two means."""
    learner = make_learner(strategy, 1)
    observation = [[[1.0], [100.0]], [[2.0], [100.0]], [[3.0], [100.0]], [[100.0], [6.0]]]
    weight = [[1, 0], [1, 0], [1, 0], [0, 1]]
    metrics = descend(learner, observation, weight)
    np.testing.assert_allclose(learner.policy.weights, [-(1 + 2 + 3 + 6) / 4])
    assert metrics["first"] == pytest.approx(3)


@REPLICAS
def test_a_batch_without_any_valid_step_changes_nothing(strategy):
    learner = make_learner(strategy, 1)
    descend(learner, [[[1.0], [2.0]]], [[0, 0]], max_gradient_norm=1.0)
    assert learner.policy.weights.tolist() == [0]


def test_a_weight_that_the_loss_does_not_use_is_left_alone():
    learner = make_learner(None, 2)
    unused = keras.layers.Dense(1)
    unused.build((None, 2))
    learner.policy.model.unused = unused
    before = unused.kernel.numpy()
    descend(learner, [[[3, 0], [-1, 4]]])
    np.testing.assert_array_equal(unused.kernel, before)
    np.testing.assert_allclose(learner.policy.weights, [-1, -2])


@REPLICAS
def test_elements_are_bounded_after_the_mean_over_replicas(strategy):
    """The mean is (1, 2). Each clipped by itself, (1.5, 0) and (-1, 1.5) would have a mean of (0.25, 0.75)."""
    learner = make_learner(strategy, 2)
    metrics = descend(learner, [[[3, 0], [-1, 4]]], max_gradient_value=1.5)
    np.testing.assert_allclose(learner.policy.weights, [-1, -1.5])
    assert metrics["gradient_norm"] == pytest.approx(5**0.5)


@REPLICAS
def test_figures_of_a_gradient_are_those_of_the_mean_over_replicas(strategy):
    """The mean is (1, 2), to which the replicas come with (3, 0) and (-1, 4)."""
    learner = make_learner(strategy, 2)
    batch = make_batch(learner, [[[3, 0], [-1, 4]]])
    figures = tf.function(lambda: learner.gradient_statistics(mean_output, batch), autograph=False)()
    assert {name: float(value) for name, value in figures.items()} == pytest.approx(
        {"rms": 2.5**0.5, "max": 2.0, "variance": 0.25}
    )
    assert learner.policy.weights.tolist() == [0, 0]


def squared_output(policy, batch):
    """Its gradient depends on w: the order of the steps shows."""
    return ops.weighted_mean(tf.square(policy(batch.observation) - 1.0) / 2, batch.weight), {
        "first": ops.weighted_mean(batch.observation[:, 0], batch.weight)
    }


@REPLICAS
def test_episodes_follow_one_another_each_summed_over_its_valid_steps(strategy):
    observation = np.random.default_rng(0).normal(size=(3, 4, 2))  # [T, N, size]
    weight = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0]])
    learner = make_learner(strategy, 2, learning_rate=0.2)
    batch = make_batch(learner, observation, weight)
    metrics = tf.function(lambda: learner.descend_episodes(squared_output, batch), autograph=False)()

    w, losses, norms = np.zeros(2), [], []
    for episode in range(4):
        steps = observation[:, episode][weight[:, episode] == 1]  # [steps, size]
        error = steps @ w - 1.0
        losses.append(np.sum(error**2) / 2)
        norms.append(np.linalg.norm(error @ steps))
        w -= 0.2 * error @ steps
    np.testing.assert_allclose(learner.policy.weights, w, rtol=1e-5)
    assert float(metrics["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(metrics["gradient_norm"]) == pytest.approx(np.mean(norms), rel=1e-5)
    firsts = (observation[..., 0] * weight).sum(axis=0) / weight.sum(axis=0)
    assert float(metrics["first"]) == pytest.approx(firsts.mean(), rel=1e-5)
    assert keras.ops.convert_to_numpy(learner.optimizer.iterations) == 4


@REPLICAS
def test_each_episodes_gradient_is_bounded(strategy):
    learner = make_learner(strategy, 1)
    batch = make_batch(learner, [[[3.0], [-5.0]], [[4.0], [-6.0]]])
    tf.function(lambda: learner.descend_episodes(mean_output, batch, max_gradient_value=2.5), autograph=False)()
    assert learner.policy.weights.tolist() == [0]  # -2.5, then +2.5: without the bound -7 and +11


T, N, MINIBATCHES, EPOCHS = 8, 2, 4, 2


def make_tracer(strategy):
    """From a seed to who was in which minibatch: [epochs, T, N].

    Row i reports 2ᵏ from gradient step k, which the optimizer counts: the sum over the steps, in binary, tells in which
    steps it took part.
    """
    learner = make_learner(strategy, T * N)
    rows = np.eye(T * N).reshape(T, N, T * N)  # [T, N, row]
    first = tf.Variable(0, dtype=tf.int64)

    def presence(policy, batch):
        loss, _ = mean_output(policy, batch)
        step = tf.cast(tf.convert_to_tensor(learner.optimizer.iterations), tf.int64) - first
        marks = 2.0 ** tf.cast(step, tf.float32) * tf.reduce_sum(batch.observation, axis=0)  # [row]
        return loss, {f"{row:02}": marks[row] for row in range(T * N)}

    @tf.function(autograph=False)
    def trace(seed):
        return learner.descend_minibatches(
            presence, make_batch(learner, rows), epochs=EPOCHS, num_minibatches=MINIBATCHES, seed=seed
        )

    def minibatches(seed):
        first.assign(tf.cast(tf.convert_to_tensor(learner.optimizer.iterations), tf.int64))
        metrics = trace(tf.constant([seed, 0]))
        means = np.array([float(metrics[f"{row:02}"]) for row in range(T * N)])
        sums = np.round(means * EPOCHS * MINIBATCHES * learner.num_replicas).astype(int)
        took_part = sums[:, None] >> np.arange(EPOCHS * MINIBATCHES) & 1  # [row, step]
        took_part = took_part.reshape(T, N, EPOCHS, MINIBATCHES)
        assert (took_part.sum(axis=-1) == 1).all()  # every step of experience exactly once in every epoch
        return np.moveaxis(took_part.argmax(axis=-1), -1, 0)  # [T, N, epochs] -> [epochs, T, N]

    return minibatches


@pytest.fixture(scope="module")
def minibatches():
    return make_tracer(None)


def test_every_minibatch_has_equally_many_steps_of_every_environment(minibatches):
    for epoch in minibatches(0):
        for minibatch in range(MINIBATCHES):
            assert (epoch == minibatch).sum(axis=0).tolist() == [T // MINIBATCHES] * N


def test_every_epoch_shuffles_anew(minibatches):
    first, second = minibatches(0)
    assert (first != second).any()


def test_environments_are_shuffled_independently(minibatches):
    assert (minibatches(0)[:, :, 0] != minibatches(0)[:, :, 1]).any()


def test_the_seed_decides(minibatches):
    np.testing.assert_array_equal(minibatches(5), minibatches(5))
    assert (minibatches(5) != minibatches(6)).any()


def test_minibatches_are_mixed_over_time(minibatches):
    """Every time is as likely as any other in every minibatch: chi² of 8 x 4 counts, 21 degrees of freedom."""
    where = np.concatenate([minibatches(seed) for seed in range(100)])  # [epochs, T, N]
    counts = np.array([(where == minibatch).sum(axis=(0, 2)) for minibatch in range(MINIBATCHES)])  # [minibatch, T]
    expected = where.size / (T * MINIBATCHES)
    assert np.sum((counts - expected) ** 2 / expected) < 46.8  # p = 0.001


def test_minibatches_do_not_depend_on_the_number_of_replicas(minibatches):
    two = make_tracer(TWO)
    for seed in range(3):
        np.testing.assert_array_equal(two(seed), minibatches(seed))


@pytest.mark.parametrize("last", [0, 2, 3, 5])
@REPLICAS
def test_stop_ends_the_loop_after_the_step_that_asks_for_it(strategy, last):
    learner = make_learner(strategy, 1, learning_rate=0.0)

    def counting(policy, batch):
        loss, metrics = mean_output(policy, batch)
        return loss, {**metrics, "step": tf.cast(tf.convert_to_tensor(learner.optimizer.iterations), tf.float32)}

    metrics = tf.function(
        lambda: learner.descend_minibatches(
            counting, make_batch(learner, np.ones((T, N, 1))), epochs=3, num_minibatches=MINIBATCHES,
            seed=tf.constant([0, 0]), stop=lambda metrics: metrics["step"] >= last,
        ),
        autograph=False,
    )()  # fmt: skip
    assert keras.ops.convert_to_numpy(learner.optimizer.iterations) == last + 1
    assert float(metrics["gradient_steps"]) == last + 1
    assert float(metrics["step"]) == last / 2  # the mean of 0, 1, ... over the steps that were taken
    assert float(metrics["gradient_norm"]) == 1


@REPLICAS
def test_a_mean_is_over_all_environments(strategy):
    learner = make_learner(strategy, 1)
    batch = make_batch(learner, [[[1.0], [4.0]], [[2.0], [5.0]]])
    metrics = learner.mean(lambda own: {"mean": tf.reduce_mean(own.observation)}, batch)
    assert float(metrics["mean"]) == 3


@REPLICAS
def test_running_statistics_are_those_of_all_valid_steps_so_far(strategy):
    box = spaces.Box(-np.inf, np.inf, (3,))
    with strategy.scope() if strategy else tf.name_scope("alone"):
        model = actor_critic(box, spaces.Discrete(2), normalize_observation=True, normalize_value=True)
        optimizer = keras.optimizers.SGD(0.1)
    learner = Learner(PolicyModel(model, box, spaces.Discrete(2)), optimizer, strategy)
    rng = np.random.default_rng(0)
    seen, targets = [], []
    for _ in range(3):
        observation = rng.normal(5, 2, (6, 4, 3)).astype(np.float32)
        target = rng.normal(-30, 7, (6, 4)).astype(np.float32)
        valid = rng.random((6, 4)) < [0.2, 0.9, 0.5, 1.0]  # unevenly spread over the environments
        seen.append(observation[valid])
        targets.append(target[valid])
        zeros = tf.zeros((6, 4))
        rollout = Rollout(tf.constant(observation), zeros, zeros, zeros, zeros, zeros, zeros, zeros, tf.constant(valid))
        weight = tf.cast(valid, tf.float32)
        batch = Batch(tf.constant(observation), zeros, zeros, zeros, zeros, tf.constant(target), weight)
        learner.update_observation_statistics(rollout)
        learner.update_value_statistics(learner.map(lambda own: own, batch))
    (observed,), (valued,) = layers_of(model, RunningNormalizer), layers_of(model, ValueDenormalizer)
    for layer, samples in ((observed, np.concatenate(seen)), (valued, np.concatenate(targets))):
        np.testing.assert_allclose(layer.mean, samples.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(layer.variance, samples.var(axis=0), rtol=1e-4)
        assert keras.ops.convert_to_numpy(layer.count) == len(samples)


@REPLICAS
def test_running_statistics_of_images_are_of_each_pixel(strategy):
    box = spaces.Box(0, 255, (4, 8, 9), np.uint8)
    with strategy.scope() if strategy else tf.name_scope("alone"):
        model = actor_critic(box, spaces.Discrete(2), trunk=keras.layers.Flatten(), normalize_observation=True)
        optimizer = keras.optimizers.SGD(0.1)
    learner = Learner(PolicyModel(model, box, spaces.Discrete(2)), optimizer, strategy)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 4, 4, 8, 9), np.uint8)
    valid = rng.random((6, 4)) < [0.2, 0.9, 0.5, 1.0]
    zeros = tf.zeros((6, 4))
    rollout = Rollout(tf.constant(pixels), zeros, zeros, zeros, zeros, zeros, zeros, zeros, tf.constant(valid))
    tf.function(learner.update_observation_statistics)(rollout)
    (layer,) = layers_of(model, RunningNormalizer)
    images = np.moveaxis(pixels[valid], 1, -1) / 255
    np.testing.assert_allclose(layer.mean, images.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(layer.variance, images.var(axis=0), rtol=1e-4)
    assert keras.ops.convert_to_numpy(layer.count) == valid.sum()


@pytest.mark.parametrize(("task_type", "numbers"), [("chief", [0]), ("worker", [1, 2])])
def test_every_process_has_a_number_of_its_own_the_chief_the_first(task_type, numbers):
    cluster = tf.train.ClusterSpec({"chief": ["a:1"], "worker": ["b:1", "c:1"]})
    resolvers = [
        tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, task_type=task_type, task_id=task)
        for task in range(len(numbers))
    ]
    assert [number_in_cluster(resolver) for resolver in resolvers] == numbers


def test_metrics_pass_through_a_loop_as_one_row():
    names: list[str] = []
    row = pack_metrics({"loss": tf.constant(2.0), "entropy": tf.constant(1)}, names)
    assert {name: float(value) for name, value in unpack_metrics(row, names).items()} == {"entropy": 1, "loss": 2}


@REPLICAS
def test_figures_of_a_gradient_are_of_valid_steps(strategy):
    learner = make_learner(strategy, 2)
    batch = make_batch(learner, [[[3, 0], [-1, 4]], [[9, 9], [9, 9]]], [[1, 1], [0, 0]])
    figures = tf.function(lambda: learner.gradient_statistics(mean_output, batch), autograph=False)()
    assert {name: float(value) for name, value in figures.items()} == pytest.approx(
        {"rms": 2.5**0.5, "max": 2.0, "variance": 0.25}
    )
