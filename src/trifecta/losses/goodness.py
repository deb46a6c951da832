"""Goodness: how strongly a block responds to a sample, as one number or one per class.

Shapes: N samples; C channels; K classes; ``…`` positions, all of which are reduced. Half-precision
activations are reduced in float32. Functions that accept :class:`ChannelSums` give the same result.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trifecta.losses.functional import at_least_float32
from trifecta.nn.convolution import divides, patch_means


class ChannelSums(NamedTuple):
    """Sums over the positions of each channel of activations (N, C, …) that a kernel leaves for a head."""

    sums: Tensor  #: ``Σ_p a_p``, (N, C); (0,), like the squares, where a head needs neither
    squares: Tensor  #: ``Σ_p a_p²``, (N, C)
    positions: int  #: number of positions p; 1 for fully connected blocks
    patch_means: Tensor | None = None  #: means of P×P patches, (N, P²·C), where a head asks for them


# (N, …) → (N,), and (N, C, …), (C, K) bool → (N, K).
Goodness = Callable[[Any], Tensor]
GroupGoodness = Callable[[Any, Tensor], Tensor]
# Inverse share of the activations that ``top_mean_square`` reads.
TOP_ONE_IN = 50


def mean_square(activations: Tensor | ChannelSums) -> Tensor:
    """Return ``mean_i a_i²``, (N, …) → (N,).

    It does not grow with the width, so one threshold or alpha serves every block.
    Source: Dooms et al. 2023 (arXiv 2311.18130).
    """
    if isinstance(activations, ChannelSums):
        return activations.squares.mean(1) / activations.positions
    return at_least_float32(activations).square().mean(_feature_dims(activations))


def sum_square(activations: Tensor | ChannelSums) -> Tensor:
    """Return ``Σ_i a_i²``, (N, …) → (N,). Source: Hinton 2022, section 2."""
    if isinstance(activations, ChannelSums):
        return activations.squares.sum(1)
    return at_least_float32(activations).square().sum(_feature_dims(activations))


def mean(activations: Tensor | ChannelSums) -> Tensor:
    """Return ``mean_i a_i``, (N, …) → (N,), for activations that are never negative.

    Source: Sun et al. 2025 (DeeperForward, ICLR), which argues that the square favours a few loud units.
    """
    if isinstance(activations, ChannelSums):
        return activations.sums.mean(1) / activations.positions
    return at_least_float32(activations).mean(_feature_dims(activations))


def top_mean_square(activations: Tensor) -> Tensor:
    """Return the mean square of the strongest activations, one in fifty, (N, …) → (N,).

    Source: the idea of *Sparse Goodness* (arXiv 2604.13081, 2026), from its abstract; the share is ours.
    """
    features = at_least_float32(activations).flatten(1)
    strongest, _ = features.topk(max(1, features.shape[1] // TOP_ONE_IN), sorted=False)
    return strongest.square().mean(1)


def group_mean_square(activations: Tensor | ChannelSums, groups: Tensor) -> Tensor:
    """Return ``mean_{i in group} a_i²`` of each group of channels, (N, C, …), (C, K) bool → (N, K).

    Source: Papachristodoulou et al. 2024 (CwComp, AAAI, arXiv 2312.12668): channels compete for classes.
    """
    if isinstance(activations, ChannelSums):
        return group_means(activations.squares / activations.positions, groups)
    return group_means(_channel_means(at_least_float32(activations).square()), groups)


def group_mean(activations: Tensor | ChannelSums, groups: Tensor) -> Tensor:
    """Return ``mean_{i in group} a_i``, likewise. Source: Sun et al. 2025 (DeeperForward, ICLR)."""
    if isinstance(activations, ChannelSums):
        return group_means(activations.sums / activations.positions, groups)
    return group_means(_channel_means(at_least_float32(activations)), groups)


def group_means(values: Tensor, groups: Tensor) -> Tensor:
    """Return the mean of each group, (N, C), (C, K) bool → (N, K)."""
    with torch.autocast(values.device.type, enabled=False):
        return values @ groups.to(values.dtype) / groups.sum(0)


def patch_rms(activations: Tensor, patches: int) -> Tensor:
    """Return ``sqrt(mean_{i in patch} a_i² + 1e-8)`` by channel and P×P patch, (N, C, …) → (N, P²·C).

    Source: Gong et al. 2025 (ASGE, arXiv 2509.12394).
    """
    return (averages(at_least_float32(activations).square(), patches) + 1e-8).sqrt()


def averages(features: Tensor | ChannelSums, patches: int) -> Tensor:
    """Return the means of P×P patches, (N, C, …) → (N, P²·C), or those that a kernel left.

    Units (N, C), and features with 0 patches, are returned as they are.
    """
    if isinstance(features, ChannelSums):
        means = features.patch_means
        return features.sums / features.positions if means is None else means
    return patch_means(features, patches) if patches and features.ndim > 2 else features


def kernel_patches(patches: int, positions: Sequence[int]) -> int:
    """Return P if a kernel can leave the means of P×P patches of maps with such positions; else 0."""
    return patches if patches > 1 and len(positions) == 2 and divides(patches, positions) else 0


def _channel_means(values: Tensor) -> Tensor:
    return values.reshape(*values.shape[:2], -1).mean(2)


def _feature_dims(activations: Tensor) -> tuple[int, ...]:
    """Return all dimensions but the first: flattening them would copy channels-last maps."""
    return tuple(range(1, activations.ndim))


GOODNESS: dict[str, Goodness] = {
    "mean-square": mean_square,
    "sum-square": sum_square,
    "mean": mean,
    "top-k": top_mean_square,
}
GROUP_GOODNESS: dict[str, GroupGoodness] = {"mean-square": group_mean_square, "mean": group_mean}
# Accept ChannelSums.
READ_CHANNEL_SUMS = (mean_square, sum_square, mean, group_mean_square, group_mean)
