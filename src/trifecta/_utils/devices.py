"""Finding the device to run on, and describing it."""

import os
import platform
from contextlib import suppress
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
