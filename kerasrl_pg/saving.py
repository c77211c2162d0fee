"""The files of a saved agent: a directory that is whole at every moment, and settings as JSON."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import keras
import numpy as np

from kerasrl_pg.algorithms import Prioritized


@dataclasses.dataclass(frozen=True)
class StoredReplay:
    """A replay in a file, until a training takes it up."""

    path: pathlib.Path

    def arrays(self) -> dict[str, np.ndarray]:
        """What was stored, by name."""
        with np.load(self.path) as arrays:
            return dict(arrays)


def whole_agent(path: str | os.PathLike) -> pathlib.Path:
    """`path`, or where its agent lies if a process was killed just while it replaced it."""
    path, old = pathlib.Path(path), scratch_of(pathlib.Path(path)) / "old"
    return old if old.exists() and not path.exists() else path


def scratch_of(path: pathlib.Path) -> pathlib.Path:
    """Where `Agent.save` writes, on the same file system as `path`."""
    return path.parent / f".{path.name}.saving"


def put_back(path: pathlib.Path) -> None:
    """Undo the half of a replacement during which a process was killed."""
    if whole_agent(path) != path:
        os.replace(whole_agent(path), path)


def numbered(arrays: Any, name: str) -> list[np.ndarray]:
    """The arrays called `name_0`, `name_1` and so on."""
    found = (key for key in arrays if key.startswith(f"{name}_"))
    return [arrays[key] for key in sorted(found, key=lambda key: int(key.rpartition("_")[2]))]


def settings_to_json(algorithm: Any) -> dict[str, Any]:
    """An algorithm's hyperparameters as JSON can hold them, schedules and samplers included."""
    return {field.name: _to_json(getattr(algorithm, field.name)) for field in dataclasses.fields(algorithm)}


def _to_json(value: Any) -> Any:
    if isinstance(value, Prioritized):
        return {"prioritized": settings_to_json(value)}
    return keras.saving.serialize_keras_object(value) if callable(value) else value


def settings_from_json(settings: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `settings_to_json`."""
    return {name: _from_json(value) for name, value in settings.items()}


def _from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "prioritized" in value:
        return Prioritized(**settings_from_json(value["prioritized"]))
    return keras.saving.deserialize_keras_object(value)
