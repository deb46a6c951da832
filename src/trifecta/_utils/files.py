"""Files that are written completely or not at all, and checksums of what they hold."""

import os
import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor


class StorageError(OSError):
    """A file could not be written; the message says which and why. Its previous content is untouched."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file next to ``path``, then rename it to ``path``.

    The content is on the disk before the rename, not only handed to the operating system.

    Raises:
        StorageError: the file system failed.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        write(temporary)
        _flush(temporary)
        temporary.replace(path)
        if os.name == "posix":
            _flush(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # The reason why the file could not be written is the better message.
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in ``folder``."""
    for file in filter(is_leftover, folder.iterdir()):
        with suppress(OSError):
            file.unlink()


def is_leftover(file: Path) -> bool:
    """Return whether ``file`` has the name of a temporary file of :func:`write_atomically`."""
    return re.fullmatch(r"\..+\.[0-9a-f]{32}\.tmp", file.name) is not None


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tensor_checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of names, dtypes, shapes and values, as 8 hexadecimal digits."""
    checksum = 0
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"
