"""Policies with a value head: one Keras model, `observation -> {"policy": [B, P], "value": [B, 1]}`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg import seeding
from kerasrl_pg.models import preprocessing
from kerasrl_pg.models.encoder import default_trunk, encode, features_of, output_spec
from kerasrl_pg.models.preprocessing import ValueDenormalizer
from kerasrl_pg.models.trunks import mlp_trunk
from kerasrl_pg.ops import distributions
from kerasrl_pg.spaces import check_observation_space


def actor_critic(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    trunk: keras.Model | None = None,
    critic_trunk: keras.Model | None = None,
    head_units: Sequence[int] = (),
    normalize_observation: bool = False,
    normalize_value: bool = False,
    seed: int = 0,
) -> keras.Model:
    """A trunk with a policy head and a value head, preprocessing included.

    Args:
        observation_space: of one environment; several parts (Dict, Tuple) are encoded each and concatenated.
        action_space: of one environment.
        trunk: any Keras model without heads, `[B, ...] -> [B, features]`; None chooses a convolutional network for
            images and a 64-64 tanh perceptron for the rest.
        critic_trunk: a second trunk for the value head; None shares `trunk`.
        head_units: units of hidden ReLU layers that each head has for itself, between the trunk and its output.
        normalize_observation: standardise observations by running statistics (`RunningNormalizer`).
        normalize_value: learn standardised value targets (`ValueDenormalizer`).
        seed: integer from which the initial weights follow.

    Returns:
        A `keras.Model` from an observation batch to `{"policy": [B, P], "value": [B, 1]}`, both float32. P is
        `ops.distributions.parameter_size(action_space)`.

    Raises:
        TypeError: an observation or action space that is not supported.
        ValueError: a trunk that cannot read what the observations are encoded to, or does not return `[B, features]`.

    Example:
        >>> model = actor_critic(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), trunk=mlp_trunk((32,)))
        >>> {name: tuple(output.shape) for name, output in model(keras.ops.zeros((5, 4))).items()}
        {'policy': (5, 2), 'value': (5, 1)}
    """
    trunk_seed, policy_seed, value_seed, encoder_seed, *hidden_seeds = seeding.integers(seed, 6)
    inputs = preprocessing.observation_inputs(observation_space)
    encoded = encode(observation_space, inputs, normalize_observation, encoder_seed)
    if trunk is None:
        trunk = default_trunk(observation_space, trunk_seed)
    features = features_of(trunk, encoded)
    critic_features = features if critic_trunk is None else features_of(critic_trunk, encoded)
    if head_units:
        features, critic_features = (
            mlp_trunk(head_units, activation="relu", seed=hidden_seed)(each)  # [B, head_units[-1]]
            for each, hidden_seed in zip((features, critic_features), hidden_seeds, strict=True)
        )
    policy = _policy_head(features, action_space, policy_seed)
    value = keras.layers.Dense(
        1,
        kernel_initializer=keras.initializers.Orthogonal(1.0, seed=value_seed),
        dtype="float32",
        name="value_head",
    )(critic_features)
    if normalize_value:
        value = ValueDenormalizer(dtype="float32", name="value")(value)
    return keras.Model(inputs, {"policy": policy, "value": value}, name="actor_critic")


def default_model(observation_space: spaces.Space, action_space: spaces.Space, *, seed: int = 0) -> keras.Model:
    """The model of an algorithm that was given none: a shared conv trunk for images, else two 64-64 perceptrons.

    Two perceptrons rather than one: what Schulman et al. 2017 (section 6.1) and Stable-Baselines3 use for vectors.

    Example:
        >>> default_model(spaces.Box(-1, 1, (4,)), spaces.Discrete(2)).count_params()
        9155
    """
    actor_seed, critic_seed = seeding.integers(seed, 2)
    critic_trunk = None
    if not preprocessing.is_image(observation_space):
        critic_trunk = mlp_trunk(seed=critic_seed)
    return actor_critic(observation_space, action_space, critic_trunk=critic_trunk, seed=actor_seed)


class PolicyOutput(NamedTuple):
    """What a policy says of a batch of observations."""

    distribution: Any
    """A TensorFlow Probability distribution over actions, batch shape [B]."""
    value: tf.Tensor
    """[B] V(observation), in units of return; zeros where none is learned."""


class PolicyModel:
    """A Keras model and an action space, joined: `policy(observation) -> PolicyOutput`.

    This is all that an algorithm's loss sees of a model.

    Args:
        model: a `keras.Model` whose outputs are `{"policy": [B, P], "value": [B] or [B, 1]}`, or the pair
            `(policy, value)`, or `{"policy": ...}` alone.
        observation_space: of one environment.
        action_space: of one environment.
        learns_value: False leaves the model's value output alone.

    Raises:
        ValueError: outputs of other names, numbers or shapes.

    Example:
        >>> box, discrete = spaces.Box(-1, 1, (4,)), spaces.Discrete(2)
        >>> policy = PolicyModel(default_model(box, discrete), box, discrete)
        >>> policy(tf.zeros((5, 4))).distribution.entropy().shape
        TensorShape([5])
    """

    def __init__(
        self,
        model: keras.Model,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        learns_value: bool = True,
    ):
        check_observation_space(observation_space)
        self.model = model
        self.network: Callable[..., Any] = model  # in training with its preprocessing fused
        self.observation_space = observation_space
        self.action_space = action_space
        self.parameter_size = distributions.parameter_size(action_space)
        self.has_value = _check_outputs(model, observation_space, self.parameter_size) and learns_value

    def __call__(self, observation, training: bool = False) -> PolicyOutput:
        """The distribution and value for `[B, *observation]`; `training` turns dropout on."""
        return self._output(self.network(observation, training=training))

    def explore(self, observation, seed: tf.Tensor) -> PolicyOutput:
        """As `policy(observation, training=True)`, with dropout's masks drawn from `seed` [2] int32.

        No variable changes, so that it may stand in any compiled loop.
        """
        draws = [(state, tf.cast(draw, state.dtype)) for state, draw in _random_states(self.model, seed)]
        with keras.StatelessScope(state_mapping=draws):
            outputs = self.network(observation, training=True)
        return self._output(outputs)

    def _output(self, outputs) -> PolicyOutput:
        parameters, value = _policy_and_value(outputs)
        parameters = tf.cast(parameters, tf.float32)  # [B, P]
        batch_size = tf.shape(parameters)[0]
        value = tf.zeros([batch_size]) if not self.has_value else tf.reshape(tf.cast(value, tf.float32), [batch_size])
        value.set_shape(parameters.shape[:1])  # [B]
        return PolicyOutput(distributions.action_distribution(self.action_space, parameters), value)

    def reseed(self, seed: tf.Tensor) -> None:
        """See `models.actor_critic.reseed`."""
        reseed(self.model, seed)

    @property
    def value_scale(self) -> tf.Tensor | float:
        """Scalar by which value errors are divided: the targets' standard deviation if the model normalises them."""
        denormalizers = layers_of(self.model, ValueDenormalizer)
        return denormalizers[0].scale if denormalizers else 1.0


