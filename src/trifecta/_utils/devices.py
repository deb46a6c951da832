"""Devices, their memory and precision."""

import os
import platform
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

PRECISIONS = ("auto", "fp32", "bf16")
_Network = TypeVar("_Network", bound=nn.Module)
Rows = slice | Tensor
# Memory that a piece of work may take.
_CPU_BYTES, _DEVICE_BYTES = 4 * 2**20, 256 * 2**20

if hasattr(os, "register_at_fork"):
    # OpenMP's other threads are not copied, and would be waited for.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def resolve_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is CUDA if present, else the CPU.

    One that this machine does not have raises ValueError with those that it has.
    """
    present = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    present += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        name = "cuda" if "cuda:0" in present else "cpu"
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in present:
        raise ValueError(f"no such device '{name}': this machine has {', '.join(present)}")
    return torch.device(wanted)


def describe_device(device: torch.device) -> str:
    """Return the name of the hardware, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, threads = platform.processor() or platform.machine(), torch.get_num_threads()
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        name = name if found is None else found[1].strip()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def in_memory_format(samples: torch.Tensor) -> torch.Tensor:
    """Return images (N, C, H, W) in channels-last layout, which suits convolutions; others unchanged."""
    return samples.contiguous(memory_format=torch.channels_last) if samples.ndim == 4 else samples


def in_channels_last(network: _Network) -> _Network:
    """Move the weights of convolutions to channels-last layout, in place; no value changes."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = in_memory_format(module.weight.data)
    return network


def synchronize(device: torch.device) -> None:
    """Wait for the queued work of ``device``."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory so far: the allocator's on CUDA, the process's resident set elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        # Linux's own count starts with the program; getrusage includes the one that started it.
        found = re.search(r"^VmHWM:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
        return 0 if found is None else int(found[1]) * 1024
    with suppress(ImportError):  # Windows has no such call.
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if platform.system() == "Darwin" else peak * 1024
    return 0


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


def resolved_precision(precision: str, device: torch.device) -> str:
    """Return the precision to compute in, ``fp32`` or ``bf16``.

    ``auto`` is bf16 on CUDA with bf16 in hardware and on CPUs with AMX tiles, fp32 elsewhere: also on MPS,
    on older GPUs and on CPUs with bf16 in AVX-512 only.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"a precision is {', '.join(PRECISIONS)}: received '{precision}'")
    if precision != "auto":
        return precision
    return "bf16" if (has_amx() if device.type == "cpu" else has_bfloat16(device)) else "fp32"


def kept_precision(precision: str, recorded: str, device: torch.device) -> str:
    """Return the precision in which a run continues that was asked for one and recorded another.

    On a device without the recorded bf16 it is fp32, with a warning.
    """
    if precision == "auto" and recorded == "bf16" and not has_bfloat16(device):
        warnings.warn(
            f"the run was trained in bf16, which this device ({device}) does not have in hardware: "
            "fp32 takes its place, and figures may differ a little",
            stacklevel=2,
        )
        return "fp32"
    return precision if precision != "auto" else resolved_precision(recorded, device)


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute matrix products in ``bf16`` over float32 weights within it; do nothing for ``fp32``.

    It may be nested in another autocast, because it clears the cast weights, which PyTorch would keep after
    the weights have changed.
    """
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        try:
            yield
        finally:
            torch.clear_autocast_cache()


def has_bfloat16(device: torch.device) -> bool:
    """Return whether ``device`` is known to multiply bf16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and (has_amx() or bool(_capabilities().get("avx512_bf16")))


@cache
def has_amx() -> bool:
    """Return whether this CPU multiplies tiles of bf16 (AMX)."""
    return bool(_capabilities().get("amx_bf16"))


def _capabilities() -> dict[str, object]:
    """Return the features of this CPU; before PyTorch 2.10 only AMX is known."""
    if hasattr(torch.cpu, "get_capabilities"):
        return dict(torch.cpu.get_capabilities())
    return {"amx_bf16": torch.cpu._is_amx_tile_supported()}
