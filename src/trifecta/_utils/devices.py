"""Devices, memory layout and precision."""

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

PRECISIONS = ("auto", "fp32", "bf16")
_Network = TypeVar("_Network", bound=nn.Module)


def resolve_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is CUDA if present, else the CPU.

    Raises:
        ValueError: this machine has no such device; lists those it has.
    """
    present = available_devices()
    if name == "auto":
        return torch.device("cuda:0" if "cuda:0" in present else "cpu")
    wanted = f"{name}:0" if name == "cuda" else name
    if wanted not in present:
        raise ValueError(f"no such device '{name}': this machine has {', '.join(present)}")
    return torch.device(wanted)


def available_devices() -> list[str]:
    """Return the names of the devices of this machine."""
    names = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    return [*names, "mps"] if torch.backends.mps.is_available() else names


def describe_device(device: torch.device) -> str:
    """Return the name of the hardware, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, threads = platform.processor() or platform.machine(), torch.get_num_threads()
    with suppress(OSError):
        for line in reversed(Path("/proc/cpuinfo").read_text().splitlines()):
            name = line.partition(":")[2].strip() if line.startswith("model name") else name
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def in_memory_format(samples: torch.Tensor) -> torch.Tensor:
    """Return images (N, C, H, W) in channels-last layout, which suits convolutions; others unchanged."""
    return samples.contiguous(memory_format=torch.channels_last) if samples.ndim == 4 else samples


def in_channels_last(network: _Network) -> _Network:
    """Move the weights of convolutions to channels-last layout, in place; no value changes."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network


def synchronize(device: torch.device) -> None:
    """Wait for the queued work of ``device``."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory so far: the allocator's on CUDA, the process's resident set elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        # Linux's own count starts with the program; getrusage includes the one that started it.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    try:
        import resource
    except ImportError:  # Windows has no such call
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _after_fork() -> None:
    """Continue with one thread, because OpenMP's others are not copied and would be waited for."""
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def resolved_precision(precision: str, device: torch.device) -> str:
    """Return the precision to compute in, ``fp32`` or ``bf16``.

    ``auto`` is bf16 on CUDA with bf16 in hardware and on CPUs with AMX tiles, fp32 elsewhere: also on MPS,
    on older GPUs and on CPUs with bf16 in AVX-512 only.

    Raises:
        ValueError: not one of ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"a precision is {', '.join(PRECISIONS)}: received '{precision}'")
    if precision != "auto":
        return precision
    has_units = has_amx() if device.type == "cpu" else has_bfloat16(device)
    return "bf16" if has_units else "fp32"


def kept_precision(precision: str, recorded: str, device: torch.device) -> str:
    """Return the precision in which a run continues.

    Args:
        precision: precision that the run was asked for, one of ``PRECISIONS``.
        recorded: precision that it was trained in so far.
        device: device that it continues on; without bf16 it is fp32, with a warning.
    """
    if precision != "auto":
        return precision
    if recorded == "bf16" and not has_bfloat16(device):
        warnings.warn(
            f"the run was trained in bf16, which this device ({device}) does not have in hardware: "
            "fp32 takes its place, and figures may differ a little",
            stacklevel=2,
        )
        return "fp32"
    return resolved_precision(recorded, device)


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
    told = getattr(torch.cpu, "get_capabilities", None)
    if told is not None:
        return dict(told())
    return {"amx_bf16": torch.cpu._is_amx_tile_supported()}