def with_own_losses(model: keras.Model, loss: tf.Tensor) -> tf.Tensor:
    """A scalar to minimise, with what the model's layers add: regularizers, and `add_loss` of their last call."""
    added = [tf.cast(own, tf.float32) for own in model.losses]
    return tf.add_n([loss, *added]) if added else loss


def layers_of(model: keras.Model, kind: type) -> list:
    """The layers of `model` that are of `kind`, nested models included.

    Example:
        >>> len(layers_of(default_model(spaces.Box(-1, 1, (4,)), spaces.Discrete(2)), keras.layers.Dense))
        6
    """
    return [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, kind)]


def _policy_head(features, action_space: spaces.Space, seed: int):
    size = distributions.parameter_size(action_space)
    gaussian = isinstance(action_space, spaces.Box)
    # Small first outputs: the first policy is near uniform (Andrychowicz et al. 2021).
    head = keras.layers.Dense(
        size // 2 if gaussian else size,
        kernel_initializer=keras.initializers.Orthogonal(0.01, seed=seed),
        dtype="float32",
        name="policy_mean" if gaussian else "policy",
    )(features)
    return LogStandardDeviation(dtype="float32", name="policy")(head) if gaussian else head


@keras.saving.register_keras_serializable(package="kerasrl_pg")
class LogStandardDeviation(keras.layers.Layer):
    """Appends a learned log standard deviation, the same for every observation: `[B, D] -> [B, 2 D]`.

    Source: Schulman et al. 2017, section 6.1. It starts at `initial`, in the normalised units of a bounded Box.

    Example:
        >>> LogStandardDeviation()(keras.ops.ones((1, 2))).numpy().tolist()
        [[1.0, 1.0, 0.0, 0.0]]
    """

    def __init__(self, initial: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, input_shape):
        """Create one log standard deviation per action dimension."""
        self.log_std = self.add_weight(
            name="log_std", shape=(input_shape[-1],), initializer=keras.initializers.Constant(self.initial)
        )

    def call(self, inputs):
        """Append the log standard deviation to the mean."""
        log_std = keras.ops.broadcast_to(self.log_std, keras.ops.shape(inputs))  # [B, D]
        return keras.ops.concatenate([inputs, log_std], axis=-1)  # [B, 2 D]

    def get_config(self):
        """The layer's settings, for serialization."""
        return {**super().get_config(), "initial": self.initial}


