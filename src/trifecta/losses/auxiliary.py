"""Cross-entropy of an auxiliary network of several layers on a block.

Shapes: N samples, K classes; features (N, C, …) or (N, F).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from trifecta.losses.functional import at_least_float32
from trifecta.losses.head import Head, Site, SiteObjective, bounded, units
from trifecta.nn.blocks import CONVOLUTIONS
from trifecta.nn.norms import BATCH_NORMS
from trifecta.nn.pooling import ADAPTIVE_POOLS, MAX_POOLS


class AuxiliaryHead(Head):
    """The class scores of an objective's network, (N, …) → (N, K)."""

    def __init__(self, objective: "AuxiliaryCrossEntropy | AugmentedAuxiliary", site: Site) -> None:
        super().__init__()
        self.network, self.smoothing = objective.network(site), objective.smoothing

    def scores(self, features: Tensor) -> Tensor:
        """Return class scores, (N, …) → (N, K)."""
        return at_least_float32(self.network(features))


@dataclass(frozen=True, kw_only=True)
class AuxiliaryCrossEntropy(SiteObjective):
    """Cross-entropy of two 3×3 convolutions, averages to 2×2 and a linear classifier (DGL).

    Each convolution keeps the map's size and channels, with batch normalisation and ReLU; the averages are
    batch-normalised by channel and flattened by channel, row, column. Maps of one or three dimensions use
    convolutions and averages of as many. Units of a fully connected block are batch-normalised and
    classified.
    """

    kind: ClassVar[str] = "auxiliary-cross-entropy"
    head_class = AuxiliaryHead
    smoothing: ClassVar[float] = 0.0

    def network(self, site: Site) -> nn.Module:
        """Return the layers and the classifier, (N, …) → (N, K)."""
        channels, *sides = site.feature_shape
        dimensions = len(sides)
        layers: list[nn.Module] = [nn.BatchNorm1d(channels)]
        if dimensions:
            layers = [layer for _ in range(2) for layer in rectified_layer(channels, channels, dimensions)]
            layers += [ADAPTIVE_POOLS[dimensions](2), BATCH_NORMS[dimensions](channels), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(channels * 2**dimensions, site.num_classes))


@dataclass(frozen=True, kw_only=True)
class AugmentedAuxiliary(SiteObjective):
    """Cross-entropy of a network shaped like later blocks (AugLocal), averages and a linear classifier.

    A residual block becomes a :class:`ResidualLayer`, a fully connected one a linear layer on averages, any
    other a 3×3 convolution, each with batch normalisation and ReLU. Maps are halved where channels grow, by
    the residual layer's stride or by a maximum in front of the convolution. Behind a single residual layer
    (``depth`` 1) the averages are batch-normalised. The last block has a linear classifier of averages.

    Attributes:
        depth: number of later blocks, or all if there are fewer.
        smoothing: of the labels.
    """

    kind: ClassVar[str] = "augmented-auxiliary"
    head_class = AuxiliaryHead
    depth: int = units(2)
    smoothing: float = bounded(0.0, 0, 1)

    def head_at(self, site: Site) -> Head:
        """Return an :class:`AuxiliaryHead` shaped like the blocks after the site's."""
        return AuxiliaryHead(self, site)

    def network(self, site: Site) -> nn.Module:
        """Return the layers and the classifier, (N, …) → (N, K)."""
        ahead = blocks_ahead(site.block, len(site.feature_shapes), self.depth)
        channels, *sides = site.feature_shape
        layers: list[nn.Module] = []
        halvings = 0  # that residual layers still owe
        for k in ahead:
            width, *later_sides = site.feature_shapes[k]
            if not later_sides or len(later_sides) != len(sides):
                layers += _average(sides)
                sides = []
                layers += rectified_layer(channels, width, 0)
            elif k in site.residual:
                # A layer halves the sides once at most, and leaves the rest to the layers after it.
                halvings += max(width // channels, 1).bit_length() - 1
                stride = 2 if halvings else 1
                halvings -= stride - 1
                layers.append(ResidualLayer(channels, width, len(sides), stride=stride))
            else:
                if width > channels and min(sides) > 1:
                    layers.append(MAX_POOLS[len(sides)](2))
                    sides = [side // 2 for side in sides]
                layers += rectified_layer(channels, width, len(sides))
            channels = width
        layers += _average(sides)
        if self.depth == 1 and any(k in site.residual for k in ahead):
            layers.append(nn.BatchNorm1d(channels))
        return nn.Sequential(*layers, nn.Linear(channels, site.num_classes))


def blocks_ahead(block: int, num_blocks: int, depth: int) -> list[int]:
    """Return at most ``depth`` blocks after ``block``, evenly spaced, including the last.

    ``round(block + (L − 1 − block) / depth · i)`` for i = 1 … depth, as in the authors' code.
    """
    ahead = num_blocks - 1 - block
    depth = min(depth, ahead)
    return [round(block + ahead / depth * i) for i in range(1, depth + 1)]


def rectified_layer(channels: int, width: int, dimensions: int) -> list[nn.Module]:
    """Return a kernel-3 convolution of maps with 1 … 3 dimensions, batch normalisation and ReLU.

    With 0 dimensions the convolution is a linear layer, (N, channels) → (N, width).
    """
    weights: nn.Module
    if dimensions:
        weights = CONVOLUTIONS[dimensions](channels, width, 3, padding=1, bias=False)
    else:
        weights = nn.Linear(channels, width, bias=False)
    return [weights, BATCH_NORMS[dimensions](width), nn.ReLU()]


def _average(sides: list[int]) -> list[nn.Module]:
    """Return layers that average over positions, if there are any."""
    return [ADAPTIVE_POOLS[len(sides)](1), nn.Flatten()] if sides else []


class ResidualLayer(nn.Module):
    """Two 3×3 convolutions with a shortcut: ``relu(f(x) + shortcut(x))``, as in a ResNet.

    ``f`` is convolution → batch norm → ReLU → convolution → batch norm; the shortcut is the identity, or
    a 1×1 convolution and batch norm where the size changes. A stride of 2 halves all sides.
    """

    def __init__(self, channels: int, width: int, dimensions: int, *, stride: int) -> None:
        super().__init__()
        convolution, norm = CONVOLUTIONS[dimensions], BATCH_NORMS[dimensions]
        self.residual = nn.Sequential(
            convolution(channels, width, 3, stride=stride, padding=1, bias=False),
            norm(width),
            nn.ReLU(),
            convolution(width, width, 3, padding=1, bias=False),
            norm(width),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or channels != width:
            self.shortcut = nn.Sequential(convolution(channels, width, 1, bias=False), norm(width))
        # Positions are skipped in front of the 1×1 convolution, for the reason in nn.blocks.ResidualBlock.
        self.kept = (slice(None), slice(None), *[slice(None, None, stride)] * dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, (N, channels, …) → (N, width, …)."""
        y: Tensor = self.residual(x) + self.shortcut(x[self.kept])
        return y.relu()
