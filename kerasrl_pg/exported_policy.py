"""The reading side of `kerasrl_pg.export`: an exported policy that acts, and how its inputs are named.

Load only what you trust: all three formats are programs, and a SavedModel can read and write files.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import secrets
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from gymnasium import spaces

from kerasrl_pg import seeding
from kerasrl_pg.checks import as_integer, as_switch
from kerasrl_pg.spaces import as_batch, flatten, leaf_paths, space_from_json

MODEL_FILES = {"saved_model": "saved_model.pb", "litert": "policy.tflite", "onnx": "policy.onnx"}
"""By format, the file without which a directory is no export."""

NOT_INPUTS = {"self", "seed", "action", "value", "action_values", "probabilities", "mean", "std"}
"""Taken in a signature, or by Python; ONNX has one set of names for inputs and outputs."""

Run = Callable[[dict[str, np.ndarray], np.ndarray | None], dict[str, np.ndarray]]
"""A loaded model: inputs by name, and a [2] int32 seed to draw with (None: greedy), to outputs by name."""


@dataclasses.dataclass(frozen=True)
class ExportedPolicy:
    """A policy read from files; `load_policy` makes it.

    Args:
        metadata: what `metadata.json` holds.
        observation_space: of one environment.
        action_space: of one environment.
        run: the model, from inputs by name (and a seed) to outputs by name.
    """

    metadata: dict[str, Any]
    observation_space: spaces.Space
    action_space: spaces.Space
    run: Run

    def act(self, observation: Any, *, sample: bool = False, seed: int | None = None) -> np.ndarray:
        """Choose actions.

        Args:
            observation: one observation or a batch `[B, *observation]`, told apart by the space.
            sample: draw from the policy instead of taking its most probable action; SavedModel only.
            seed: of the draw (not the agent's of that number); None draws anew each time, and in every process.

        Returns:
            One action, or a batch of them, as the environment takes it.

        Raises:
            ValueError: `observation` has neither the space's shape nor that of a batch, the format cannot sample,
                or a negative seed.
        """
        batch, is_single = as_batch(self.observation_space, observation)
        pair = None
        if as_switch("sample", sample):
            if self.metadata["format"] != "saved_model":
                raise ValueError(f"sample needs the format 'saved_model'; this is {self.metadata['format']!r}")
            seed = secrets.randbits(62) if seed is None else as_integer("seed", seed, least=0)
            pair = seeding.make_seed(seed).numpy()
        action = self.run(named_inputs(self.observation_space, batch), pair)["action"]
        return action[0] if is_single else action


def load_policy(path: str | os.PathLike) -> ExportedPolicy:
    """Read what `export_policy` wrote. Load only what you trust: an exported model is a program.

    Args:
        path: the directory.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ImportError: the format needs packages that are not installed.
        ValueError: what is there is not an export.

    Example:
        >>> import tempfile
        >>> from kerasrl_pg.export import export_policy
        >>> from kerasrl_pg.models import PolicyModel, actor_critic
        >>> box, discrete = spaces.Box(-1, 1, (4,)), spaces.Discrete(2)
        >>> policy = PolicyModel(actor_critic(box, discrete), box, discrete)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = export_policy(policy, directory + "/policy", observations=np.ones((3, 4)), metadata={})
        ...     loaded = load_policy(path)
        >>> loaded.act(np.ones((7, 4))).shape, loaded.act(np.ones(4)) in discrete
        ((7,), True)
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no exported policy at {path}")
    if not (path / "metadata.json").is_file():
        raise ValueError(f"{path} is not an exported policy: it has no metadata.json")
    try:
        metadata = json.loads((path / "metadata.json").read_text())
        format = metadata["format"]
        model_file = MODEL_FILES[format]
        observation_space = space_from_json(metadata["observation_space"])
        action_space = space_from_json(metadata["action_space"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not an exported policy: metadata.json is another's ({error!r})") from error
    if not (path / model_file).is_file():
        raise ValueError(f"{path} is not an exported policy: it has no {model_file}")
    return ExportedPolicy(metadata, observation_space, action_space, READERS[format](path))


def named_leaves(space: spaces.Space) -> dict[str, tuple[tuple[str | int, ...], spaces.Space]]:
    """Every leaf space and its path by the name of its input, a name that TensorFlow keeps as it is.

    Args:
        space: of one environment.

    Example:
        >>> space = spaces.Dict({"goal": spaces.Tuple([spaces.Discrete(2)]), "wind": spaces.Box(0, 1, (2,))})
        >>> {name: path for name, (path, _) in named_leaves(space).items()}
        {'goal_0': ('goal', 0), 'wind': ('wind',)}
    """
    leaves: dict[str, tuple[tuple[str | int, ...], spaces.Space]] = {}
    taken = {name.lower() for name in NOT_INPUTS}
    for path, leaf in leaf_paths(space):
        name = re.sub(r"[^A-Za-z0-9]", "_", "_".join(map(str, path)))
        if not name[:1].isalpha():
            name = f"observation_{name}" if name else "observation"
        while name.lower() in taken:  # TensorFlow makes names of arguments lower case
            name = f"observation_{name}"
        leaves[name] = (path, leaf)
        taken.add(name.lower())
    return leaves


def named_inputs(space: spaces.Space, batch: Any) -> dict[str, np.ndarray]:
    """A batch as an exported model takes it: each leaf by the name of its input.

    Args:
        space: of one environment.
        batch: `[B, *observation]`, in the space's structure.

    Example:
        >>> {name: part.shape for name, part in named_inputs(spaces.Box(0, 1, (4,)), np.ones((3, 4))).items()}
        {'observation': (3, 4)}
    """
    return dict(zip(named_leaves(space), flatten(space, batch), strict=True))


def require_for_onnx(*modules: str) -> None:
    """Check that the packages which ONNX needs are installed; none is imported.

    Args:
        modules: their names.

    Raises:
        ImportError: some are not installed; the message says how to install them.

    Example:
        >>> require_for_onnx("json")
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(f'ONNX needs {", ".join(missing)}: the extra "onnx" (from a clone: pip install ".[onnx]")')


def _read_saved_model(directory: pathlib.Path) -> Run:
    signatures = tf.saved_model.load(directory).signatures

    def run(inputs, seed):
        tensors = {name: tf.constant(array) for name, array in inputs.items()}
        if seed is None:
            outputs = signatures["serving_default"](**tensors)
        else:
            outputs = signatures["sample"](**tensors, seed=tf.constant(seed, tf.int32))
        return {name: output.numpy() for name, output in outputs.items()}

    return run


def _read_litert(directory: pathlib.Path) -> Run:
    with warnings.catch_warnings():
        # TensorFlow still carries the interpreter, and announces that it will move to ai_edge_litert.
        warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is deprecated", UserWarning)
        interpreter = tf.lite.Interpreter(str(directory / MODEL_FILES["litert"]))
    signature = interpreter.get_signature_runner("serving_default")
    return lambda inputs, seed: signature(**inputs)


def _read_onnx(directory: pathlib.Path) -> Run:
    require_for_onnx("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(directory / MODEL_FILES["onnx"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs, seed: dict(zip(names, session.run(names, inputs), strict=True))


READERS = {"saved_model": _read_saved_model, "litert": _read_litert, "onnx": _read_onnx}
