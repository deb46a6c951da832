"""Writing a file so that a reader sees the old one or the new one, never half of either."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


class StorageError(OSError):
    """A file could not be written; says which and why. What it held before is untouched."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it to ``path``.

    The content is on the disk, and not only handed to the system, before the rename.

    Raises:
        StorageError: the file system does not allow it.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        write(temporary)
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        _remove(temporary)


def sweep(folder: Path) -> None:
    """Remove temporary files that a process left in ``folder`` when it was killed."""
    for file in folder.iterdir():
        if is_leftover(file):
            _remove(file)


def is_leftover(file: Path) -> bool:
    """Whether ``file`` is a temporary one of :func:`write_atomically`, by its name."""
    return _LEFTOVER.fullmatch(file.name) is not None


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:  # Where a file cannot be removed, why it could not be written is the better message.
        return


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
