"""Checkpoints: written whole, read only if they are whole, and the one before the last is kept.

A checkpoint is a ``torch.save`` archive, whose parts each carry a CRC-32.
"""

import os
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from trifecta._utils.files import write_atomically

# Raise it when a checkpoint of before could not be resumed.
FORMAT = 3
MOST_DEPTH = 16
MOST_DESCRIPTION_BYTES = 2**27
FIELDS = ("network", "learner", "position", "history", "epoch_seconds", "total_seconds", "meter")


def write_checkpoint(file: Path, previous: Path, state: Mapping[str, Any]) -> None:
    """Write ``state``, and keep the last checkpoint as ``previous``.

    Raises:
        StorageError: it cannot be written; both files are as they were, or both the last checkpoint.
    """
    whole = {"format": FORMAT, **state}
    if file.is_file():
        write_atomically(previous, lambda path: _link(file, path))
    write_atomically(file, lambda path: _save(whole, path))


def read_checkpoint(file: Path, previous: Path, device: torch.device) -> dict[str, Any]:
    """Read the last checkpoint, or the one before it with a warning where the last is damaged.

    Raises:
        ValueError: neither can be read.
    """
    try:
        return _read(file, device)
    except ValueError as error:
        if not previous.is_file():
            raise
        state = _read(previous, device)
        warnings.warn(f"{error}: going on from the checkpoint before it, {previous}", stacklevel=4)
        return state


@contextmanager
def reading(file: Path, field: str) -> Iterator[None]:
    """Turn whatever unfit contents of a checkpoint's ``field`` cause into one line that names it.

    Raises:
        ValueError: in place of any error within.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: {field} is not this run's ({reason:.200})") from None


def _read(file: Path, device: torch.device) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            _check_entries(archive)
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # both readers raise whatever the damage happens to cause
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ValueError(
            f"cannot read the checkpoint {file} ({reason}): it is damaged, or not one of trifecta train"
        ) from None
    written = state["format"] if isinstance(state, dict) and "format" in state else None
    if not isinstance(state, dict) or type(written) is not int or written != FORMAT:
        raise ValueError(
            f"{file} was written by another version of trifecta: resume with that one, or start again with "
            f"trifecta train --recipe {file.parent.parent / 'config.yaml'}"
        )
    missing = [name for name in FIELDS if name not in state]
    if missing:
        raise ValueError(f"the checkpoint {file} is not whole: it has no {missing[0]}")
    return state


def check_tensors(state: Any, source: Path, name: str = "", depth: int = 0) -> None:
    """Check that every tensor in nested mappings and lists holds its own values, and nothing else.

    Raises:
        ValueError: one does not; names it.
    """
    if depth > MOST_DEPTH:
        raise ValueError(f"{source} is nested more than {MOST_DEPTH} levels deep, at {name:.80}")
    if isinstance(state, Tensor):
        fault = _fault(state)
        if fault is not None:
            raise ValueError(f"{source}: {name} is {fault}, which no run writes")
        return
    members: Iterable[tuple[Any, Any]] = ()
    if isinstance(state, Mapping):
        members = state.items()
    elif isinstance(state, list | tuple):
        members = enumerate(state)
    for key, member in members:
        check_tensors(member, source, f"{name}.{key}" if name else str(key), depth + 1)


def _fault(tensor: Tensor) -> str | None:
    """Say what is unusual about a tensor; None where nothing is."""
    if type(tensor) is not Tensor:
        return f"a {type(tensor).__name__}"
    if tensor.layout is not torch.strided:
        return f"of layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_meta:
        return "without values (meta)"
    if tensor.is_quantized:
        return "quantised"
    if tensor.requires_grad:
        return "one that requires a gradient"
    if tensor.is_neg() or tensor.is_conj():
        return "a negated or conjugated view"
    if not is_dense(tensor) or tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
        return f"a view of other memory (strides {tensor.stride()})"
    return None


def is_dense(tensor: Tensor) -> bool:
    """Whether the values of a tensor lie one behind the other, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= size
    return True


@torch.no_grad()
def _own_values(state: Any) -> Any:
    """Copy the tensors of a state that share memory with others, which would be stored with them."""
    if isinstance(state, Tensor):
        return state.clone() if _fault(state) else state
    if isinstance(state, Mapping):
        return {key: _own_values(member) for key, member in state.items()}
    if isinstance(state, list | tuple):
        copied = [_own_values(member) for member in state]
        return tuple(copied) if isinstance(state, tuple) else copied
    return state


def _check_entries(archive: zipfile.ZipFile) -> None:
    """Check sizes before anything is read: PyTorch compresses nothing and describes in few words."""
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{entry.filename:.80} is compressed")
        if entry.filename.endswith("/data.pkl") and entry.file_size > MOST_DESCRIPTION_BYTES:
            raise ValueError(f"its description has {entry.file_size:,} bytes")


def _link(file: Path, path: Path) -> None:
    """Give ``file`` the second name ``path``; copy it where the file system has no such names."""
    try:
        os.link(file, path)
    except OSError:
        shutil.copyfile(file, path)


def _save(state: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        recorder = _Recorder(file)
        try:
            torch.save(_own_values(state), cast(IO[bytes], recorder))
        except RuntimeError:
            # PyTorch's writer forgets what the file system said.
            if recorder.error is not None:
                raise recorder.error from None
            raise


class _Recorder:
    """A file that remembers why it could not be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()
