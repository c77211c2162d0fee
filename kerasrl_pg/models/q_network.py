"""Action-value networks: one Keras model, `observation -> {"action_values": [B, A]}`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg import ops, seeding
from kerasrl_pg.models import preprocessing
from kerasrl_pg.models.actor_critic import PolicyOutput, reseed
from kerasrl_pg.models.encoder import default_trunk, encode, features_of, output_spec
from kerasrl_pg.models.trunks import mlp_trunk
from kerasrl_pg.spaces import check_observation_space


def q_network(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    trunk: keras.Model | None = None,
    seed: int = 0,
) -> keras.Model:
    """A trunk with one output per action, preprocessing included.

    Source: Mnih et al. 2015 (Nature 518, Methods).

    Args:
        observation_space: of one environment; several parts (Dict, Tuple) are encoded each and concatenated.
        action_space: of one environment, Discrete.
        trunk: any Keras model without heads, `[B, ...] -> [B, features]`; None chooses a convolutional network for
            images and a 64-64 ReLU perceptron for the rest.
        seed: integer from which the initial weights follow.

    Returns:
        A `keras.Model` from an observation batch to `{"action_values": [B, A]}`, float32.

    Raises:
        TypeError: an observation space that is not supported, or an action space that is not Discrete.
        ValueError: a trunk that cannot read what the observations are encoded to, or does not return `[B, features]`.

    Example:
        >>> model = q_network(spaces.Box(-1, 1, (4,)), spaces.Discrete(3))
        >>> model(keras.ops.zeros((5, 4)))["action_values"].shape
        TensorShape([5, 3])
    """
    inputs, features, head_seeds = _trunk(observation_space, trunk, seed, num_heads=1)
    action_values = _head(_num_actions(action_space), head_seeds[0])(features)
    return keras.Model(inputs, {"action_values": action_values}, name="q_network")


def dueling_q_network(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    trunk: keras.Model | None = None,
    baseline: str = "mean",
    seed: int = 0,
) -> keras.Model:
    """A trunk with two heads, the state's value and each action's advantage: Q = V + (A - baseline of A).

    Source: Wang et al. 2016 (arXiv:1511.06581): eq. 9 subtracts the mean of the advantages, eq. 8 their maximum.

    Args:
        observation_space: as in `q_network`.
        action_space: as in `q_network`.
        trunk: as in `q_network`.
        baseline: "mean" or "max".
        seed: integer from which the initial weights follow.

    Returns:
        A model with the outputs of `q_network`.

    Raises:
        TypeError: as in `q_network`.
        ValueError: another `baseline`, or a trunk that does not fit.

    Example:
        >>> model = dueling_q_network(spaces.Box(-1, 1, (4,)), spaces.Discrete(3), baseline="max")
        >>> model(keras.ops.zeros((5, 4)))["action_values"].shape
        TensorShape([5, 3])
    """
    inputs, features, (value_seed, advantage_seed) = _trunk(observation_space, trunk, seed, num_heads=2)
    value, advantage = _head(1, value_seed)(features), _head(_num_actions(action_space), advantage_seed)(features)
    action_values = DuelingAggregation(baseline, dtype="float32", name="action_values")([value, advantage])
    return keras.Model(inputs, {"action_values": action_values}, name="dueling_q_network")


@keras.saving.register_keras_serializable(package="kerasrl_pg")
class DuelingAggregation(keras.layers.Layer):
    """Action values from a value `[B, 1]` and advantages `[B, A]`; see `dueling_q_network`.

    Example:
        >>> value, advantage = keras.ops.array([[1.0]]), keras.ops.array([[0.0, 2.0]])
        >>> [DuelingAggregation(name)([value, advantage]).numpy().tolist() for name in ("mean", "max")]
        [[[0.0, 2.0]], [[-1.0, 1.0]]]
    """

    BASELINES = {"mean": keras.ops.mean, "max": keras.ops.max}  # noqa: RUF012

    def __init__(self, baseline: str = "mean", **kwargs):
        super().__init__(**kwargs)
        if baseline not in self.BASELINES:
            raise ValueError(f"baseline must be one of {list(self.BASELINES)}, got {baseline!r}")
        self.baseline = baseline

    def call(self, inputs):
        """`[value, advantage]` to action values."""
        value, advantage = inputs
        return value + advantage - self.BASELINES[self.baseline](advantage, axis=-1, keepdims=True)  # [B, A]

    def get_config(self):
        """The layer's settings, for serialization."""
        return {**super().get_config(), "baseline": self.baseline}


