"""Goodness of every label at once, in one pass without negatives.

The label enters beside a block, as a learned shift of what it computed, and only there: what goes on to the
next block knows no label, so that one pass trains and one pass predicts.

Shapes: N samples, K classes; a block's features (N, C, …) or (N, C).
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trifecta._utils.checks import MOST_UNITS, chunk_rows, require_ranges
from trifecta.losses.goodness import ChannelSums
from trifecta.losses.head import Head, Objective, at_least_float32
from trifecta.nn.pooling import divides, patch_means
from trifecta.nn.shapes import FeatureShape

READS = ("output", "response")


def label_goodness(features: Tensor, shifts: Tensor) -> Tensor:
    """Goodness of each label, (N, C, …), (K, C) → (N, K): ``mean_i relu(features_i + shifts_k)²``.

    The mean is over channels and positions. The features alone are kept for the backward pass, not one map
    for each label.
    """
    if torch.compiler.is_compiling():
        # Traced for batches of any size, which pieces have not.
        maps = _as_maps(shifts, features)
        return (features.unsqueeze(1) + maps).relu().square().flatten(2).mean(2)
    goodness: Tensor = _LabelGoodness.apply(features, shifts)  # type: ignore[no-untyped-call]
    return goodness


class _LabelGoodness(torch.autograd.Function):
    """Pieces of the batch that stay in cache, one label after the other."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, shifts: Tensor) -> Tensor:
        ctx.save_for_backward(features, shifts)
        goodness = features.new_empty(len(features), len(shifts))
        but_samples = tuple(range(1, features.ndim))
        for rows in _pieces(features):
            piece = features[rows]
            buffer = torch.empty_like(piece)
            for k, shift in enumerate(_as_maps(shifts, features)):
                torch.add(piece, shift, out=buffer).relu_()
                goodness[rows, k] = torch.linalg.vector_norm(buffer, dim=but_samples)
        return goodness.square_().div_(features[0].numel())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        features, shifts = ctx.saved_tensors
        # d goodness_k / d features_i = 2 · relu(features_i + shifts_k) / number of i
        factors = gradients[0] * (2 / features[0].numel())
        by_features, by_shifts = torch.zeros_like(features), torch.zeros_like(shifts)
        all_but_channels = (0, *range(2, features.ndim))
        for rows in _pieces(features):
            piece, total = features[rows], by_features[rows]
            buffer = torch.empty_like(piece)
            for k, shift in enumerate(_as_maps(shifts, features)):
                torch.add(piece, shift, out=buffer).relu_()
                buffer.mul_(factors[rows, k].view(-1, *[1] * (features.ndim - 1)))
                total.add_(buffer)
                by_shifts[k] += buffer.sum(all_but_channels)
        return by_features, by_shifts


def _pieces(features: Tensor) -> list[slice]:
    return chunk_rows(len(features), 2 * features[0].numel() * features.itemsize, features.device)


def _as_maps(shifts: Tensor, features: Tensor) -> Tensor:
    return shifts.view(*shifts.shape, *[1] * (features.ndim - 2))


class LabelGoodnessHead(Head):
    """Cross-entropy over ``alpha`` times the goodness of each label: :func:`label_goodness`.

    Of the means of P×P patches, with a shift for each channel and patch; or of every position, with one for
    each channel, where ``pool`` is 0.
    """

    def __init__(self, feature_shape: FeatureShape, num_classes: int, *, alpha: float, pool: int) -> None:
        super().__init__()
        positions = feature_shape[1:]
        self.alpha, self.pool = alpha, pool if positions else 0
        if self.pool > 1 and len(positions) == 2 and divides(self.pool, positions):
            self.reads_patch_means = self.pool
        features = feature_shape[0] * max(1, self.pool) ** len(positions)
        self.shifts = nn.Parameter(torch.empty(num_classes, features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small shifts: labels differ little at first."""
        nn.init.normal_(self.shifts, std=0.1)

    def scores(self, features: Tensor | ChannelSums) -> Tensor:
        """(N, …) → (N, K)."""
        if isinstance(features, ChannelSums):
            assert features.patch_means is not None
            features = features.patch_means
        elif self.pool:
            features = patch_means(features, self.pool)
        wide = at_least_float32(features)
        return self.alpha * label_goodness(wide, self.shifts.to(wide.dtype))


@dataclass(frozen=True, kw_only=True)
class LabelGoodness(Objective):
    """Cross-entropy over the goodness of all labels: :class:`LabelGoodnessHead`.

    Of two labels it is the symmetric loss: ``softplus(−alpha · (goodness_true − goodness_wrong))``.

    Attributes:
        alpha: what a goodness is multiplied by, as in :class:`trifecta.losses.Symmetric`.
        pool: goodness of the means of P×P patches; 0 for that of every position.
        reads: ``output`` or ``response``: behind the block's activation and pool, or before both.
    """

    kind: ClassVar[str] = "label-goodness"
    alpha: float = 128.0
    pool: int = 4
    reads: str = "output"

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, alpha=(1e-9, math.inf), pool=(0, MOST_UNITS))
        if self.reads not in READS:
            raise ValueError(f"label goodness reads {' or '.join(READS)}: received '{self.reads}'")

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block that shows it ``(N, *feature_shape)``."""
        return LabelGoodnessHead(feature_shape, num_classes, alpha=self.alpha, pool=self.pool)
