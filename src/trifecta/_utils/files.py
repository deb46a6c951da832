"""Writing a file so that a reader sees the old one or the new one, never half of either."""

import json
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

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


KEY = "crc32"
_LAST_MEMBER = re.compile(r',\s+"crc32": "([0-9a-f]{8})"\s*\}\n?\Z')


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the checksum of names, dtypes, shapes and values, 8 hexadecimal digits."""
    sum_so_far = 0
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        sum_so_far = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), sum_so_far)
        sum_so_far = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().tobytes(), sum_so_far)
    return f"{sum_so_far:08x}"


def record_text(record: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return ``record`` as JSON, the checksum of its text as the last member."""
    text = json.dumps(record, indent=indent)[:-1].rstrip()
    between, end = (", ", "}") if indent is None else (f",\n{' ' * indent}", "\n}")
    return f'{text}{between}"{KEY}": "{zlib.crc32(text.encode()):08x}"{end}'


def checked_record(text: str, where: str) -> dict[str, Any]:
    """Read what :func:`record_text` made, without its checksum.

    Args:
        text: of the JSON object.
        where: it comes from, for the message.

    Raises:
        ValueError: it is no such object, or is not what was written.
    """
    found = _LAST_MEMBER.search(text)
    is_whole = found is not None and int(found[1], 16) == zlib.crc32(text[: found.start()].encode())
    try:
        record = json.loads(text) if is_whole else None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ValueError(
            f"{where} is damaged, or was written by an earlier version: its checksum is wrong or missing"
        )
    record.pop(KEY)
    return record
