"""Policies as files that act without this package: SavedModel, LiteRT and ONNX.

`export_policy` writes a directory that holds the model and `metadata.json`:

| format | the model | loaded with |
|---|---|---|
| `saved_model` | the directory itself | `tf.saved_model.load(path)`, TensorFlow Serving |
| `litert` | `policy.tflite` | `tf.lite.Interpreter`, `ai_edge_litert` |
| `onnx` | `policy.onnx` | `onnxruntime.InferenceSession` |

Inputs and outputs are named and the batch dimension B is free. A single observation tensor is called
`observation`; the parts of a Dict or Tuple are called by their path (`position`, `goal_x`, `observation_0`).
`metadata.json` lists each with its dtype and shape. The signature `serving_default` takes the most probable
action:

| output | of | |
|---|---|---|
| `action` | all | [B, *action] in the environment's units and within its bounds |
| `value` | algorithms that learn values | [B] V(observation) |
| `action_values` | DQN, NFQ | [B, A] Q(observation, ·), the first of action `start`; `value` is the largest |
| `probabilities` | Discrete | [B, A], the first of action `start` |
| | MultiDiscrete | [B, *choices, largest number of actions], 0 for those that a choice does not have |
| | MultiBinary | [B, *bits], of a 1 |
| `mean`, `std` | Box | [B, *action] of the Gaussian, in the environment's units, before clipping |

A SavedModel also has the signature `sample`, which draws the action: it takes one more input, `seed`, two
int32, and the same seed draws the same action. Of action values it draws ε-greedily, with the last exploration
rate of its schedule. The other formats leave drawing to their user, who has `probabilities`, `mean` and `std`, or
`action_values`.

A model that learned in a lower precision (`mixed_bfloat16`) is exported in float32, in which its weights are
kept and in which every machine can compute; its action may differ from the agent's where two are nearly as
good as each other. LiteRT knows no float64, so no Box actions of that type.

Load only what you trust: all three are programs, and a SavedModel can read and write files.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg.exported_policy import MODEL_FILES, READERS, named_inputs, named_leaves, require_for_onnx
from kerasrl_pg.models.actor_critic import PolicyModel, layers_of
from kerasrl_pg.models.encoder import output_spec
from kerasrl_pg.models.q_network import QPolicy
from kerasrl_pg.ops import distributions
from kerasrl_pg.spaces import as_batch, space_to_json, tensor_dtype, unflatten

TOLERANCE = 1e-4
"""Relative and absolute: how far outputs may lie from the policy's own; float32 rounds far below it."""

LOW_PRECISION = {"bfloat16", "float16", "mixed_bfloat16", "mixed_float16"}
"""Dtypes and Keras' dtype policies."""

Policy = PolicyModel | QPolicy


