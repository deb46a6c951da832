"""A small convolutional network, as a local loss.

Shapes: N samples, K classes; features (N, C, H, W) or (N, F).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.losses.head import Head, Objective, at_least_float32
from trifecta.nn.shapes import FeatureShape


class ConvolutionalHead(Head):
    """A network of its own: two 3×3 convolutions, averages to 2×2, a linear classifier.

    Each convolution keeps the map's size and channels, and has batch normalisation and ReLU behind it; the
    averages are batch-normalised by channel and flattened by channel, row, column. Units of a fully
    connected block are maps of one position: they are batch-normalised and classified.
    """

    def __init__(self, feature_shape: FeatureShape, num_classes: int) -> None:
        super().__init__()
        channels = feature_shape[0]
        layers: list[nn.Module] = []
        if len(feature_shape) == 3:
            for _ in range(2):
                layers += [
                    nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                ]
            layers += [nn.AdaptiveAvgPool2d(2), nn.BatchNorm2d(channels), nn.Flatten()]
        else:
            layers.append(nn.BatchNorm1d(channels))
        features = channels * (4 if len(feature_shape) == 3 else 1)
        self.network = nn.Sequential(*layers, nn.Linear(features, num_classes))

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, …), (B,) → ()."""
        return F.cross_entropy(self.scores(features), labels)

    def scores(self, features: Tensor) -> Tensor:
        """(N, …) → (N, K)."""
        return at_least_float32(self.network(features))


@dataclass(frozen=True, kw_only=True)
class AuxiliaryCrossEntropy(Objective):
    """Cross-entropy of a small convolutional network: :class:`ConvolutionalHead`."""

    kind: ClassVar[str] = "auxiliary-cross-entropy"

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is (N, *feature_shape)."""
        return ConvolutionalHead(feature_shape, num_classes)
