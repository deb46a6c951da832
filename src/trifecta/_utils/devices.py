"""Finding the device to run on, and describing it."""

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

_Network = TypeVar("_Network", bound=nn.Module)


def resolve_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is CUDA where there is one, else the CPU.

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
    """Names of the devices that this machine has."""
    names = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    return [*names, "mps"] if torch.backends.mps.is_available() else names


def describe_device(device: torch.device) -> str:
    """The hardware behind ``device``, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor_name()}, {threads} thread{'s' if threads > 1 else ''}"


def in_memory_format(samples: torch.Tensor) -> torch.Tensor:
    """Lay images (N, C, H, W) out with their channels last, as convolutions like them; others stay."""
    return samples.contiguous(memory_format=torch.channels_last) if samples.ndim == 4 else samples


def in_channels_last(network: _Network) -> _Network:
    """Lay out the weights of convolutions as their products want them, in place; no value changes."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network


def synchronize(device: torch.device) -> None:
    """Wait for queued work on ``device`` (for timing)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: the allocator's on CUDA, the process's resident set elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        # Linux's own count begins anew with a program; getrusage goes on from the one that started it.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    try:
        import resource
    except ImportError:  # Windows has no such call
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _after_fork() -> None:
    """Go on with one thread: OpenMP's others are not copied, and waiting for them would never end."""
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


PRECISIONS = ("auto", "fp32", "bf16")


def resolved_precision(precision: str, device: torch.device) -> str:
    """Return ``fp32`` or ``bf16``: what was asked for, or for ``auto`` what ``device`` is made for.

    ``auto`` is bf16 on CUDA with bf16 in hardware and on CPUs with AMX tiles, fp32 elsewhere. A CPU whose
    vectors alone know bf16 (AVX-512) is left at fp32, as are MPS and older GPUs.

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
    """Return the precision in which a run that has begun goes on.

    Args:
        precision: what the run was asked for, one of ``PRECISIONS``.
        recorded: what it was trained in so far.
        device: where it goes on. Where that has no bf16, a warning says that fp32 takes its place.
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
    """A context for ``bf16`` matrix work over float32 weights; for ``fp32`` one that does nothing.

    It may stand inside another autocast: PyTorch would keep the cast weights until that one ends, and go on
    with them after the weights have moved.
    """
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        try:
            yield
        finally:
            torch.clear_autocast_cache()


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` is known to multiply bf16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and (has_amx() or bool(_capabilities().get("avx512_bf16")))


@cache
def has_amx() -> bool:
    """Whether this CPU multiplies tiles of bf16 (AMX)."""
    return bool(_capabilities().get("amx_bf16"))


def _capabilities() -> dict[str, object]:
    """What this CPU has; only the tiles of AMX are known where PyTorch is older than 2.10."""
    told = getattr(torch.cpu, "get_capabilities", None)
    if told is not None:
        return dict(told())
    return {"amx_bf16": torch.cpu._is_amx_tile_supported()}
