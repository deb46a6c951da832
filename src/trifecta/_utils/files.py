"""Writing a file so that a reader sees the old one or the new one, never half of either."""

import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import yaml
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
_LAST_LINE = re.compile(r"# crc32 ([0-9a-f]{8})\n?\Z")


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


def signed_text(text: str) -> str:
    """Return lines of ``text`` with their checksum as a comment in the last one."""
    return f"{text}# {KEY} {zlib.crc32(text.encode()):08x}\n"


def is_whole_text(text: str) -> bool | None:
    """Whether the checksum at the end of ``text`` is right; None where there is none."""
    found = _LAST_LINE.search(text)
    return None if found is None else int(found[1], 16) == zlib.crc32(text[: found.start()].encode())


MOST_BYTES = 2**20
MOST_DEPTH = 32
# Of one value: numbers take long to read when they are long.
MOST_CHARACTERS = 2**16
# Ten times as fast, where PyYAML was built with it; it does not take names that are no Unicode.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write equal parts out in full: :func:`read_yaml` takes no aliases."""
        return True


def yaml_text(plain: Mapping[str, Any]) -> str:
    """Return ``plain`` as YAML, in its order."""
    text: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_yaml(path: Path) -> tuple[dict[str, Any], str]:
    """Read a YAML mapping; return it and the file's text.

    Raises:
        ValueError: no such file, something else in it, or more than settings ever are: a megabyte, 32
            levels, a value of 65,536 characters, or aliases and merges, which can stand for gigabytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError("it is larger than a megabyte")
        text = content.decode()
        plain = parse_yaml(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read settings from {path}: {' '.join(str(error).split())}") from None
    if not isinstance(plain, dict):
        raise ValueError(f"cannot read settings from {path}: expected `name: value` lines")
    return plain, text


def parse_yaml(text: str) -> Any:
    """Return what YAML stands for.

    Raises:
        ValueError, yaml.YAMLError: it is no YAML, or as :func:`read_yaml`.
    """
    loader = yaml.SafeLoader if _SURROGATE.search(text) else _Loader
    _check_events(yaml.parse(text, Loader=loader))
    try:
        return yaml.load(text, Loader=loader)
    except OverflowError as error:
        raise ValueError(str(error)) from None


def _check_events(events: Iterator[yaml.Event]) -> None:
    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has an alias, *{event.anchor}")
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<":
            raise ValueError("it merges mappings, <<")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MOST_CHARACTERS:
            raise ValueError(f"it has a value of more than {MOST_CHARACTERS:,} characters")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep")
