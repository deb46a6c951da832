"""Batches in pieces: what bounds the memory of intermediate results, and keeps them in cache.

On a CPU a piece's intermediate results fit into the last level of cache and are never allocated from the
system again; other devices want fewer, larger launches.
"""

import torch
from torch import Tensor

Rows = slice | Tensor

_CPU_BYTES = 4 * 2**20
_DEVICE_BYTES = 256 * 2**20


def chunk_rows(count: int, bytes_per_row: int, device: torch.device) -> list[slice]:
    """Slices of nearly equal size that cover ``count`` rows, each of a device's working size or less."""
    budget = _CPU_BYTES if device.type == "cpu" else _DEVICE_BYTES
    pieces = -(-count // max(1, budget // bytes_per_row))
    rows = -(-count // pieces) if pieces else 0
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)] if rows else []


def chunk_kept(kept: Tensor | None, count: int, bytes_per_row: int, device: torch.device) -> list[Rows]:
    """The same over ``count`` rows, or over the rows (R,) int64 that are ``kept``."""
    if kept is None:
        return list(chunk_rows(count, bytes_per_row, device))
    return [kept[rows] for rows in chunk_rows(len(kept), bytes_per_row, device)]
