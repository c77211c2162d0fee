"""Policies as files that act without this package: SavedModel, LiteRT and ONNX.

`export_policy` writes a directory that holds the model and `metadata.json`:

| format | the model | loaded with |
|---|---|---|
| `saved_model` | the directory itself | `tf.saved_model.load(path)`, TensorFlow Serving |
| `litert` | `policy.tflite` | `tf.lite.Interpreter`, `ai_edge_litert` |
| `onnx` | `policy.onnx` | `onnxruntime.InferenceSession` |

Inputs and outputs are named and the batch dimension B is free. A single observation tensor is called `observation`; the
parts of a Dict or Tuple are called by their path (`position`, `goal_x`, `observation_0`). `metadata.json` lists each
with its dtype and shape. The signature `serving_default` takes the most probable action:

| output | of | |
|---|---|---|
| `action` | all | [B, *action] in the environment's units and within its bounds |
| `value` | models with a value | [B] V(observation) |
| `probabilities` | Discrete | [B, A], the first of action `start` |
| | MultiDiscrete | [B, *choices, largest number of actions], 0 for those that a choice does not have |
| | MultiBinary | [B, *bits], of a 1 |
| `mean`, `std` | Box | [B, *action] of the Gaussian in the environment's units, before clipping to its bounds |

A SavedModel also has the signature `sample`, which draws the action: it takes one more input, `seed`, two int32, and the
same seed draws the same action. The other formats leave drawing to their user, who has `probabilities` or `mean` and `std`.

Load only what you trust: all three are programs, and a SavedModel can read and write files.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import shutil
import uuid
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg import seeding
from kerasrl_pg.models.actor_critic import PolicyModel
from kerasrl_pg.ops import distributions
from kerasrl_pg.spaces import (
    as_batch,
    flatten,
    leaf_paths,
    space_from_json,
    space_to_json,
    tensor_dtype,
    unflatten,
)

MODEL_FILES = {"saved_model": "saved_model.pb", "litert": "policy.tflite", "onnx": "policy.onnx"}
"""By format, the file without which a directory is no export."""

TOLERANCE = 1e-4
"""Relative and absolute: how far probabilities and values may lie from the original's. Rounding is far below it."""

NOT_INPUTS = {"seed", "action", "value", "probabilities", "mean", "std"}
"""Taken in a signature; ONNX has one set of names for inputs and outputs."""

Run = Callable[[dict[str, np.ndarray], np.ndarray | None], dict[str, np.ndarray]]
"""A loaded model: inputs by name, and a [2] int32 seed to sample with or None for the greedy action, to outputs."""


def export_policy(
    policy: PolicyModel,
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
        metadata: anything that JSON can hold, for `metadata.json`: environment, protocol, algorithm, steps, ...
        format: "saved_model", "litert" or "onnx" (which needs the extra `onnx`).

    Returns:
        The path.

    Raises:
        FileExistsError: there is something at `path`.
        ImportError: the format needs packages that are not installed.
        RuntimeError: the policy's outputs are not finite, or what was written gives others than the policy.
        TypeError: JSON cannot hold `metadata`.
        ValueError: an unknown format, no observations, observations of another shape than the space's, or metadata
            under a name that export itself writes.

    Example:
        >>> import tempfile
        >>> from kerasrl_pg.models import actor_critic
        >>> box, discrete = spaces.Box(-1, 1, (4,)), spaces.Discrete(2)
        >>> policy = PolicyModel(actor_critic(box, discrete), box, discrete)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = export_policy(
        ...         policy, directory + "/policy", observations=np.ones((3, 4)), metadata={"environment": "CartPole-v1"}
        ...     )
        ...     serve = tf.saved_model.load(path).signatures["serving_default"]
        ...     {name: output.shape.as_list() for name, output in sorted(serve(observation=tf.ones((7, 4))).items())}
        {'action': [7], 'probabilities': [7, 2], 'value': [7]}
    """
    path = pathlib.Path(path)
    _check_possible(path, format)
    batch, _ = as_batch(policy.observation_space, observations)
    inputs = dict(zip(_input_names(policy.observation_space), flatten(policy.observation_space, batch), strict=True))
    expected = _expected_outputs(policy, batch)
    description = _describe(policy, expected, metadata, format)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    scratch.mkdir()
    try:
        WRITERS[format](policy, scratch)
        (scratch / "metadata.json").write_text(description)
        _check_same(policy.action_space, expected, LOADERS[format](scratch)(inputs, None))
        os.replace(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path


def load_policy(path: str | os.PathLike) -> ExportedPolicy:
    """Read what `export_policy` wrote. Load only what you trust: an exported model is a program.

    Args:
        path: the directory.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ImportError: the format needs packages that are not installed.
        ValueError: there is something else than an export.

    Example:
        >>> load_policy("kerasrl_pg")
        Traceback (most recent call last):
        ...
        ValueError: kerasrl_pg is not an exported policy: it has no metadata.json
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no exported policy at {path}")
    if not (path / "metadata.json").is_file():
        raise ValueError(f"{path} is not an exported policy: it has no metadata.json")
    try:
        metadata = json.loads((path / "metadata.json").read_text())
        model_file = MODEL_FILES[metadata["format"]]
        policy = ExportedPolicy(metadata, lambda inputs, seed: run(inputs, seed))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not an exported policy: its metadata.json is not one's ({error!r})") from error
    if not (path / model_file).is_file():
        raise ValueError(f"{path} is not an exported policy: it has no {model_file}")
    run = LOADERS[metadata["format"]](path)
    return policy