class QPolicy:
    """A Keras model of action values as a policy: the best action, or any with probability ε.

    It is to value-based algorithms what `PolicyModel` is to policy gradients, and is called the same way.

    Args:
        model: a `keras.Model` whose output is `{"action_values": [B, A]}`.
        observation_space: of one environment.
        action_space: of one environment, Discrete.
        epsilon: exploration rate of the actions that are drawn from it once it is trained.

    Raises:
        TypeError: the action space is not Discrete.
        ValueError: outputs of other names or shapes.

    Example:
        >>> box, discrete = spaces.Box(-1, 1, (4,)), spaces.Discrete(3)
        >>> policy = QPolicy(q_network(box, discrete), box, discrete, epsilon=0.05)
        >>> policy(tf.zeros((5, 4))).value.shape
        TensorShape([5])
    """

    has_value = True

    def __init__(self, model: keras.Model, observation_space: spaces.Space, action_space: spaces.Space, epsilon: float):
        check_observation_space(observation_space)
        self.model = model
        self.observation_space = observation_space
        self.action_space = action_space
        self.epsilon = epsilon
        self.network: Callable[..., Any] = model  # in training with its preprocessing fused
        _check_output(model, observation_space, _num_actions(action_space))

    def action_values(self, observation: Any, training: bool = False) -> tf.Tensor:
        """Q(s, ·) of `[B, *observation]`: [B, A] float32, in units of return; `training` turns dropout on."""
        return tf.cast(self.network(observation, training=training)["action_values"], tf.float32)

    def __call__(self, observation: Any, training: bool = False) -> PolicyOutput:
        """The ε-greedy distribution, and the best action's value."""
        action_values = self.action_values(observation, training)
        return PolicyOutput(ops.EpsilonGreedy(action_values, self.epsilon), tf.reduce_max(action_values, axis=-1))

    def reseed(self, seed: tf.Tensor) -> None:
        """See `models.actor_critic.reseed`."""
        reseed(self.model, seed)

    def copy(self) -> QPolicy:
        """The same values by a network with variables of its own: a target network.

        Raises:
            ValueError: a subclassed model that Keras cannot copy.
        """
        try:
            model = keras.models.clone_model(self.model)
            copy = QPolicy(model, self.observation_space, self.action_space, self.epsilon)  # its check builds the model
            model.set_weights(self.model.get_weights())
        except Exception as error:  # whatever a user's `__init__` raises; weights of other shapes
            raise ValueError(
                f"the target network is a copy of the model, and {self.model.name!r} cannot be copied: let its "
                "__init__ take **kwargs and give it a get_config, register layers of your own with "
                "keras.saving.register_keras_serializable, or learn without a target network"
            ) from error
        return copy


def _trunk(observation_space: spaces.Space, trunk: keras.Model | None, seed: int, num_heads: int):
    """`(inputs, features, seeds of the heads)`."""
    trunk_seed, encoder_seed, *head_seeds = seeding.integers(seed, 2 + num_heads)
    inputs = preprocessing.observation_inputs(observation_space)
    encoded = encode(observation_space, inputs, False, encoder_seed)
    if trunk is None and preprocessing.image_shape(observation_space) is None:
        trunk = mlp_trunk(activation="relu", seed=trunk_seed)
    features = features_of(trunk or default_trunk(observation_space, trunk_seed), encoded)
    return inputs, features, head_seeds


def _head(size: int, seed: int) -> keras.layers.Dense:
    # First values near 0, where returns are, whatever the trunk puts out.
    initializer = keras.initializers.Orthogonal(0.1, seed=seed)
    return keras.layers.Dense(size, kernel_initializer=initializer, dtype="float32")


def _num_actions(action_space: spaces.Space) -> int:
    if not isinstance(action_space, spaces.Discrete):
        raise TypeError(
            f"action values are for Discrete action spaces, got {action_space}; policy gradients take others"
        )
    return int(action_space.n)


def _check_output(model: keras.Model, observation_space: spaces.Space, num_actions: int) -> None:
    outputs = output_spec(model, observation_space)
    shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), outputs)
    if shapes != {"action_values": (2, num_actions)}:
        raise ValueError(
            f'the model\'s output must be {{"action_values": [B, {num_actions}]}}; '
            f"{model.name!r} returns shapes {shapes} for B = 2"
        )
