"""A classifier at every position, as a local loss: the next token, or the class of a pixel.

Shapes: N samples, K classes; features (N, C, …), labels (N, …).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from trifecta._utils.checks import MOST_UNITS, require_ranges
from trifecta.losses.head import Head, Objective, at_least_float32
from trifecta.nn.shapes import FeatureShape


class PositionClassifierHead(Head):
    """Layer-normalises the features of each position, then classifies it, with cross-entropy.

    The classifier is linear, or with ``hidden`` units under a GELU, one layer more; positions share it.
    """

    def __init__(
        self, feature_shape: FeatureShape, num_classes: int, *, smoothing: float, hidden: int
    ) -> None:
        super().__init__()
        if len(feature_shape) < 2:
            raise ValueError(
                "labels at every position need blocks that keep positions, (N, C, …): received features "
                f"(N, {feature_shape[0]}); leave pooling and flattening to the heads"
            )
        channels, self.smoothing = feature_shape[0], smoothing
        layers: list[nn.Module] = [nn.LayerNorm(channels)]
        if hidden:
            layers += [nn.Linear(channels, hidden), nn.GELU()]
        self.classifier = nn.Sequential(*layers, nn.Linear(hidden or channels, num_classes))

    def scores(self, features: Tensor) -> Tensor:
        """(N, C, …) → (N, K, …)."""
        return at_least_float32(self.classifier(features.movedim(1, -1))).movedim(-1, 1)


@dataclass(frozen=True, kw_only=True)
class PositionCrossEntropy(Objective):
    """Cross-entropy of a classifier at every position: :class:`PositionClassifierHead`.

    Attributes:
        smoothing: of the labels.
        hidden: units of the classifier's hidden layer; 0 for a linear one.
    """

    kind: ClassVar[str] = "position-cross-entropy"
    per_position: ClassVar[bool] = True
    smoothing: float = 0.0
    hidden: int = 0

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, smoothing=(0, 1), hidden=(0, MOST_UNITS))

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for features ``(N, *feature_shape)``."""
        return PositionClassifierHead(
            feature_shape, num_classes, smoothing=self.smoothing, hidden=self.hidden
        )
