"""Cross-entropy over scores that are a goodness of classes: of channel groups, projections or labels.

Shapes: N samples, K classes; features (N, C, …) or (N, C).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta._utils.devices import chunk_rows
from trifecta._utils.references import part_of
from trifecta.losses.functional import at_least_float32
from trifecta.losses.goodness import (
    GROUP_GOODNESS,
    READ_CHANNEL_SUMS,
    ChannelSums,
    GroupGoodness,
    averages,
    kernel_patches,
    patch_rms,
)
from trifecta.losses.head import Head, Site, SiteObjective, bounded, units
from trifecta.nn.shapes import channel_groups

# Distances between unit vectors are at most 4: too little for a confident softmax.
SHARPNESS = 8.0


class GroupHead(Head):
    """The head of :class:`GroupCrossEntropy`; has no parameters."""

    groups: Tensor

    def __init__(self, objective: "GroupCrossEntropy", site: Site) -> None:
        super().__init__()
        self.goodness = part_of(GROUP_GOODNESS, objective.goodness, "group goodness")
        self.reads_channel_sums = self.goodness in READ_CHANNEL_SUMS
        self.temperature = objective.temperature
        groups = channel_groups(site.feature_shape[0], site.num_classes)
        self.register_buffer("groups", F.one_hot(groups).bool(), persistent=False)

    def scores(self, features: Tensor | ChannelSums) -> Tensor:
        """Return class scores, (N, …) → (N, K)."""
        return self.goodness(features, self.groups) / self.temperature


@dataclass(frozen=True, kw_only=True)
class GroupCrossEntropy(SiteObjective):
    """Each class owns a group of channels, whose goodness over a temperature is its score."""

    kind: ClassVar[str] = "group-cross-entropy"
    head_class = GroupHead
    # A name in GROUP_GOODNESS, or a function (N, C, …), (C, K) → (N, K).
    goodness: str | GroupGoodness = "mean-square"
    temperature: float = bounded(1.0, 1e-9)


class _ProjectionHead(Head):
    projection: Tensor

    def __init__(self, objective: "ProjectedCrossEntropy", site: Site) -> None:
        super().__init__()
        self.patches = objective.patches
        size = site.averages(self.patches)
        self.register_buffer("projection", torch.randn(size, site.num_classes) / math.sqrt(size))
        # exp(log_scale) = 1/temperature stays positive.
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=objective.learned_temperature)

    def scores(self, features: Tensor) -> Tensor:
        goodness = patch_rms(features, self.patches)
        # A random projection of the level that a sample's goodness has in common would be noise.
        goodness = F.layer_norm(goodness, goodness.shape[1:])
        with torch.autocast(goodness.device.type, enabled=False):
            return goodness @ self.projection.to(goodness.dtype) * self.log_scale.exp()


@dataclass(frozen=True, kw_only=True)
class ProjectedCrossEntropy(SiteObjective):
    """A fixed random projection turns the goodness of patches into class scores."""

    kind: ClassVar[str] = "projected-cross-entropy"
    head_class = _ProjectionHead
    patches: int = units(4)  # P of the P×P patches of each map
    learned_temperature: bool = False  # divide the scores by a temperature that is learned


class _CentroidHead(Head):
    weighs_classes = True

    def __init__(self, objective: "CentroidMargin", site: Site) -> None:
        super().__init__()
        self.pool, self.margin = objective.pool, objective.margin
        size = site.averages(self.pool)
        # Of length 1, about.
        self.centroids = nn.Parameter(torch.empty(site.num_classes, size).normal_(std=size**-0.5))

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        scores = self.scores(features)
        own = F.one_hot(labels, scores.shape[1]).bool()
        return self.cross_entropy(scores.where(own, scores + self.margin), labels)

    def scores(self, features: Tensor) -> Tensor:
        means = averages(features, self.pool).flatten(1)
        with torch.autocast(means.device.type, enabled=False):
            unit = F.normalize(at_least_float32(means))
            centroids = self.centroids.to(unit.dtype)
            squares = unit.square().sum(1, keepdim=True) + centroids.square().sum(1)
            return (2 * unit @ centroids.T - squares) * SHARPNESS


@dataclass(frozen=True, kw_only=True)
class CentroidMargin(SiteObjective):
    """N-pair loss with a margin: ``mean log(1 + Σ_wrong exp(margin + score_wrong − score_true))``.

    Scores are ``−SHARPNESS · |f − centroid|²``, with f the averages of the maps scaled to length 1.
    """

    kind: ClassVar[str] = "centroid-margin"
    head_class = _CentroidHead
    pool: int = units(4)  # P of the P×P averages of each map
    margin: float = bounded(1.0, 0)


class _LabelGoodnessHead(Head):
    def __init__(self, objective: "LabelGoodness", site: Site) -> None:
        super().__init__()
        self.alpha, self.pool = objective.alpha, objective.pool
        self.reads_patch_means = kernel_patches(self.pool, site.feature_shape[1:])
        size = site.averages(max(1, self.pool))
        # Small, so that labels differ little at first.
        self.shifts = nn.Parameter(torch.empty(site.num_classes, size).normal_(std=0.1))

    def scores(self, features: Tensor | ChannelSums) -> Tensor:
        means = at_least_float32(averages(features, self.pool))
        return self.alpha * label_goodness(means, self.shifts)


@dataclass(frozen=True, kw_only=True)
class LabelGoodness(SiteObjective):
    """Cross-entropy over ``alpha · label_goodness(features, shifts)``: one pass, no negatives.

    A label enters next to the block, as a learned shift of its features that is not passed on. For two
    labels this is the symmetric loss, ``softplus(−alpha · (goodness_true − goodness_wrong))``.
    """

    kind: ClassVar[str] = "label-goodness"
    head_class = _LabelGoodnessHead
    alpha: float = bounded(128.0, 1e-9)  # factor of the goodness
    pool: int = units(4, least=0)  # P of P×P patch means, each with shifts of its own; 0 for all positions
    # After the block's activation and pool, or "response": before both.
    reads: str = "output"  # type: ignore[misc]


def label_goodness(features: Tensor, shifts: Tensor) -> Tensor:
    """Return ``mean_i relu(features_i + shifts_k)²`` of each label k, (N, C, …), (K, C) → (N, K).

    Only the features are kept for the backward pass, not one map per label.
    """
    if torch.compiler.is_compiling():
        # Compiled code takes batches of any size; pieces do not.
        return (features.unsqueeze(1) + _as_maps(shifts, features)).relu().square().flatten(2).mean(2)
    goodness: Tensor = _LabelGoodness.apply(features, shifts)  # type: ignore[no-untyped-call]
    return goodness


class _LabelGoodness(torch.autograd.Function):
    """The goodness and its gradient, one label after the other."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, shifts: Tensor) -> Tensor:
        ctx.save_for_backward(features, shifts)
        goodness = features.new_empty(len(features), len(shifts))
        for rows, k, rectified in _rectified(features, shifts):
            goodness[rows, k] = torch.linalg.vector_norm(rectified, dim=tuple(range(1, features.ndim)))
        return goodness.square_().div_(features[0].numel())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        features, shifts = ctx.saved_tensors
        # d goodness_k / d features_i = 2 · relu(features_i + shifts_k) / number of i
        factors = gradients[0] * (2 / features[0].numel())
        by_features, by_shifts = torch.zeros_like(features), torch.zeros_like(shifts)
        for rows, k, rectified in _rectified(features, shifts):
            rectified.mul_(factors[rows, k].view(-1, *[1] * (features.ndim - 1)))
            by_features[rows].add_(rectified)
            by_shifts[k] += rectified.sum((0, *range(2, features.ndim)))
        return by_features, by_shifts


def _rectified(features: Tensor, shifts: Tensor) -> Iterator[tuple[slice, int, Tensor]]:
    """Yield ``relu(features + shift)`` of every label k, for pieces of the batch that stay in cache."""
    maps = _as_maps(shifts, features)
    for rows in chunk_rows(len(features), 2 * features[0].numel() * features.itemsize, features.device):
        piece = features[rows]
        buffer = torch.empty_like(piece)
        for k, shift in enumerate(maps):
            yield rows, k, torch.add(piece, shift, out=buffer).relu_()


def _as_maps(shifts: Tensor, features: Tensor) -> Tensor:
    return shifts.view(*shifts.shape, *[1] * (features.ndim - 2))
