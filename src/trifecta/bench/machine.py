"""Peak multiply-adds a second of the machine: the yardstick of efficiency."""

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta._utils.devices import synchronize

_ROUNDS = 9


def peak_multiply_adds(device: torch.device, precision: str) -> dict[str, float]:
    """Multiply-adds a second of a 3×3 convolution and of a matrix product, each the best of several."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    channels, images, pixels = (128, 32, 16) if device.type == "cpu" else (512, 256, 16)
    x = torch.randn(images, channels, pixels, pixels, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    size = 1024 if device.type == "cpu" else 8192
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    return {
        "convolution": 9 * channels**2 * images * pixels**2 / _best_seconds(x, weight),
        "matrix": size**3 / _best_seconds(matrix),
    }


@torch.inference_mode()
def _best_seconds(x: Tensor, weight: Tensor | None = None) -> float:
    best = float("inf")
    for _ in range(_ROUNDS):
        synchronize(x.device)
        began = time.perf_counter()
        for _ in range(4):
            _ = x @ x if weight is None else F.conv2d(x, weight, padding=1)
        synchronize(x.device)
        best = min(best, (time.perf_counter() - began) / 4)
    return best
