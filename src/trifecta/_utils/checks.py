"""Checks of numbers and memory, checksums, and pieces of work that fit into a cache."""

import math
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Most units of a layer, pool or projection.
MOST_UNITS = 2**20
Rows = slice | Tensor
# Memory that a piece of work may take.
_CPU_BYTES, _DEVICE_BYTES = 4 * 2**20, 256 * 2**20


def require_finite(value: Any, name: str = "") -> None:
    """Raise ValueError that names a number in dataclasses, sequences or mappings that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is a finite number: received {value}")
    members = dict(enumerate(value)) if isinstance(value, tuple | list) else value
    if is_dataclass(value) and not isinstance(value, type):
        members = {field.name: getattr(value, field.name) for field in fields(value)}
    for key, member in members.items() if isinstance(members, dict) else ():
        require_finite(member, f"{name}.{key}" if name else str(key))


def memory_bytes() -> int | None:
    """Return the memory that this process may use; None if the machine does not tell."""
    try:
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):
        return None
    with suppress(OSError, ValueError):  # The limit of a container, if there is one.
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def require_memory(needed: float, what: str, fix: str) -> None:
    """Raise ValueError if the machine has fewer than ``needed`` bytes; say what takes them, and the fix."""
    there = memory_bytes()
    if there is not None and needed > there:
        raise ValueError(
            f"{what} would take {needed / 2**30:,.0f} GiB, and this machine has {there / 2**30:,.0f}: {fix}"
        )


def chunk_rows(count: int, bytes_per_row: int, device: torch.device) -> list[slice]:
    """Return slices of nearly equal size that cover ``count`` rows, each small enough for the device."""
    budget = _CPU_BYTES if device.type == "cpu" else _DEVICE_BYTES
    pieces = -(-count // max(1, budget // bytes_per_row))
    rows = -(-count // max(1, pieces))
    return [slice(start, min(start + rows, count)) for start in range(0, count, max(1, rows))]


def chunk_kept(kept: Tensor | None, count: int, bytes_per_row: int, device: torch.device) -> list[Rows]:
    """Return the same over ``count`` rows, or over the indices (R,) int64 of those that are ``kept``."""
    if kept is None:
        return list(chunk_rows(count, bytes_per_row, device))
    return [kept[rows] for rows in chunk_rows(len(kept), bytes_per_row, device)]


def tensor_checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of names, dtypes, shapes and values, as 8 hexadecimal digits."""
    checksum = 0
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().tobytes(), checksum)
    return f"{checksum:08x}"
