"""One gradient step, on one device or on many: tape, all-reduce, clip, apply.

`Learner` is the only object that holds trainable state; beside it only `q_learner.py` and the sums of
`ops/statistics.py` compute under a `tf.distribute` strategy. An algorithm's `update` runs in cross-replica context;
what it does per replica goes through `map`, `descend` and `descend_minibatches`. Every replica learns from its share of
the environments, and the result does not depend on how many replicas there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerasrl_pg import ops, seeding
from kerasrl_pg.any_optimizer import gradients_seen_by, learning_rate_of
from kerasrl_pg.metrics import MOST_METRICS, pack_metrics, unpack_metrics
from kerasrl_pg.models.actor_critic import layers_of, with_own_losses
from kerasrl_pg.models.fusion import by_xla, encoders_of_normalizers, is_known_to_xla
from kerasrl_pg.models.preprocessing import ValueDenormalizer
from kerasrl_pg.strategies import num_workers, number_in_cluster
from kerasrl_pg.types import Batch, Metrics, Rollout

Loss = Callable[[Any, Batch], tuple[tf.Tensor, Metrics]]
"""`loss(policy, batch) -> (scalar to minimise, metrics)`: means over the batch, weighted by `batch.weight`.

What averages over replicas, as `ops.normalize` does, comes before the model's call: while a replica waits for the
others they call the same layers, which remember only what they added to the loss of the last call.
"""


class Learner:
    """A policy, its optimizer and the strategy that spreads a gradient step over devices.

    Args:
        policy: `policy(observation, training) -> (distribution, value)`; `policy.model` is the Keras model.
        optimizer: any `keras.optimizers.Optimizer`.
        strategy: a `tf.distribute` strategy under whose scope model and optimizer were made; None for one device.
    """

    def __init__(
        self,
        policy: Any,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self.policy = policy
        self.optimizer = optimizer
        self.strategy = strategy
        self.num_replicas = strategy.num_replicas_in_sync if strategy else 1
        self.num_workers = num_workers(strategy)
        self.local_replicas = self.num_replicas // self.num_workers
        self._normalized = encoders_of_normalizers(policy.model)

    def map(self, fn: Callable, tree: Any) -> Any:
        """`fn` of each replica's environments.

        Args:
            fn: a function of a structure of `[T, n, ...]` tensors.
            tree: a structure of `[T, N, ...]` tensors, `n = N / replicas`.

        Returns:
            What `fn` returns: tensors, or per-replica values under a strategy.
        """
        if self.strategy is None:
            return fn(tree)
        return self.strategy.run(lambda whole: fn(tf.nest.map_structure(self._own_environments, whole)), args=(tree,))

    def descend(
        self,
        loss: Loss,
        batch: Any,
        *,
        max_gradient_norm: float | None = None,
        max_gradient_value: float | None = None,
    ) -> Metrics:
        """One gradient step on a whole batch of `[T, n, ...]` tensors (from `map`).

        Args:
            loss: see `Loss`.
            batch: a `Batch`, or per-replica Batches.
            max_gradient_norm: bound of the global norm of the gradient averaged over all replicas; None for none.
            max_gradient_value: bound of each of its elements; None for none.

        Returns:
            The loss's metrics and `gradient_norm` (before clipping), averaged over all replicas.
        """
        return self.mean_over_replicas(
            self._run(lambda own: self._step(loss, _flatten_time(own), max_gradient_norm, max_gradient_value), batch)
        )

    def descend_episodes(
        self,
        loss: Loss,
        batch: Any,
        *,
        max_gradient_norm: float | None = None,
        max_gradient_value: float | None = None,
    ) -> Metrics:
        """One gradient step per episode, in the order of the environments, each on the SUM over the episode's steps.

        The steps are the same on one device and on many, which has its price: they follow one another, so that while
        the replica that holds an episode learns from it, the others pass the same computation with weight 0.

        Args:
            loss: see `Loss`; a mean over an episode, which is multiplied by the episode's length.
            batch: a `Batch` of whole episodes `[T, n, ...]`, one per environment, or per-replica Batches.
            max_gradient_norm: see `descend`.
            max_gradient_value: see `descend`.

        Returns:
            Metrics averaged over the episodes.
        """
        names: list[str] = []
        by_episode = self._run(_episodes_first, batch)
        own = by_episode if self.strategy is None else self.strategy.experimental_local_results(by_episode)[0]
        share = own.weight.shape[0]  # n

        def own_step(own, number):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            episode = tf.nest.map_structure(lambda x: x[number % share], own)  # [T, ...]
            is_own = tf.cast(tf.equal(number // share, replica), tf.float32)
            episode = episode._replace(weight=is_own * episode.weight)
            return self._step(loss, episode, max_gradient_norm, max_gradient_value, of_sum=True)

        def step(number, total):
            metrics = self.mean_over_replicas(self._run(lambda own: own_step(own, number), by_episode))
            return number + 1, total + pack_metrics(metrics, names)

        episodes = share * self.num_replicas
        _, total = tf.while_loop(lambda number, _: number < episodes, step, (0, tf.zeros([MOST_METRICS])))
        return unpack_metrics(total / episodes, names)

    def descend_minibatches(
        self,
        loss: Loss,
        batch: Any,
        *,
        epochs: int,
        num_minibatches: int,
        seed: tf.Tensor,
        max_gradient_norm: float | None = None,
        stop: Callable[[Metrics], tf.Tensor] | None = None,
    ) -> Metrics:
        """`epochs` passes of `num_minibatches` gradient steps each.

        Every pass shuffles time within each environment, seeded by the pass and by the environment's index among all
        replicas' environments, and gives every minibatch an equal number of steps of every environment. The minibatches
        are thus the same on one device and on many.

        Args:
            loss: see `Loss`.
            batch: a `Batch` of `[T, n, ...]` tensors, or per-replica Batches.
            epochs: passes over the batch.
            num_minibatches: gradient steps a pass; divides T.
            seed: [2] int32.
            max_gradient_norm: see `descend`.
            stop: a scalar bool of one step's metrics: True ends the loop after that step.

        Returns:
            Metrics averaged over the steps taken, and `gradient_steps`, their number.
        """
        names: list[str] = []

        def step(order, minibatch, total, steps, go_on):
            def own_step(own, own_order):
                own = _flatten_time(own)
                if num_minibatches > 1:
                    chosen = own_order[minibatch]  # [B]
                    own = tf.nest.map_structure(lambda x: tf.gather(x, chosen), own)
                return self._step(loss, own, max_gradient_norm)

            metrics = self.mean_over_replicas(self._run(own_step, batch, order))
            if stop is not None:
                go_on = tf.logical_not(stop(metrics))
            return minibatch + 1, total + pack_metrics(metrics, names), steps + 1, go_on

        def epoch(number, total, steps, go_on):
            epoch_seed = seeding.fold_in(seed, number)
            order = self._run(lambda own: self._shuffle(own.weight, num_minibatches, epoch_seed), batch)
            _, total, steps, go_on = tf.while_loop(
                lambda minibatch, _total, _steps, go_on: go_on & (minibatch < num_minibatches),
                lambda minibatch, total, steps, go_on: step(order, minibatch, total, steps, go_on),
                (0, total, steps, go_on),
            )
            return number + 1, total, steps, go_on

        _, total, steps, _ = tf.while_loop(
            lambda number, _total, _steps, go_on: go_on & (number < epochs),
            epoch,
            (0, tf.zeros([MOST_METRICS]), 0, tf.constant(True)),
        )
        means = unpack_metrics(total / tf.cast(steps, tf.float32), names)
        return {**means, "gradient_steps": tf.cast(steps, tf.float32)}

    def gradient_statistics(self, loss: Loss, batch: Any) -> Metrics:
        """`ops.gradient_statistics` of a loss's gradient averaged over all replicas; nothing is learned."""

        def own_statistics(own):
            own = _flatten_time(own._replace(weight=ops.unit_mean_weight(own.weight)))
            # Neither dropout's random states nor the averages of batches move.
            with tf.GradientTape() as tape, keras.StatelessScope():
                value, _ = loss(self.policy, own)
            gradients, _ = _mean_gradients(tape, value, self.policy.model.trainable_variables)
            return ops.gradient_statistics(gradients)

        return self.mean_over_replicas(self._run(own_statistics, batch))

    def mean(self, fn: Callable[[Any], Metrics], batch: Any) -> Metrics:
        """Scalars of each replica's `[T, n, ...]` batch, averaged over all replicas."""
        return self.mean_over_replicas(self._run(fn, batch))

    def update_value_statistics(self, batch: Any) -> None:
        """Take a batch's value targets into the running statistics of a model that normalises values."""
        for layer in layers_of(self.policy.model, ValueDenormalizer):
            self._update_moments(layer, lambda own: (own.value_target, own.weight), batch, fuse=True)

    def update_observation_statistics(self, rollout: Rollout) -> None:
        """Take a rollout's observations into the running statistics of a model that normalises observations.

        Done after the gradient steps, so that acting and learning within one update see the same statistics.
        """
        for layer, encoder in self._normalized:

            def inputs_of(own, encoder=encoder):
                return _encoded(encoder, own.observation), tf.cast(own.valid, tf.float32)

            own = self.map(lambda own: own, rollout)
            self._update_moments(layer, inputs_of, own, fuse=is_known_to_xla(encoder))

    def count_steps(self, rollout: Rollout) -> tf.Tensor:
        """The environment steps in a rollout, of all replicas of all workers; scalar float32."""
        own = self.map(lambda own: tf.reduce_sum(tf.cast(own.valid, tf.float32)), rollout)
        return own if self.strategy is None else self.strategy.reduce(tf.distribute.ReduceOp.SUM, own, axis=None)

    def worker_seed(self, seed: tf.Tensor) -> tf.Tensor:
        """`seed` as it is on the first worker, another on every other: workers must not play the same episodes."""
        resolver = self.strategy.cluster_resolver if self.strategy else None
        worker = number_in_cluster(resolver) if resolver is not None and self.num_workers > 1 else 0
        return seeding.fold_in(seed, worker) if worker else seed

    def scheduled(
        self, value: float | keras.optimizers.schedules.LearningRateSchedule, at: tf.Tensor | int | None = None
    ) -> tf.Tensor:
        """A hyperparameter that may follow a schedule, at step `at`: by default the number of gradient steps so far."""
        if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
            at = tf.convert_to_tensor(gradients_seen_by(self.optimizer)) if at is None else at
            return tf.cast(value(at), tf.float32)
        return tf.constant(value, tf.float32)

    def learning_rate(self) -> tf.Tensor:
        """The optimizer's learning rate at the current number of gradient steps, float32."""
        return tf.cast(tf.convert_to_tensor(self.optimizer.learning_rate), tf.float32)

    def scale_learning_rate(self, factor: tf.Tensor, *, lowest: float, highest: float) -> None:
        """Multiply the optimizer's learning rate by `factor`, within bounds.

        Raises:
            ValueError: the optimizer's learning rate follows a schedule or a function, which leaves nothing to set.
        """
        rate = learning_rate_of(self.optimizer)
        if not isinstance(rate, keras.Variable):
            raise ValueError(
                f"adaptive_kl moves the learning rate, which must then be a number; the optimizer's follows {rate}"
            )
        rate.assign(tf.clip_by_value(tf.convert_to_tensor(rate) * factor, lowest, highest))

    def _step(
        self,
        loss: Loss,
        batch: Batch,
        max_gradient_norm: float | None = None,
        max_gradient_value: float | None = None,
        *,
        of_sum: bool = False,
    ) -> Metrics:
        samples = self.num_replicas * ops.mean_across_replicas(tf.reduce_sum(batch.weight))
        batch = batch._replace(weight=ops.unit_mean_weight(batch.weight))
        with tf.GradientTape() as tape:
            value, metrics = loss(self.policy, batch)
            value = with_own_losses(self.policy.model, value * samples if of_sum else value)
        norm = self.apply_gradient(tape, value, max_gradient_norm, max_gradient_value)
        return {"loss": value, **metrics, "gradient_norm": norm}

    def apply_gradient(
        self,
        tape: tf.GradientTape,
        loss: tf.Tensor,
        max_gradient_norm: float | None = None,
        max_gradient_value: float | None = None,
    ) -> tf.Tensor:
        """Move the weights by a replica's loss: mean over replicas, clip, apply; returns the norm before clipping."""
        gradients, learned = _mean_gradients(
            tape, loss, self.policy.model.trainable_variables, scale=self.optimizer.scale_loss(1.0)
        )
        norm = tf.linalg.global_norm(gradients)
        if max_gradient_value is not None:
            gradients = [tf.clip_by_value(gradient, -max_gradient_value, max_gradient_value) for gradient in gradients]
        if max_gradient_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, max_gradient_norm, use_norm=norm)
        # Keras sums what replicas apply, so each hands in its share of a gradient that is already the mean; and it
        # divides by the loss's scale, where an optimizer has one.
        shares = [self.optimizer.scale_loss(gradient / self.num_replicas) for gradient in gradients]
        self.optimizer.apply(shares, learned)
        return norm

    def _shuffle(self, weight: tf.Tensor, num_minibatches: int, seed: tf.Tensor) -> tf.Tensor:
        """[num_minibatches, B / num_minibatches] indices into a flattened [T, n] batch."""
        if num_minibatches == 1:  # also of whole episodes, whose length no trace knows
            return tf.range(tf.size(weight))[None]  # [1, B]
        length, own = weight.shape[0], weight.shape[1]
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        # Integers: eager, graph and XLA agree on them, which they do not on floats from the same seed.
        noise = tf.random.stateless_uniform([length, own * self.num_replicas], seed, None, None, tf.int32, alg="philox")
        noise = tf.slice(noise, [0, replica * own], [length, own])  # [T, n]
        order = tf.argsort(noise, axis=0)  # [T, n]
        return tf.reshape(order * own + tf.range(own), [num_minibatches, length * own // num_minibatches])

    def _own_environments(self, tensor: tf.Tensor) -> tf.Tensor:
        """[T, N, ...] -> [T, n, ...]: this replica's share."""
        own = tensor.shape[1] // self.local_replicas
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group % self.local_replicas
        return tf.slice(
            tensor,
            [0, replica * own] + [0] * (tensor.shape.rank - 2),
            [-1, own] + [-1] * (tensor.shape.rank - 2),
        )

    def _update_moments(self, layer: Any, values_of: Callable, batch: Any, *, fuse: bool) -> None:
        """Merge the moments of each element of `values_of(batch)`, `([T, n, ...], weight [T, n])`, into the layer's."""
        variables = layer.mean, layer.variance, layer.count

        def own_moments(own):
            # Images a step at a time, which the processor's caches hold: all at once, as floats, would fit nowhere.
            parts = tf.nest.map_structure(lambda x: x[:, None] if layer.mean.shape.rank > 1 else x[None], own)
            number = tf.shape(tf.nest.flatten(parts)[0])[0]  # S, of parts [T / S, n, ...]

            def merge(part, mean, variance, count):
                values, weight = values_of(tf.nest.map_structure(lambda x: x[part], parts))
                return part + 1, *ops.merge_moments(mean, variance, count, *ops.element_moments(values, weight))

            nothing = [tf.zeros(variable.shape) for variable in variables]
            return tf.while_loop(lambda part, *_: part < number, merge, (0, *nothing))[1:]

        own = self._run(by_xla(own_moments) if fuse and self.strategy is None else own_moments, batch)
        new = self.mean_over_replicas(self._run(ops.moments_of_replicas, *own))
        mean, variance, count = map(tf.convert_to_tensor, variables)
        merged = ops.merge_moments(mean, variance, count, new["mean"], new["variance"], new["count"])
        tf.nest.map_structure(lambda variable, value: variable.assign(value), variables, merged)

    def _run(self, fn: Callable, *arguments: Any) -> Any:
        return fn(*arguments) if self.strategy is None else self.strategy.run(fn, args=arguments)

    def mean_over_replicas(self, metrics: Any) -> Metrics:
        """Scalars by name, per replica, as their means."""
        if self.strategy is None:
            return metrics
        return {
            name: self.strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None) for name, value in metrics.items()
        }


def _flatten_time(tree: Any) -> Any:
    """[T, n, ...] -> [T n, ...]."""
    return tf.nest.map_structure(lambda x: tf.reshape(x, [-1, *x.shape[2:]]), tree)


def _episodes_first(tree: Any) -> Any:
    """[T, n, ...] -> [n, T, ...]."""
    return tf.nest.map_structure(lambda x: tf.transpose(x, [1, 0, *range(2, x.shape.rank)]), tree)


def _mean_gradients(
    tape: tf.GradientTape, loss: tf.Tensor, variables: list, *, scale: Any = 1.0
) -> tuple[list[tf.Tensor], list]:
    """The gradient of the loss averaged over all replicas, and the variables that it is of: those the loss uses.

    The backward pass goes through `scale` times the loss, of which small numbers need more; an overflow stays one.
    """
    is_scaled = tf.is_tensor(scale) or scale != 1.0
    gradients = tape.gradient(loss, variables, tf.cast(scale, loss.dtype) if is_scaled else None)
    used = [i for i, gradient in enumerate(gradients) if gradient is not None]
    # Dense, for an Embedding's gradient comes as slices, which can be neither reduced nor clipped with the others.
    own = [tf.convert_to_tensor(gradients[i]) for i in used]
    if is_scaled:
        own = [gradient / scale for gradient in own]
    return ops.mean_across_replicas(own), [variables[i] for i in used]


def _encoded(encoder: keras.Model, observation: Any) -> tf.Tensor:
    """[T, n, *observation] -> [T, n, ...]: the input of an observation normalizer, float32."""
    own = tf.nest.flatten(observation)[0].shape[1]  # n; of whole episodes, no trace knows T
    values = tf.cast(encoder(_flatten_time(observation)), tf.float32)  # [T n, ...]
    return tf.reshape(values, [-1, own, *values.shape[1:]])
