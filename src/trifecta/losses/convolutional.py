"""A small convolutional network, as a local loss.

Shapes: N samples, K classes; features (N, C, …) or (N, F).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from trifecta.losses.head import Head, Objective, at_least_float32
from trifecta.nn.blocks import CONVOLUTIONS
from trifecta.nn.norms import BATCH_NORMS
from trifecta.nn.pooling import ADAPTIVE_POOLS
from trifecta.nn.shapes import FeatureShape


def rectified_layer(channels: int, units: int, positions: int) -> list[nn.Module]:
    """A convolution with a kernel of 3 on maps of 1 to 3 dimensions, batch normalisation, ReLU.

    Of 0 dimensions it is a linear layer, (N, channels) → (N, units).
    """
    weights: nn.Module
    if positions:
        weights = CONVOLUTIONS[positions](channels, units, 3, padding=1, bias=False)
    else:
        weights = nn.Linear(channels, units, bias=False)
    return [weights, BATCH_NORMS[positions](units), nn.ReLU()]


class ConvolutionalHead(Head):
    """A network of its own: two 3×3 convolutions, averages to 2×2, a linear classifier.

    Each convolution keeps the map's size and channels, and has batch normalisation and ReLU behind it; the
    averages are batch-normalised by channel and flattened by channel, row, column. Units of a fully
    connected block are maps of one position: they are batch-normalised and classified. Maps of 1 or 3
    dimensions have convolutions and averages of as many.
    """

    def __init__(self, feature_shape: FeatureShape, num_classes: int) -> None:
        super().__init__()
        channels = feature_shape[0]
        layers: list[nn.Module] = []
        positions = len(feature_shape) - 1
        if positions:
            for _ in range(2):
                layers += rectified_layer(channels, channels, positions)
            layers += [ADAPTIVE_POOLS[positions](2), BATCH_NORMS[positions](channels), nn.Flatten()]
        else:
            layers.append(nn.BatchNorm1d(channels))
        features = channels * 2**positions
        self.network = nn.Sequential(*layers, nn.Linear(features, num_classes))

    def scores(self, features: Tensor) -> Tensor:
        """(N, …) → (N, K)."""
        return at_least_float32(self.network(features))


@dataclass(frozen=True, kw_only=True)
class AuxiliaryCrossEntropy(Objective):
    """Cross-entropy of a small convolutional network: :class:`ConvolutionalHead`."""

    kind: ClassVar[str] = "auxiliary-cross-entropy"

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is ``(N, *feature_shape)``."""
        return ConvolutionalHead(feature_shape, num_classes)
