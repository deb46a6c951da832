"""Goodness: one number for how strongly a block responds to a sample.

Shapes: N samples; K classes; ``…`` any feature dimensions, all of which are reduced.
Half-precision activations are reduced in float32, wider ones in their own precision. Where a fused
window has left the sums over positions behind (:class:`ChannelSums`), they take the activations' place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trifecta.nn.pooling import patch_means


class ChannelSums(NamedTuple):
    """Sums over the positions of each channel of activations (N, C, …): all that a goodness needs.

    Attributes:
        sums: ``Σ_p a_p``, (N, C); (0,), like the squares, where a head needs neither.
        squares: ``Σ_p a_p²``, (N, C).
        positions: how many p there are; 1 for fully connected blocks.
        patch_means: :func:`trifecta.nn.pooling.patch_means`, (N, P²·C), where a head asked for them.
    """

    sums: Tensor
    squares: Tensor
    positions: int
    patch_means: Tensor | None = None


# The strongest activations, one in so many, are the top.
TOP_ONE_IN = 50
# (N, …) → (N,). One of the table below may be given :class:`ChannelSums` in place of activations.
Goodness = Callable[[Any], Tensor]
# (N, C, …), (C, K) bool → (N, K), likewise.
GroupGoodness = Callable[[Any, Tensor], Tensor]


def mean_square(activations: Tensor | ChannelSums) -> Tensor:
    """Mean of the squared activations, (N, …) → (N,): ``mean_i a_i²``.

    Source: Dooms et al. 2023 (arXiv 2311.18130). Unlike the sum it does not grow with the width,
    so that one threshold or α serves every block.
    """
    if isinstance(activations, ChannelSums):
        return activations.squares.mean(1) / activations.positions
    return _wide(activations).square().mean(_but_first(activations))


def sum_square(activations: Tensor | ChannelSums) -> Tensor:
    """Sum of the squared activations, (N, …) → (N,): ``Σ_i a_i²``. Source: Hinton 2022, section 2."""
    if isinstance(activations, ChannelSums):
        return activations.squares.sum(1)
    return _wide(activations).square().sum(_but_first(activations))


def mean(activations: Tensor | ChannelSums) -> Tensor:
    """Mean activation, (N, …) → (N,): ``mean_i a_i``, for activations that are never negative.

    Source: Sun et al. 2025 (DeeperForward, ICLR), which argues that the square favours few loud units.
    """
    if isinstance(activations, ChannelSums):
        return activations.sums.mean(1) / activations.positions
    return _wide(activations).mean(_but_first(activations))


def top_mean_square(activations: Tensor) -> Tensor:
    """Mean of the squares of the strongest activations, one in fifty, (N, …) → (N,).

    Source: the idea of *Sparse Goodness* (arXiv 2604.13081, 2026), of which the abstract was at hand; the
    share is ours.
    """
    features = _wide(activations).flatten(1)
    strongest, _ = features.topk(max(1, features.shape[1] // TOP_ONE_IN), dim=1, sorted=False)
    return strongest.square().mean(1)


def group_mean_square(activations: Tensor | ChannelSums, groups: Tensor) -> Tensor:
    """Mean square of each group of channels, (N, C, …), (C, K) → (N, K): ``mean_{i in group} a_i²``.

    Column k of ``groups`` is True for the channels of group k. Source: Papachristodoulou
    et al. 2024 (CwComp, AAAI, arXiv 2312.12668), where channels compete for classes.
    """
    if isinstance(activations, ChannelSums):
        squares = activations.squares / activations.positions
    else:
        squares = _per_channel(_wide(activations).square())
    return group_means(squares, groups)


def group_mean(activations: Tensor | ChannelSums, groups: Tensor) -> Tensor:
    """Mean activation of each group of channels, (N, C, …), (C, K) → (N, K): ``mean_{i in group} a_i``.

    ``groups`` as in :func:`group_mean_square`. Source: Sun et al. 2025 (DeeperForward, ICLR).
    """
    if isinstance(activations, ChannelSums):
        means = activations.sums / activations.positions
    else:
        means = _per_channel(_wide(activations))
    return group_means(means, groups)


def patch_rms(activations: Tensor, patches: int) -> Tensor:
    """Root mean square of each channel in each patch of its map, (N, C, H, W) → (N, P²·C); maps alike.

    ``sqrt(mean_{i in patch} a_i² + 1e-8)``; of (N, C) the magnitude of each. Source: Gong et al. 2025
    (ASGE, arXiv 2509.12394).
    """
    squares = _wide(activations).square()
    if squares.ndim > 2:
        squares = patch_means(squares, patches)
    return (squares.flatten(1) + 1e-8).sqrt()


def _per_channel(values: Tensor) -> Tensor:
    return values.reshape(*values.shape[:2], -1).mean(2)


def group_means(values: Tensor, groups: Tensor) -> Tensor:
    """Mean over each group, (N, C), (C, K) bool → (N, K)."""
    with torch.autocast(values.device.type, enabled=False):
        return values @ groups.to(values.dtype) / groups.sum(0)


def _but_first(activations: Tensor) -> tuple[int, ...]:
    """All dimensions but the samples': flattening them would copy channels-last maps."""
    return tuple(range(1, activations.ndim))


def _wide(activations: Tensor) -> Tensor:
    half = activations.dtype in (torch.bfloat16, torch.float16)
    return activations.float() if half else activations


GOODNESS: dict[str, Goodness] = {
    "mean-square": mean_square,
    "sum-square": sum_square,
    "mean": mean,
    "top-k": top_mean_square,
}
GROUP_GOODNESS: dict[str, GroupGoodness] = {
    "mean-square": group_mean_square,
    "mean": group_mean,
}


def reads_channel_sums(goodness: Goodness | GroupGoodness) -> bool:
    """Whether :class:`ChannelSums` will do in place of activations."""
    return goodness in (mean_square, sum_square, mean, *GROUP_GOODNESS.values())
