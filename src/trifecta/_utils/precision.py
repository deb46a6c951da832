"""Arithmetic precision: which ones a device has in hardware, and the autocast that uses them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("auto", "fp32", "bf16")


def narrow_precision(precision: str, device: torch.device) -> str:
    """Return ``fp32`` or ``bf16`` where no clock is needed to know which; else ``auto``.

    ``auto`` is fp32 on a device without bf16, and stays ``auto`` on one that has both: see
    :mod:`trifecta.learning.precision_timing`.

    Raises:
        ValueError: not one of ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"a precision is {', '.join(PRECISIONS)}: received '{precision}'")
    return "fp32" if precision == "auto" and not has_bfloat16(device) else precision


def kept_precision(precision: str, recorded: str, device: torch.device) -> str:
    """Return the precision in which a run that has begun goes on; never timed again.

    Args:
        precision: what the run was asked for, one of ``PRECISIONS``.
        recorded: what it was trained in so far, ``auto`` before its first step.
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
    return narrow_precision(recorded, device)


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
    # PyTorch 2.9 cannot say; float32 is always right, only slower.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
