"""The linear classifier of Nøkland & Eidnes 2019, as a local loss.

Shapes: N samples, K classes; features (N, C, …) or (N, F).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from trifecta._utils.checks import MOST_UNITS, require_ranges
from trifecta.losses.head import Head, Objective, at_least_float32
from trifecta.nn.pooling import AVERAGE_POOLS, limited_pool
from trifecta.nn.shapes import FeatureShape


class ZeroLinear(nn.Linear):
    """A linear map whose weight starts at 0 and whose bias starts as usual."""

    def reset_parameters(self) -> None:
        """Start anew."""
        super().reset_parameters()
        nn.init.zeros_(self.weight)


class PredictionHead(Head):
    """A linear classifier of at most so many averages of a map, all weights 0 at first.

    Averages as in :func:`trifecta.nn.pooling.limited_pool`, flattened by channel, row, column.
    """

    def __init__(self, feature_shape: FeatureShape, num_classes: int, *, at_most: int) -> None:
        super().__init__()
        self.pool: nn.Module = nn.Identity()
        features = math.prod(feature_shape)
        if positions := len(feature_shape) - 1:
            kernel, padding, features = limited_pool(feature_shape, at_most)
            self.pool = AVERAGE_POOLS[positions](kernel, kernel, padding)
        self.classifier = ZeroLinear(features, num_classes)

    def scores(self, features: Tensor) -> Tensor:
        """(N, …) → (N, K)."""
        return at_least_float32(self.classifier(self.pool(features).flatten(1)))


@dataclass(frozen=True, kw_only=True)
class LocalPrediction(Objective):
    """Cross-entropy of a linear classifier of ``at_most`` averages: :class:`PredictionHead`."""

    kind: ClassVar[str] = "local-prediction"
    reads: ClassVar[str] = "unpooled"
    at_most: int = 2048

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, at_most=(1, MOST_UNITS))

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for features ``(N, *feature_shape)``."""
        return PredictionHead(feature_shape, num_classes, at_most=self.at_most)
