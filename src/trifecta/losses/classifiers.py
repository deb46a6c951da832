"""Cross-entropy of a classifier on a block: of averages, at every position, or of at most so many numbers.

Shapes: N samples, K classes; features (N, C, …) or (N, F).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from trifecta.losses.functional import at_least_float32
from trifecta.losses.goodness import ChannelSums
from trifecta.losses.head import Head, Site, SiteObjective, bounded, units
from trifecta.nn.pooling import AVERAGE_POOLS, divides, limited_pool, patch_means


class ClassifierHead(Head):
    """The head of :class:`CrossEntropy`. Units of a fully connected block are maps of one position."""

    def __init__(self, objective: "CrossEntropy", site: Site) -> None:
        super().__init__()
        channels, *positions = site.feature_shape
        self.smoothing, self.dimensions = objective.smoothing, len(positions)
        self.pool = objective.pool if positions else 1
        if self.pool > 1 and len(positions) == 2 and divides(self.pool, positions):
            self.reads_patch_means = self.pool
        # Sums tell the average over all positions only.
        self.reads_channel_sums = self.pool == 1
        inputs = channels * self.pool ** len(positions) if self.pool else math.prod(site.feature_shape)
        hidden = objective.hidden
        self.normalize = nn.BatchNorm1d(inputs, affine=False) if objective.normalized else nn.Identity()
        self.classifier: nn.Module = nn.Linear(hidden or inputs, site.num_classes)
        if hidden:
            first = nn.Linear(inputs, hidden, bias=False)
            self.classifier = nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(), self.classifier)

    def scores(self, features: Tensor | ChannelSums) -> Tensor:
        """Return class scores, (N, …) → (N, K)."""
        if isinstance(features, ChannelSums):
            means = features.sums / features.positions if self.pool == 1 else features.patch_means
            assert means is not None
            features = means
        elif self.pool and features.ndim > 2:
            features = patch_means(features, self.pool)
        return at_least_float32(self.classifier(self.normalize(features.flatten(1))))


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(SiteObjective):
    """Cross-entropy of a classifier of averages.

    Attributes:
        pool: P×P averages of each map; 0 for the features as they are.
        smoothing: of the labels.
        normalized: whether the averages are batch-normalised, without gain or bias, which the classifier
            would absorb.
        hidden: units of a hidden layer with batch normalisation and ReLU; 0 for a linear classifier.
    """

    kind: ClassVar[str] = "cross-entropy"
    head_class = ClassifierHead
    pool: int = units(1, least=0)
    smoothing: float = bounded(0.0, 0, 1)
    normalized: bool = False
    hidden: int = units(0, least=0)

    def at_positions(self) -> "PositionCrossEntropy":
        """Return the same loss where every position has a label."""
        return PositionCrossEntropy(smoothing=self.smoothing, hidden=self.hidden)


class PositionClassifierHead(Head):
    """The head of :class:`PositionCrossEntropy`: positions share a layer norm and a classifier."""

    def __init__(self, objective: "PositionCrossEntropy", site: Site) -> None:
        super().__init__()
        if len(site.feature_shape) < 2:
            raise ValueError(
                "labels at every position need blocks that keep positions, (N, C, …): received features "
                f"(N, {site.feature_shape[0]}); leave pooling and flattening to the heads"
            )
        channels, hidden = site.feature_shape[0], objective.hidden
        self.smoothing = objective.smoothing
        layers: list[nn.Module] = [nn.LayerNorm(channels)]
        if hidden:
            layers += [nn.Linear(channels, hidden), nn.GELU()]
        self.classifier = nn.Sequential(*layers, nn.Linear(hidden or channels, site.num_classes))

    def scores(self, features: Tensor) -> Tensor:
        """Return class scores, (N, C, …) → (N, K, …)."""
        return at_least_float32(self.classifier(features.movedim(1, -1))).movedim(-1, 1)


@dataclass(frozen=True, kw_only=True)
class PositionCrossEntropy(SiteObjective):
    """Cross-entropy of a classifier at every position: the next token, or the class of a pixel.

    Attributes:
        smoothing: of the labels.
        hidden: units of a hidden layer with GELU; 0 for a linear classifier.
    """

    kind: ClassVar[str] = "position-cross-entropy"
    head_class = PositionClassifierHead
    per_position: ClassVar[bool] = True
    smoothing: float = bounded(0.0, 0, 1)
    hidden: int = units(0, least=0)


class PredictionHead(Head):
    """The head of :class:`LocalPrediction`: averages flattened by channel, row, column."""

    def __init__(self, objective: "LocalPrediction", site: Site) -> None:
        super().__init__()
        self.pool: nn.Module = nn.Identity()
        inputs = math.prod(site.feature_shape)
        if positions := len(site.feature_shape) - 1:
            kernel, padding, inputs = limited_pool(site.feature_shape, objective.at_most)
            self.pool = AVERAGE_POOLS[positions](kernel, kernel, padding)
        self.classifier = nn.Linear(inputs, site.num_classes)
        nn.init.zeros_(self.classifier.weight)

    def scores(self, features: Tensor) -> Tensor:
        """Return class scores, (N, …) → (N, K)."""
        return at_least_float32(self.classifier(self.pool(features).flatten(1)))


@dataclass(frozen=True, kw_only=True)
class LocalPrediction(SiteObjective):
    """Cross-entropy of a linear classifier whose weight starts at 0 (Nøkland & Eidnes 2019).

    Attributes:
        at_most: number of averages that it reads, see :func:`trifecta.nn.pooling.limited_pool`.
    """

    kind: ClassVar[str] = "local-prediction"
    head_class = PredictionHead
    reads: ClassVar[str] = "unpooled"
    at_most: int = units(2048)
