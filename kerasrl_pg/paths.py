"""Where files may be written."""

from __future__ import annotations

import os
import pathlib


def check_writable(path: str | os.PathLike, name: str) -> None:
    """Refuse a path that nothing can be written to, before hours of training rather than after.

    Raises:
        TypeError: it is no path.
        PermissionError: no directory above it may be written to.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {path!r}")
    path = pathlib.Path(path).resolve()
    nearest = next(parent for parent in path.parents if parent.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise PermissionError(f"{path} cannot be written: {nearest} is no directory that may be written to")
