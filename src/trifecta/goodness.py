"""Goodness: one number for how strongly a block responds to a sample.

Shapes: N samples; ``…`` any feature dimensions, all of which are reduced.
Half-precision activations are reduced in float32, wider ones in their own precision.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Goodness = Callable[[Tensor], Tensor]


def mean_square(activations: Tensor) -> Tensor:
    """Mean of the squared activations, (N, …) → (N,): ``mean_i a_i²``.

    Source: Dooms et al. 2023 (arXiv 2311.18130). Unlike the sum it does not grow with the width,
    so that one threshold or α serves every block.
    """
    return _features(activations).square().mean(1)


def sum_square(activations: Tensor) -> Tensor:
    """Sum of the squared activations, (N, …) → (N,): ``Σ_i a_i²``. Source: Hinton 2022, section 2."""
    return _features(activations).square().sum(1)


def mean(activations: Tensor) -> Tensor:
    """Mean activation, (N, …) → (N,): ``mean_i a_i``, for activations that are never negative.

    Source: Sun et al. 2025 (DeeperForward, ICLR), which argues that the square favours few loud units.
    """
    return _features(activations).mean(1)


def _features(activations: Tensor) -> Tensor:
    flat = activations.flatten(1)
    return flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat


GOODNESS: dict[str, Goodness] = {"mean-square": mean_square, "sum-square": sum_square, "mean": mean}
