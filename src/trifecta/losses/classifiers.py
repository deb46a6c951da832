"""A classifier of averages, as a local loss.

Shapes: N samples, K classes; features (N, C, …) or (N, F).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from trifecta._utils.checks import MOST_UNITS, require_ranges
from trifecta.losses.goodness import ChannelSums
from trifecta.losses.head import Head, Objective, at_least_float32
from trifecta.losses.tokens import PositionCrossEntropy
from trifecta.nn.pooling import divides, patch_means
from trifecta.nn.shapes import FeatureShape


class ClassifierHead(Head):
    """Averages ``pool`` patches on each side of a map (0: as it is), then classifies by cross-entropy.

    With ``normalized`` each average is batch-normalised first, without gain or bias, as both would be
    absorbed by the classifier. It is linear, or with ``hidden`` units, batch-normalised and under a ReLU,
    one layer more.
    """

    def __init__(
        self,
        feature_shape: FeatureShape,
        num_classes: int,
        *,
        pool: int,
        smoothing: float = 0.0,
        normalized: bool = False,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        self.smoothing = smoothing
        # Units of a fully connected block are maps of one position.
        positions = feature_shape[1:]
        self.dimensions = len(positions)
        self.pool = pool if positions else 1
        if self.pool > 1 and len(positions) == 2 and divides(self.pool, positions):
            self.reads_patch_means = self.pool
        # Sums tell the average over all positions only.
        self.reads_channel_sums = self.pool == 1
        in_features = (
            feature_shape[0] * self.pool ** len(positions) if self.pool else math.prod(feature_shape)
        )
        self.normalize = nn.BatchNorm1d(in_features, affine=False) if normalized else nn.Identity()
        self.classifier: nn.Module = nn.Linear(hidden or in_features, num_classes)
        if hidden:
            first = nn.Linear(in_features, hidden, bias=False)
            self.classifier = nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(), self.classifier)

    def scores(self, features: Tensor | ChannelSums) -> Tensor:
        """(N, …) → (N, K)."""
        if isinstance(features, ChannelSums):
            means = features.sums / features.positions if self.pool == 1 else features.patch_means
            assert means is not None
            features = means
        elif self.pool and features.ndim > 2:
            features = patch_means(features, self.pool)
        return at_least_float32(self.classifier(self.normalize(features.flatten(1))))


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective):
    """Cross-entropy of a classifier of averages: :class:`ClassifierHead`, with label ``smoothing``.

    Attributes:
        pool: averages of P×P patches; 0 for the features as they are.
        smoothing: of the labels.
        normalized: the classifier reads batch-normalised averages.
        hidden: units of the classifier's hidden layer; 0 for a linear one.
    """

    kind: ClassVar[str] = "cross-entropy"
    pool: int = 1
    smoothing: float = 0.0
    normalized: bool = False
    hidden: int = 0

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, pool=(0, MOST_UNITS), smoothing=(0, 1), hidden=(0, MOST_UNITS))

    def at_positions(self) -> PositionCrossEntropy:
        """The same where every position has a label."""
        return PositionCrossEntropy(smoothing=self.smoothing, hidden=self.hidden)

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is ``(N, *feature_shape)``."""
        return ClassifierHead(
            feature_shape,
            num_classes,
            pool=self.pool,
            smoothing=self.smoothing,
            normalized=self.normalized,
            hidden=self.hidden,
        )
