"""Arithmetic precision: which ones a device has in hardware, and the autocast that uses them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

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
