"""Arithmetic precision: which one a device has in hardware, and the autocast that uses it."""

from contextlib import AbstractContextManager

import torch

PRECISIONS = ("auto", "fp32", "bf16")


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return ``fp32`` or ``bf16``; ``auto`` takes bf16 where ``device`` has it in hardware.

    Raises:
        ValueError: not one of ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"a precision is {', '.join(PRECISIONS)}: received '{precision}'")
    if precision != "auto":
        return precision
    return "bf16" if _has_bfloat16(device) else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A context for ``bf16`` matrix work over float32 weights; for ``fp32`` one that does nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # PyTorch 2.9 cannot say; float32 is always right, only slower.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