def export_policy(
    policy: Policy,
    path: str | os.PathLike,
    *,
    observations: Any,
    metadata: dict[str, Any],
    format: str = "saved_model",
) -> pathlib.Path:
    """Write a policy for use without this package, and check that what was written acts as the policy does.

    Args:
        policy: what to export.
        path: of a directory that does not exist yet; it appears whole or not at all.
        observations: real ones, `[B, *observation]`, on which what was written is compared with `policy`.
        metadata: for `metadata.json`, anything that JSON can hold: environment, protocol, algorithm, steps...
        format: "saved_model", "litert" or "onnx" (which needs the extra `onnx`).

    Returns:
        The path.

    Raises:
        FileExistsError: there is something at `path`.
        ImportError: the format needs packages that are not installed.
        RuntimeError: the policy's outputs are not finite, or what was written gives others than the policy.
        TypeError: JSON cannot hold `metadata`.
        ValueError: an unknown format, no observations, observations of another shape than the space's,
            metadata under a name that export itself writes, or a path that TensorFlow cannot read from.

    Example:
        >>> import tempfile
        >>> from kerasrl_pg.models import actor_critic
        >>> box, discrete = spaces.Box(-1, 1, (4,)), spaces.Discrete(2)
        >>> policy = PolicyModel(actor_critic(box, discrete), box, discrete)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = export_policy(policy, directory + "/policy", observations=np.ones((3, 4)), metadata={})
        ...     served = tf.saved_model.load(path).signatures["serving_default"](observation=tf.ones((7, 4)))
        ...     {name: tuple(output.shape) for name, output in sorted(served.items())}
        {'action': (7,), 'probabilities': (7, 2), 'value': (7,)}
    """
    path = pathlib.Path(path)
    check_possible(path, format)
    policy = _in_float32(policy)
    batch, _ = as_batch(policy.observation_space, observations)
    expected = _expected_outputs(policy, batch)
    description = _to_json(_describe(policy, expected, metadata, format))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    scratch.mkdir()
    try:
        (scratch / "metadata.json").write_text(description)
        _check_same(policy.action_space, expected, _write_and_run(policy, format, scratch, batch))
        os.replace(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path


def check_possible(path: pathlib.Path, format: str) -> None:
    """All that can be known to fail before any work."""
    if format not in MODEL_FILES:
        raise ValueError(f"format must be one of {list(MODEL_FILES)}, got {format!r}")
    if format == "saved_model" and set("*?[") & set(str(path)):
        raise ValueError(f"TensorFlow takes *, ? and [ in {path} for a pattern and would not find the SavedModel")
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already: choose another path, or remove it first")
    if format == "onnx":
        require_for_onnx("tf2onnx", "onnx", "onnxruntime")


def _in_float32(policy: Policy) -> Policy:
    """The policy itself or, if its model computes in a lower precision, a copy that does not."""
    model = policy.model
    if not any(layer.compute_dtype in LOW_PRECISION for layer in (model, *layers_of(model, keras.Layer))):
        return policy
    try:
        precise = copy.copy(policy)
        precise.model = precise.network = _copy_in_float32(model)
        output_spec(precise.model, policy.observation_space)  # builds a subclassed model
        precise.model.set_weights(model.get_weights())
    except Exception as error:  # whatever a user's `__init__` raises; weights of other shapes
        raise ValueError(
            f"an export computes in float32, and {model.name!r} cannot be copied to it: let its __init__ take **kwargs "
            "and give it a get_config, make all layers of the dtype policy that it is given, or train in float32"
        ) from error
    return precise


def _copy_in_float32(model: keras.Model) -> keras.Model:
    config = keras.tree.map_structure(
        lambda value: "float32" if isinstance(value, str) and value in LOW_PRECISION else value,
        model.get_config(),
    )
    own = {type(layer).__name__: type(layer) for layer in layers_of(model, keras.Layer)}
    with keras.saving.custom_object_scope(own):
        return type(model).from_config(config)


def _outputs(policy: Policy, observation: Any, choose: Callable[[Any], tf.Tensor]) -> dict[str, tf.Tensor]:
    """What an export puts out, by name, where `choose` takes an action from the distribution."""
    distribution, value = policy(observation)
    outputs = {
        "action": distributions.to_environment(policy.action_space, choose(distribution)),
        **_parameters(policy.action_space, distribution),
    }
    return {**outputs, "value": value} if policy.has_value else outputs


def _parameters(space: Any, distribution: Any) -> dict[str, tf.Tensor]:
    """The distribution in numbers that need no explanation of the policy's own units."""
    if isinstance(distribution, distributions.EpsilonGreedy):
        return {"action_values": distribution.action_values}
    shape = space.shape or ()
    match space:
        case spaces.Discrete():
            return {"probabilities": distribution.probs_parameter()}
        case spaces.MultiDiscrete():
            probabilities = distribution.distribution.probs_parameter()  # [B, K, max n]
            return {"probabilities": tf.reshape(probabilities, [-1, *shape, space.nvec.max()])}
        case spaces.MultiBinary():
            return {"probabilities": tf.reshape(distribution.distribution.probs_parameter(), [-1, *shape])}
        case _:  # Box: PolicyModel has turned away everything else
            center, half_width = distributions.box_units(space)
            mean = tf.cast(tf.reshape(distribution.loc, [-1, *shape]), space.dtype)  # [B, D] -> [B, *shape]
            std = tf.reshape(distribution.scale.diag_part(), [-1, *shape])  # [B, D] -> [B, *shape]
            return {"mean": center + half_width * mean, "std": half_width * tf.cast(std, space.dtype)}


def _expected_outputs(policy: Policy, batch: Any) -> dict[str, np.ndarray]:
    """The outputs as the policy itself gives them, its action chosen as an agent chooses it."""
    observation = tf.nest.map_structure(tf.constant, batch)
    outputs = _outputs(policy, observation, lambda distribution: distribution.mode())
    expected = {name: output.numpy() for name, output in outputs.items()}
    if len(expected["action"]) == 0:
        raise ValueError("observations must hold at least one observation, to check the export on")
    for name, output in expected.items():
        if not np.isfinite(output).all():
            raise RuntimeError(f"the policy's {name!r} is not finite on the observations: its weights have diverged?")
    return expected


def _describe(policy: Policy, outputs: dict[str, np.ndarray], metadata: dict[str, Any], format: str) -> dict[str, Any]:
    known = {
        "format": format,
        "observation_space": space_to_json(policy.observation_space),
        "action_space": space_to_json(policy.action_space),
        "inputs": [
            {
                "name": name,
                "path": path,
                "dtype": tensor_dtype(leaf).name,
                "shape": [None, *(leaf.shape or ())],
            }
            for name, (path, leaf) in named_leaves(policy.observation_space).items()
        ],
        "outputs": [
            {"name": name, "dtype": output.dtype.name, "shape": [None, *output.shape[1:]]}
            for name, output in outputs.items()
        ],
        "versions": {
            "kerasrl_pg": _package_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    if clash := sorted(metadata.keys() & known.keys()):
        raise ValueError(f"metadata must not hold {clash}: export writes these itself")
    return {**metadata, **known}


def _to_json(description: dict[str, Any]) -> str:
    try:
        return json.dumps(description, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata must be what JSON can hold: {error}") from error


def _package_version() -> str:
    try:
        return importlib.metadata.version("kerasrl-pg")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # run from its sources


def _signature(policy: Policy) -> dict[str, tf.TensorSpec]:
    return {
        name: tf.TensorSpec([None, *(leaf.shape or ())], tensor_dtype(leaf), name)
        for name, (_, leaf) in named_leaves(policy.observation_space).items()
    }


def _greedy(policy: Policy) -> tf.types.experimental.GenericFunction:
    """`serving_default`: a dict of inputs by name to a dict of outputs by name."""

    def mode(distribution):
        # Neither LiteRT nor ONNX knows the operations of a Gaussian's own `mode`.
        return distribution.loc if isinstance(policy.action_space, spaces.Box) else distribution.mode()

    @tf.function(input_signature=[_signature(policy)], autograph=False)
    def greedy(inputs):
        return _outputs(policy, _observation(policy, inputs), mode)

    return greedy


def _sampled(policy: Policy) -> tf.types.experimental.GenericFunction:
    """`sample`: the same with a `seed`."""
    signature = {**_signature(policy), "seed": tf.TensorSpec([2], tf.int32, "seed")}

    @tf.function(input_signature=[signature], autograph=False)
    def sampled(inputs):
        draw = lambda distribution: distribution.sample(seed=inputs["seed"])  # noqa: E731
        return _outputs(policy, _observation(policy, inputs), draw)

    return sampled


def _observation(policy: Policy, inputs: dict[str, tf.Tensor]) -> Any:
    space = policy.observation_space
    return unflatten(space, [inputs[name] for name in named_leaves(space)])


def _write_and_run(policy: Policy, format: str, directory: pathlib.Path, batch: Any) -> dict[str, np.ndarray]:
    """The outputs of what was written, read back."""
    inputs = named_inputs(policy.observation_space, batch)
    try:
        WRITERS[format](policy, directory)
        return READERS[format](directory)(inputs, None)
    except Exception as error:  # each converter and runtime raises its own
        reason = str(error).partition("\n")[0]
        raise RuntimeError(f"this policy cannot be exported as {format!r}: {reason}") from error


def _write_saved_model(policy: Policy, directory: pathlib.Path) -> None:
    archive = keras.export.ExportArchive()
    archive.track(policy.model)
    for name, function in (("serving_default", _greedy(policy)), ("sample", _sampled(policy))):
        function.get_concrete_function()  # traced now: the archive takes functions that have been
        archive.add_endpoint(name, function)
    archive.write_out(directory, verbose=False)


def _write_litert(policy: Policy, directory: pathlib.Path) -> None:
    space = policy.action_space
    if isinstance(space, spaces.Box) and space.dtype != np.float32:
        raise TypeError(f"LiteRT has float32 actions only, not those of {space}")
    # By way of a SavedModel: from the function itself the converter may lose the weights, and says nothing.
    with tempfile.TemporaryDirectory() as saved_model:
        _write_saved_model(policy, pathlib.Path(saved_model))
        converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=["serving_default"])
        (directory / MODEL_FILES["litert"]).write_bytes(converter.convert())


def _write_onnx(policy: Policy, directory: pathlib.Path) -> None:
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(_greedy(policy), input_signature=[_signature(policy)])
    (directory / MODEL_FILES["onnx"]).write_bytes(model.SerializeToString())


WRITERS = {"saved_model": _write_saved_model, "litert": _write_litert, "onnx": _write_onnx}


def _check_same(action_space: spaces.Space, expected: dict[str, np.ndarray], actual: dict[str, np.ndarray]) -> None:
    for name, wanted in expected.items():
        got = actual[name]
        tie = _is_tie(action_space, expected) if name == "action" else np.False_
        if got.shape != wanted.shape or not (np.isclose(got, wanted, TOLERANCE, TOLERANCE) | tie).all():
            raise RuntimeError(
                f"the export was given up: its {name!r} differs from the policy's on the observations, "
                f"{got.ravel()[:4]}... for {wanted.ravel()[:4]}..."
            )


def _is_tie(action_space: spaces.Space, outputs: dict[str, np.ndarray]) -> np.ndarray | np.bool_:
    """Where the two best actions are so close that rounding may choose either, in the action's shape."""
    if "action_values" in outputs:
        best, second = _two_largest(outputs["action_values"])
        return best - second < 2 * TOLERANCE * (1 + np.abs(best))
    if "probabilities" not in outputs:
        return np.False_  # Box
    probabilities = outputs["probabilities"]
    if isinstance(action_space, spaces.MultiBinary):
        return np.abs(2 * probabilities - 1) < 2 * TOLERANCE
    best, second = _two_largest(probabilities)
    return best - second < 2 * TOLERANCE


def _two_largest(of_actions: np.ndarray) -> tuple[np.ndarray, np.ndarray | float]:
    """[B, *action, A] -> twice [B, *action]; a choice of one action has no second: its tie is with 0."""
    ordered = np.sort(of_actions, axis=-1)
    return ordered[..., -1], ordered[..., -2] if ordered.shape[-1] > 1 else 0.0
