"""Goodness: one number for how strongly a block responds to a sample.

Shapes: N samples; ``…`` any feature dimensions, all of which are reduced.
Half-precision activations are reduced in float32, wider ones in their own precision. Where a fused
window has left the sums over positions behind (:class:`Moments`), they take the activations' place.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """All that a goodness needs of activations (N, C, …): sums over the positions of each channel.

    Attributes:
        sums: ``Σ_p a_p``, (N, C).
        squares: ``Σ_p a_p²``, (N, C).
        positions: how many p there are; 1 for fully connected blocks.
    """

    sums: Tensor
    squares: Tensor
    positions: int


Goodness = Callable[[Tensor | Moments], Tensor]


def mean_square(activations: Tensor | Moments) -> Tensor:
    """Mean of the squared activations, (N, …) → (N,): ``mean_i a_i²``.

    Source: Dooms et al. 2023 (arXiv 2311.18130). Unlike the sum it does not grow with the width,
    so that one threshold or α serves every block.
    """
    if isinstance(activations, Moments):
        return activations.squares.mean(1) / activations.positions
    return _features(activations).square().mean(1)


def sum_square(activations: Tensor | Moments) -> Tensor:
    """Sum of the squared activations, (N, …) → (N,): ``Σ_i a_i²``. Source: Hinton 2022, section 2."""
    if isinstance(activations, Moments):
        return activations.squares.sum(1)
    return _features(activations).square().sum(1)


def mean(activations: Tensor | Moments) -> Tensor:
    """Mean activation, (N, …) → (N,): ``mean_i a_i``, for activations that are never negative.

    Source: Sun et al. 2025 (DeeperForward, ICLR), which argues that the square favours few loud units.
    """
    if isinstance(activations, Moments):
        return activations.sums.mean(1) / activations.positions
    return _features(activations).mean(1)


def group_mean_square(activations: Tensor | Moments, groups: Tensor) -> Tensor:
    """Mean square of each group of channels, (N, C, …), (C, K) → (N, K): ``mean_{i in group} a_i²``.

    Column k of ``groups`` holds 1/size for the channels of group k, 0 elsewhere. Source: Papachristodoulou
    et al. 2024 (CwComp, AAAI, arXiv 2312.12668), where channels compete for classes.
    """
    if isinstance(activations, Moments):
        squares = activations.squares / activations.positions
    else:
        squares = _wide(activations).square().reshape(*activations.shape[:2], -1).mean(2)
    with torch.autocast(squares.device.type, enabled=False):
        return squares @ groups.to(squares.dtype)


def _features(activations: Tensor) -> Tensor:
    return _wide(activations).flatten(1)


def _wide(activations: Tensor) -> Tensor:
    half = activations.dtype in (torch.bfloat16, torch.float16)
    return activations.float() if half else activations


GOODNESS: dict[str, Goodness] = {"mean-square": mean_square, "sum-square": sum_square, "mean": mean}
