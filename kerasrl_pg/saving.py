"""The files of a saved agent: a directory that is whole at every moment, and settings as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from kerasrl_pg.algorithms import Prioritized
from kerasrl_pg.any_optimizer import has_config

try:
    import fcntl
except ImportError:  # Windows, where processes do not wait for each other
    fcntl = None  # type: ignore[assignment]


class StoredReplay:
    """A replay in a file, until a training takes it up.

    Raises:
        zipfile.BadZipFile: the file is not whole.
    """

    def __init__(self, path: pathlib.Path):
        if not zipfile.is_zipfile(path):  # NumPy would leave the file open
            raise zipfile.BadZipFile(f"{path.name} is not a zip file")
        self._path, self._version = path, _version(path)

    def is_there(self) -> bool:
        """Whether the file is still the one that it was."""
        return _version(self._path) == self._version

    def arrays(self) -> dict[str, np.ndarray]:
        """What was stored, by name.

        Raises:
            RuntimeError: something else has been saved in its place.
        """
        if not self.is_there():
            raise RuntimeError(f"{self._path} was replaced or removed after its agent was loaded: load the agent anew")
        with np.load(self._path) as arrays:
            return dict(arrays)


def _version(path: pathlib.Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced; None if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def algorithm_of(path: pathlib.Path) -> str:
    """The name of the class of a saved agent's algorithm.

    Raises:
        ValueError: what is at `path` is no saved agent.
    """
    try:
        return json.loads((path / "agent.json").read_text())["algorithm"]["name"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a saved agent: agent.json names no algorithm") from error


def without_link(path: str | os.PathLike) -> pathlib.Path:
    """What a symbolic link leads to, so that it is replaced and not the link."""
    path = pathlib.Path(path)
    return path.resolve() if path.is_symlink() else path


@contextlib.contextmanager
def alone_in(directory: pathlib.Path) -> Iterator[None]:
    """Another process that saves to `directory` waits until this one has done."""
    directory.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)  # ends with the handle, or with the process
        yield
    finally:
        os.close(handle)


def whole_agent(path: str | os.PathLike) -> pathlib.Path:
    """`path`, or where its agent lies if a process was killed just while it replaced it."""
    path = without_link(path)
    old = scratch_of(path) / "old"
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


def as_json(options: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of an environment as they are read back from JSON: arrays are lists.

    Raises:
        TypeError: JSON cannot hold one of them.

    Example:
        >>> as_json({"size": (3, 4), "walls": np.eye(2)})
        {'size': [3, 4], 'walls': [[1.0, 0.0], [0.0, 1.0]]}
    """
    found = {}
    for name, value in options.items():
        try:
            found[name] = json.loads(json.dumps(value, default=_array_as_list))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"env_options are saved with the agent, and JSON cannot hold {name}={value!r}: "
                "pass a function that makes the environment instead"
            ) from error
    return found


def _array_as_list(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not of JSON")


def task_of(description: dict[str, Any]) -> dict[str, Any]:
    """Of an agent's description what says which environment it is."""
    return as_json({name: description[name] for name in ("environment", "protocol", "env_options")})


def settings_to_json(algorithm: Any) -> dict[str, Any]:
    """An algorithm's hyperparameters as JSON can hold them, schedules and samplers included."""
    return {field.name: _to_json(getattr(algorithm, field.name)) for field in dataclasses.fields(algorithm)}


def _to_json(value: Any) -> Any:
    if isinstance(value, Prioritized):
        return {"prioritized": settings_to_json(value)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, LearningRateSchedule) and not has_config(value):
        return type(value).__name__
    return keras.saving.serialize_keras_object(value) if callable(value) else value


def check_settings_can_be_saved(algorithm: Any) -> None:
    """Raise TypeError for a setting that JSON cannot hold, or that could not be read again."""
    for field in dataclasses.fields(algorithm):
        value = getattr(algorithm, field.name)
        if isinstance(value, Prioritized):
            check_settings_can_be_saved(value)
        stored = f"{type(algorithm).__name__}({field.name}={value!r})"
        try:
            json.dumps(_to_json(value))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{stored} cannot be saved: JSON does not hold it") from error
        if isinstance(value, LearningRateSchedule):
            _check_can_be_read_again(value, stored)


def _check_can_be_read_again(schedule: LearningRateSchedule, stored: str) -> None:
    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    except Exception as error:  # whatever the user's class raises
        raise TypeError(
            f"{stored} cannot be saved: a schedule of your own needs a get_config, and to be registered with "
            "keras.saving.register_keras_serializable"
        ) from error


def settings_from_json(settings: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `settings_to_json`."""
    return {name: _from_json(value) for name, value in settings.items()}


def _from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "prioritized" in value:
        return Prioritized(**settings_from_json(value["prioritized"]))
    return keras.saving.deserialize_keras_object(value)