def reseed(model: keras.Model, seed: tf.Tensor) -> None:
    """Draw what layers draw while learning, such as dropout's masks, from `seed` [2] int32 from now on.

    Done before each update, of whose number the masks are then a function: a training that is resumed goes on with
    those that it would have had. All replicas of a strategy draw the same ones, each for its own samples.

    Example:
        >>> model, ones = mlp_trunk((9,), dropout=0.5), keras.ops.ones((1, 4))
        >>> draws = []
        >>> for _ in range(2):
        ...     reseed(model, tf.constant([0, 1]))
        ...     draws.append(model(ones, training=True).numpy())
        >>> bool((draws[0] == draws[1]).all())
        True
    """
    for state, draw in _random_states(model, seed):
        state.assign(tf.cast(draw, state.dtype))


def _random_states(model: keras.Model, seed: tf.Tensor) -> list[tuple[keras.Variable, tf.Tensor]]:
    """The state of every layer that draws random numbers, with a [2] seed of its own under `seed`."""
    states = [generator.state for layer in model._flatten_layers() for generator in layer._seed_generators]
    return [(state, seeding.fold_in(seed, index)) for index, state in enumerate(states)]


def _policy_and_value(outputs):
    if isinstance(outputs, dict):
        return outputs["policy"], outputs.get("value")
    return outputs


def has_heads(model: keras.Model, observation_space: spaces.Space) -> bool:
    """Whether a model is a whole policy (several outputs, or named ones) and not a trunk (one tensor).

    A model that cannot be called on observations as they are is a trunk: trunks read encoded ones.

    Args:
        model: a user's own.
        observation_space: of one environment.

    Example:
        >>> box = spaces.Box(-1, 1, (4,))
        >>> has_heads(mlp_trunk(), box), has_heads(default_model(box, spaces.Discrete(2)), box)
        (False, True)
    """
    if isinstance(model, keras.Sequential):
        return False
    if not isinstance(getattr(model, "output", None), keras.KerasTensor | None):
        return True  # functional
    try:
        # Of a copy first: asking builds a model, and a trunk must be built for encoded observations instead.
        specs = (output_spec(each, observation_space) for each in (_unbuilt_copy(model), model))
        return all(not isinstance(spec, keras.KerasTensor) for spec in specs)
    except Exception:  # whatever a user's `call` raises
        return False


def _unbuilt_copy(model: keras.Model) -> keras.Model:
    """The model anew; itself if it is built, or if its config may lack arguments of its `__init__`.

    Keras makes a config for models that define none, and silently puts defaults where there were arguments. It also
    has arguments of Keras' own in it, which a model whose `__init__` takes none cannot be given.
    """
    parameters = inspect.signature(type(model)).parameters.values()
    has_arguments = any(each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters)
    has_config = type(model).get_config is not keras.Model.get_config
    if model.built or (has_arguments and not has_config):
        return model
    if not parameters and not has_config:
        return type(model)()
    return type(model).from_config(model.get_config())


def _check_outputs(model: keras.Model, observation_space: spaces.Space, parameter_size: int) -> bool:
    """Whether the model has a value output; ValueError unless its outputs are those of a policy."""
    wanted = f'{{"policy": [B, {parameter_size}], "value": [B, 1]}}'
    if isinstance(model, keras.Sequential):
        raise ValueError(f"the model's outputs must be {wanted}; {model.name!r} is a Sequential, which has one output")
    outputs = output_spec(model, observation_space)
    shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), outputs)
    if isinstance(outputs, dict):
        good_names = "policy" in outputs and set(outputs) <= {"policy", "value"}
    else:
        good_names = isinstance(outputs, list | tuple) and len(outputs) == 2
    if not good_names:
        raise ValueError(f"the model's outputs must be {wanted}; {model.name!r} returns shapes {shapes} for B = 2")
    policy, value = _policy_and_value(outputs)
    good_value = value is None or tuple(value.shape) in ((2,), (2, 1))
    if tuple(policy.shape) != (2, parameter_size) or not good_value:
        raise ValueError(f"the model's outputs must be {wanted}; {model.name!r} returns shapes {shapes} for B = 2")
    return value is not None
