"""Means over patches of maps with 1, 2 or 3 position dimensions."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

# By the number of position dimensions.
AVERAGE_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE_POOLS = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
MAX_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def divides(patches: int, positions: Sequence[int]) -> bool:
    """Return whether P patches a side divide maps of these positions, such as (H, W)."""
    return all(size % patches == 0 for size in positions)


def patch_means(maps: Tensor, patches: int) -> Tensor:
    """Return each channel's mean in P patches a side, (N, C, H, W) → (N, P²·C), patch by patch.

    With 1 or 3 position dimensions (N, P·C) or (N, P³·C). If P does not divide the positions, patches
    overlap or differ in size as in ``F.adaptive_avg_pool2d``, which is several times as slow on a CPU.
    """
    positions = maps.shape[2:]
    if divides(patches, positions):
        means = _AVERAGE[len(positions)](maps, [size // patches for size in positions])
    else:
        means = _ADAPTIVE[len(positions)](maps, patches)
    return means.movedim(1, -1).flatten(1)


def limited_pool(maps: Sequence[int], at_most: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return kernel and padding of an average pool for maps (C, …), and the features that it leaves.

    Those are ``at_most``, or the channels of one position if they are more. The sides of the kernel double
    in turn. Positions that it does not divide are padded with zeros, which count in the averages. Source:
    the published code of Nøkland & Eidnes 2019.
    """
    channels, *sides = maps
    kernel, left, turn = [1] * len(sides), list(sides), 0
    while channels * math.prod(left) > at_most and max(left) > 1:
        if kernel[turn] < sides[turn]:
            kernel[turn] *= 2
            left[turn] = -(-sides[turn] // kernel[turn])
        turn = (turn + 1) % len(sides)
    padding = [kernel[d] * (left[d] - sides[d] // kernel[d]) // 2 for d in range(len(sides))]
    return tuple(kernel), tuple(padding), channels * math.prod(left)


def spread_patches(gradient: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the gradient of maps ``shape`` from that of their means in P×P patches, (N, P²·C)."""
    n, c, height, width = shape
    patches = math.isqrt(gradient.shape[1] // c)
    h, w = height // patches, width // patches
    cells = (gradient / (h * w)).view(n, patches, 1, patches, 1, c)
    return cells.expand(-1, -1, h, -1, w, -1).reshape(n, height, width, c).movedim(3, 1)
