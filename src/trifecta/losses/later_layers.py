"""A small convolutional network, as a local loss.

Shapes: N samples, K classes; features (N, C, …) or (N, F).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from trifecta._utils.checks import MOST_UNITS, require_ranges
from trifecta.losses.head import Head, Objective, at_least_float32
from trifecta.nn.blocks import CONVOLUTIONS
from trifecta.nn.norms import BATCH_NORMS
from trifecta.nn.pooling import ADAPTIVE_POOLS, MAX_POOLS
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


def blocks_ahead(block: int, num_blocks: int, depth: int) -> list[int]:
    """Return at most ``depth`` blocks behind ``block``, evenly spaced, the last among them.

    ``round(block + (L − 1 − block) / depth · i)`` for i = 1 … depth, as in the authors' code.
    """
    ahead = num_blocks - 1 - block
    depth = min(depth, ahead)
    return [round(block + ahead / depth * i) for i in range(1, depth + 1)]


class ResidualLayer(nn.Module):
    """Two 3×3 convolutions beside a shortcut: ``relu(f(x) + shortcut(x))``, as in a ResNet.

    ``f`` is convolution → batch norm → ReLU → convolution → batch norm; the shortcut is the identity, or
    a 1×1 convolution and batch norm where the size changes. A stride of 2 halves all sides.
    """

    def __init__(self, channels: int, units: int, positions: int, *, stride: int) -> None:
        super().__init__()
        convolution, norm = CONVOLUTIONS[positions], BATCH_NORMS[positions]
        self.residual = nn.Sequential(
            convolution(channels, units, 3, stride=stride, padding=1, bias=False),
            norm(units),
            nn.ReLU(),
            convolution(units, units, 3, padding=1, bias=False),
            norm(units),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or channels != units:
            self.shortcut = nn.Sequential(convolution(channels, units, 1, bias=False), norm(units))
        # Every second position is taken before the convolution, for the reason in nn.blocks.ResidualBlock.
        self.kept = (slice(None), slice(None), *[slice(None, None, stride)] * positions)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, …) → (N, units, …)."""
        y: Tensor = self.residual(x) + self.shortcut(x[self.kept])
        return y.relu()


class LaterLayersHead(Head):
    """A network of layers of the shapes of some later blocks, which ends in a linear classifier.

    Args:
        network: maps features (N, …) to class scores (N, K).
        smoothing: of the labels.
    """

    def __init__(self, network: nn.Module, *, smoothing: float) -> None:
        super().__init__()
        self.network, self.smoothing = network, smoothing

    def scores(self, features: Tensor) -> Tensor:
        """(N, …) → (N, K)."""
        return at_least_float32(self.network(features))


class _Layers:
    """Puts layers behind one another, starting with features ``(N, *feature_shape)``."""

    def __init__(self, feature_shape: FeatureShape) -> None:
        self.channels, self.sides = feature_shape[0], tuple(feature_shape[1:])
        self.modules: list[nn.Module] = []
        self._halvings = 0

    def add_plain(self, units: int) -> None:
        """Add a convolution, behind a 2×2 maximum where the channels grow."""
        if units > self.channels and min(self.sides) > 1:
            self.modules.append(MAX_POOLS[len(self.sides)](2))
            self.sides = tuple(side // 2 for side in self.sides)
        self.modules += rectified_layer(self.channels, units, len(self.sides))
        self.channels = units

    def add_residual(self, units: int) -> None:
        """Add a :class:`ResidualLayer`, which halves the sides once for every doubling of the channels.

        A layer halves them once at most and leaves the rest to the layers after it.
        """
        self._halvings += max(units // self.channels, 1).bit_length() - 1
        stride = 2 if self._halvings else 1
        self._halvings -= stride - 1
        self.modules.append(ResidualLayer(self.channels, units, len(self.sides), stride=stride))
        self.channels = units

    def add_linear(self, units: int) -> None:
        """Add a linear layer, which receives averages over positions."""
        self.average()
        self.modules += rectified_layer(self.channels, units, 0)
        self.channels = units

    def average(self) -> None:
        """Average over positions, where there are any."""
        if self.sides:
            self.modules += [ADAPTIVE_POOLS[len(self.sides)](1), nn.Flatten()]
            self.sides = ()


@dataclass(frozen=True, kw_only=True)
class LaterLayers(Objective):
    """Cross-entropy of layers of later blocks' shapes, averages over positions and a linear classifier.

    In the place of a residual block stands a :class:`ResidualLayer`, of a fully connected one a linear
    layer behind averages, of any other a 3×3 convolution, each with batch normalisation and ReLU. Where
    channels grow maps are halved, by the residual layer's stride or a maximum before the convolution. One
    residual layer alone has batch normalisation behind the averages (``depth`` 1). The last block, which
    none comes after, has a linear classifier of averages.

    Attributes:
        depth: how many later blocks, or all where there are fewer.
        smoothing: of the labels.
    """

    kind: ClassVar[str] = "later-layers"
    depth: int = 2
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, depth=(1, MOST_UNITS), smoothing=(0, 1))

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head of a last block, whose output is ``(N, *feature_shape)``."""
        return self.head_at(0, [feature_shape], num_classes)

    def head_at(
        self,
        block: int,
        feature_shapes: Sequence[FeatureShape],
        num_classes: int,
        residual: Sequence[int] = (),
    ) -> Head:
        """Build the head for ``block`` of those whose outputs are ``(N, *feature_shapes[k])``.

        ``residual`` are the numbers of the blocks that are residual.
        """
        layers = _Layers(feature_shapes[block])
        ahead = blocks_ahead(block, len(feature_shapes), self.depth)
        for k in ahead:
            units, *sides = feature_shapes[k]
            if not sides or len(sides) != len(layers.sides):
                layers.add_linear(units)
            elif k in residual:
                layers.add_residual(units)
            else:
                layers.add_plain(units)
        layers.average()
        if self.depth == 1 and any(k in residual for k in ahead):
            layers.modules.append(nn.BatchNorm1d(layers.channels))
        layers.modules.append(nn.Linear(layers.channels, num_classes))
        return LaterLayersHead(nn.Sequential(*layers.modules), smoothing=self.smoothing)
