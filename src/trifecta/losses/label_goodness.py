"""Goodness of every label at once, in one pass without negatives.

The label enters a block behind its weights, as a learned shift of each channel, and only there: what goes
on to the next block knows no label, so that one pass trains and one pass predicts.

Shapes: N samples, K classes; a block's response before its activation (N, C, …) or (N, C).
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta._utils.checks import MOST_UNITS, require_ranges
from trifecta._utils.chunks import chunk_rows
from trifecta.losses.head import Head, Objective, at_least_float32
from trifecta.nn.pooling import patch_means
from trifecta.nn.shapes import FeatureShape


def label_goodness(response: Tensor, shifts: Tensor) -> Tensor:
    """Goodness of each label, (N, C, …), (K, C) → (N, K): ``mean_i relu(response_i + shifts_k)²``.

    The mean is over channels and positions. Kept for the backward pass is the response alone, not one map
    for each label.
    """
    goodness: Tensor = _LabelGoodness.apply(response, shifts)  # type: ignore[no-untyped-call]
    return goodness


class _LabelGoodness(torch.autograd.Function):
    """Pieces of the batch that stay in cache, one label after the other."""

    @staticmethod
    def forward(ctx: Any, response: Tensor, shifts: Tensor) -> Tensor:
        ctx.save_for_backward(response, shifts)
        goodness = response.new_empty(len(response), len(shifts))
        features = tuple(range(1, response.ndim))
        for rows in _pieces(response):
            piece = response[rows]
            buffer = torch.empty_like(piece)
            for k, shift in enumerate(_as_maps(shifts, response)):
                torch.add(piece, shift, out=buffer).relu_()
                goodness[rows, k] = torch.linalg.vector_norm(buffer, dim=features)
        return goodness.square_().div_(response[0].numel())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        response, shifts = ctx.saved_tensors
        # d goodness_k / d response_i = 2 · relu(response_i + shifts_k) / number of i
        factors = gradients[0] * (2 / response[0].numel())
        by_response, by_shifts = torch.zeros_like(response), torch.zeros_like(shifts)
        all_but_channels = (0, *range(2, response.ndim))
        for rows in _pieces(response):
            piece, total = response[rows], by_response[rows]
            buffer = torch.empty_like(piece)
            for k, shift in enumerate(_as_maps(shifts, response)):
                torch.add(piece, shift, out=buffer).relu_()
                buffer.mul_(factors[rows, k].view(-1, *[1] * (response.ndim - 1)))
                total.add_(buffer)
                by_shifts[k] += buffer.sum(all_but_channels)
        return by_response, by_shifts


def _pieces(response: Tensor) -> list[slice]:
    return chunk_rows(len(response), 2 * response[0].numel() * response.itemsize, response.device)


def _as_maps(shifts: Tensor, response: Tensor) -> Tensor:
    return shifts.view(*shifts.shape, *[1] * (response.ndim - 2))


class LabelGoodnessHead(Head):
    """Cross-entropy over ``alpha`` times the goodness of each label: :func:`label_goodness`.

    Of the means of the response in P×P patches, with a shift for each channel and patch; or of the response
    itself, with one for each channel, where ``pool`` is 0.
    """

    def __init__(self, feature_shape: FeatureShape, num_classes: int, *, alpha: float, pool: int) -> None:
        super().__init__()
        positions = len(feature_shape) - 1
        self.alpha, self.pool = alpha, pool if positions else 0
        features = feature_shape[0] * max(1, self.pool) ** positions
        self.shifts = nn.Parameter(torch.empty(num_classes, features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small shifts: labels differ little at first."""
        nn.init.normal_(self.shifts, std=0.1)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, …), (B,) → ()."""
        return F.cross_entropy(self.scores(features), labels)

    def scores(self, features: Tensor) -> Tensor:
        """(N, …) → (N, K)."""
        if self.pool:
            features = patch_means(features, self.pool)
        with torch.autocast(features.device.type, enabled=False):
            wide = at_least_float32(features)
            return self.alpha * label_goodness(wide, self.shifts.to(wide.dtype))


@dataclass(frozen=True, kw_only=True)
class LabelGoodness(Objective):
    """Cross-entropy over the goodness of all labels: :class:`LabelGoodnessHead`.

    Of two labels it is the symmetric loss: ``softplus(−alpha · (goodness_true − goodness_wrong))``.

    Attributes:
        alpha: what a goodness is multiplied by, as in :class:`trifecta.losses.Symmetric`.
        pool: goodness of the response's means in P×P patches; 0 for the response as it is.
    """

    kind: ClassVar[str] = "label-goodness"
    reads: ClassVar[str] = "response"
    alpha: float = 16.0
    pool: int = 4

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, alpha=(1e-9, math.inf), pool=(0, MOST_UNITS))

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose response is ``(N, *feature_shape)``."""
        return LabelGoodnessHead(feature_shape, num_classes, alpha=self.alpha, pool=self.pool)
