"""Heads that read class scores off goodness: from groups of channels, or through a fixed projection.

Shapes: N samples, K classes; features (N, C, …) or (N, C).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta._utils.checks import MOST_UNITS, require_ranges
from trifecta._utils.references import part_of
from trifecta.losses.goodness import (
    GROUP_GOODNESS,
    ChannelSums,
    GroupGoodness,
    patch_rms,
    reads_channel_sums,
)
from trifecta.losses.head import Head, Objective, at_least_float32
from trifecta.nn.pooling import patch_means
from trifecta.nn.shapes import FeatureShape, channel_groups


class GroupHead(Head):
    """Channels split into one group per class; a class's score is the goodness of its group."""

    groups: Tensor

    def __init__(
        self,
        feature_shape: FeatureShape,
        num_classes: int,
        *,
        goodness: str | GroupGoodness = "mean-square",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.goodness = part_of(GROUP_GOODNESS, goodness, "group goodness")
        self.reads_channel_sums = reads_channel_sums(self.goodness)
        self.temperature = temperature
        member = F.one_hot(channel_groups(feature_shape[0], num_classes), num_classes).bool()
        self.register_buffer("groups", member, persistent=False)

    def scores(self, features: Tensor | ChannelSums) -> Tensor:
        """(N, …) → (N, K)."""
        return self.goodness(features, self.groups) / self.temperature


class ProjectionHead(Head):
    """Goodness of patches through a fixed random projection; nothing but a temperature is learned."""

    projection: Tensor

    def __init__(
        self, feature_shape: FeatureShape, num_classes: int, *, patches: int, learned_temperature: bool
    ) -> None:
        super().__init__()
        positions = len(feature_shape) - 1
        self.patches = patches
        size = feature_shape[0] * patches**positions
        self.register_buffer("projection", torch.randn(size, num_classes) / math.sqrt(size))
        # exp(log_scale) = 1/temperature stays positive.
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learned_temperature)

    def scores(self, features: Tensor) -> Tensor:
        """(N, …) → (N, K)."""
        goodness = patch_rms(features, self.patches)
        # Standardised per sample: a random projection of the common level would be noise in every class.
        goodness = F.layer_norm(goodness, goodness.shape[1:])
        with torch.autocast(goodness.device.type, enabled=False):
            logits = goodness @ self.projection.to(goodness.dtype)
            return logits * self.log_scale.exp().to(goodness.dtype)


@dataclass(frozen=True, kw_only=True)
class GroupCrossEntropy(Objective):
    """Cross-entropy over the ``goodness`` of class groups of channels over a ``temperature``."""

    kind: ClassVar[str] = "group-cross-entropy"
    goodness: str | GroupGoodness = "mean-square"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, temperature=(1e-9, math.inf))

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is ``(N, *feature_shape)``."""
        return GroupHead(feature_shape, num_classes, goodness=self.goodness, temperature=self.temperature)


@dataclass(frozen=True, kw_only=True)
class ProjectedCrossEntropy(Objective):
    """Cross-entropy over the projected goodness of ``patches``×``patches``: :class:`ProjectionHead`."""

    kind: ClassVar[str] = "projected-cross-entropy"
    patches: int = 4
    learned_temperature: bool = False

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, patches=(1, MOST_UNITS))

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is ``(N, *feature_shape)``."""
        return ProjectionHead(
            feature_shape,
            num_classes,
            patches=self.patches,
            learned_temperature=self.learned_temperature,
        )


# Distances between unit vectors are at most 4: too little for a softmax to be sure.
SHARPNESS = 8.0


class CentroidHead(Head):
    """A learned centroid per class; a class's score is how near the averages of the maps are to it."""

    weighs_classes = True

    def __init__(self, feature_shape: FeatureShape, num_classes: int, *, pool: int, margin: float) -> None:
        super().__init__()
        positions = len(feature_shape) - 1
        self.pool, self.margin = pool, margin
        size = feature_shape[0] * pool**positions
        self.centroids = nn.Parameter(torch.empty(num_classes, size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Centroids of length about 1."""
        nn.init.normal_(self.centroids, std=self.centroids.shape[1] ** -0.5)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, …), (B,) → (): ``mean log(1 + Σ_wrong exp(margin + scores_wrong − scores_true))``."""
        scores = self.scores(features)
        own = F.one_hot(labels, scores.shape[1]).bool()
        return self.cross_entropy(scores.where(own, scores + self.margin), labels)

    def scores(self, features: Tensor) -> Tensor:
        """(N, …) → (N, K): ``−SHARPNESS · |features − centroid|²``, features of length 1."""
        if features.ndim > 2:
            features = patch_means(features, self.pool)
        with torch.autocast(features.device.type, enabled=False):
            unit = F.normalize(at_least_float32(features.flatten(1)))
            centroids = self.centroids.to(unit.dtype)
            squares = unit.square().sum(1, keepdim=True) + centroids.square().sum(1)
            return (2 * unit @ centroids.T - squares) * SHARPNESS


@dataclass(frozen=True, kw_only=True)
class CentroidMargin(Objective):
    """Nearest centroid by a ``margin``, N-pair: :class:`CentroidHead`."""

    kind: ClassVar[str] = "centroid-margin"
    pool: int = 4
    margin: float = 1.0

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, pool=(1, MOST_UNITS), margin=(0, math.inf))

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is ``(N, *feature_shape)``."""
        return CentroidHead(feature_shape, num_classes, pool=self.pool, margin=self.margin)
