"""Means over patches of a map, which local classifiers read."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


def divides(patches: int, maps: Sequence[int]) -> bool:
    """Whether maps (…, H, W) fall into P×P patches of equal size."""
    return maps[-2] % patches == 0 and maps[-1] % patches == 0


def patch_means(maps: Tensor, patches: int) -> Tensor:
    """Mean of each channel in each of P×P patches, (N, C, H, W) → (N, P²·C), patch by patch.

    Maps that P does not divide have patches that overlap or differ in size, as in
    ``F.adaptive_avg_pool2d``, which takes several times as long (CPU).
    """
    if divides(patches, maps.shape):
        means = F.avg_pool2d(maps, (maps.shape[2] // patches, maps.shape[3] // patches))
    else:
        means = F.adaptive_avg_pool2d(maps, patches)
    return means.movedim(1, 3).flatten(1)


class LimitedPool(NamedTuple):
    """An average pool that leaves at most so many numbers of a map: kernel and padding, (height, width)."""

    kernel: tuple[int, int]
    padding: tuple[int, int]
    features: int


def limited_pool(maps: Sequence[int], at_most: int) -> LimitedPool:
    """The pool for maps (C, H, W): the kernel's height doubles, then its width, and so on by turns.

    Until ``at_most`` features are left, or a map is one number. Sizes that the kernel does not divide are
    padded with zeros, which count in the averages. Source: the published code of Nøkland & Eidnes 2019.
    """
    channels, *sides = maps
    kernel, left = [1, 1], list(sides)
    turn = 0
    while channels * left[0] * left[1] > at_most and any(
        k < side for k, side in zip(kernel, sides, strict=True)
    ):
        if kernel[turn] < sides[turn]:
            kernel[turn] *= 2
            left[turn] = -(-sides[turn] // kernel[turn])
        turn = 1 - turn
    padding = [k * (n - side // k) // 2 for k, n, side in zip(kernel, left, sides, strict=True)]
    return LimitedPool((kernel[0], kernel[1]), (padding[0], padding[1]), channels * left[0] * left[1])


def spread_patches(gradient: Tensor, shape: Sequence[int]) -> Tensor:
    """The gradient of maps (N, C, H, W) from that of their patch means, (N, P²·C) → (N, C, H, W).

    For maps that fall into patches of equal size.
    """
    n, c, height, width = shape
    patches = math.isqrt(gradient.shape[1] // c)
    h, w = height // patches, width // patches
    cells = (gradient / (h * w)).view(n, patches, 1, patches, 1, c)
    return cells.expand(-1, -1, h, -1, w, -1).reshape(n, height, width, c).movedim(3, 1)
