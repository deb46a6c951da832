"""Means over patches of maps with 1, 2 or 3 position dimensions, which local classifiers read."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

AVERAGE_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE_POOLS = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
MAX_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def divides(patches: int, positions: Sequence[int]) -> bool:
    """Whether maps of so many positions, such as (H, W), fall into P patches of equal size on each side."""
    return all(size % patches == 0 for size in positions)


def patch_means(maps: Tensor, patches: int) -> Tensor:
    """Mean of each channel in each patch, P of them on each side, (N, C, H, W) → (N, P²·C), patch by patch.

    Other maps alike: (N, C, L) → (N, P·C), (N, C, D, H, W) → (N, P³·C). Maps that P does not divide have
    patches that overlap or differ in size, as in ``F.adaptive_avg_pool2d``, which takes several times as
    long (CPU).
    """
    positions = maps.shape[2:]
    if divides(patches, positions):
        means = _AVERAGE[len(positions)](maps, [size // patches for size in positions])
    else:
        means = _ADAPTIVE[len(positions)](maps, patches)
    return means.movedim(1, -1).flatten(1)


class LimitedPool(NamedTuple):
    """An average pool that leaves at most so many numbers of a map: kernel and padding on each side."""

    kernel: tuple[int, ...]
    padding: tuple[int, ...]
    features: int


def limited_pool(maps: Sequence[int], at_most: int) -> LimitedPool:
    """The pool for maps (C, …): the kernel's first side doubles, then its second, and so on by turns.

    Until ``at_most`` features are left, or a map is one number. Sizes that the kernel does not divide are
    padded with zeros, which count in the averages. Source: the published code of Nøkland & Eidnes 2019.
    """
    channels, *sides = maps
    kernel, left = [1] * len(sides), list(sides)
    turn = 0
    while channels * math.prod(left) > at_most and any(
        k < side for k, side in zip(kernel, sides, strict=True)
    ):
        if kernel[turn] < sides[turn]:
            kernel[turn] *= 2
            left[turn] = -(-sides[turn] // kernel[turn])
        turn = (turn + 1) % len(sides)
    padding = [k * (n - side // k) // 2 for k, n, side in zip(kernel, left, sides, strict=True)]
    return LimitedPool(tuple(kernel), tuple(padding), channels * math.prod(left))


def spread_patches(gradient: Tensor, shape: Sequence[int]) -> Tensor:
    """The gradient of maps (N, C, H, W) from that of their patch means, (N, P²·C) → (N, C, H, W).

    For maps that fall into patches of equal size.
    """
    n, c, height, width = shape
    patches = math.isqrt(gradient.shape[1] // c)
    h, w = height // patches, width // patches
    cells = (gradient / (h * w)).view(n, patches, 1, patches, 1, c)
    return cells.expand(-1, -1, h, -1, w, -1).reshape(n, height, width, c).movedim(3, 1)
