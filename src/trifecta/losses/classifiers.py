"""Cross-entropy of a classifier on a block: of averages, at every position, or of several layers.

Shapes: N samples, K classes; features (N, C, …) or (N, C).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from trifecta.losses.functional import at_least_float32
from trifecta.losses.goodness import ChannelSums, averages, kernel_patches
from trifecta.losses.head import Head, Site, SiteObjective, bounded, units
from trifecta.nn.blocks import CONVOLUTIONS
from trifecta.nn.norms import BATCH_NORMS
from trifecta.nn.pooling import ADAPTIVE_POOLS, AVERAGE_POOLS, MAX_POOLS, limited_pool


class ClassifierHead(Head):
    """The head of :class:`CrossEntropy`. Units of a fully connected block are maps of one position."""

    def __init__(self, objective: "CrossEntropy", site: Site) -> None:
        super().__init__()
        channels, *positions = site.feature_shape
        self.smoothing, self.dimensions = objective.smoothing, len(positions)
        self.pool = objective.pool if positions else 1
        self.reads_patch_means = kernel_patches(self.pool, positions)
        # Sums tell the average over all positions only.
        self.reads_channel_sums = self.pool == 1
        inputs = channels * self.pool**self.dimensions if self.pool else math.prod(site.feature_shape)
        hidden = objective.hidden
        self.normalize = nn.BatchNorm1d(inputs, affine=False) if objective.normalized else nn.Identity()
        self.classifier: nn.Module = nn.Linear(hidden or inputs, site.num_classes)
        if hidden:
            first = nn.Linear(inputs, hidden, bias=False)
            self.classifier = nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(), self.classifier)

    def scores(self, features: Tensor | ChannelSums) -> Tensor:
        """Return class scores, (N, …) → (N, K)."""
        inputs = averages(features, self.pool).flatten(1)
        return at_least_float32(self.classifier(self.normalize(inputs)))


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(SiteObjective):
    """Cross-entropy of a classifier of averages."""

    kind: ClassVar[str] = "cross-entropy"
    head_class = ClassifierHead
    pool: int = units(1, least=0)  # P of the P×P averages of each map; 0 for the features as they are
    smoothing: float = bounded(0.0, 0, 1)  # of the labels
    normalized: bool = False  # batch-normalise the averages, without gain or bias
    hidden: int = units(0, least=0)  # units of a hidden layer with batch normalisation and ReLU; 0 for none

    def at_positions(self) -> "PositionCrossEntropy":
        """Return the same loss where every position has a label."""
        return PositionCrossEntropy(smoothing=self.smoothing, hidden=self.hidden)


class _PositionClassifierHead(Head):
    def __init__(self, objective: "PositionCrossEntropy", site: Site) -> None:
        super().__init__()
        if len(site.feature_shape) < 2:
            raise ValueError(
                "labels at every position need blocks that keep positions, (N, C, …): received features "
                f"(N, {site.feature_shape[0]}); leave pooling and flattening to the heads"
            )
        channels, hidden = site.feature_shape[0], objective.hidden
        self.smoothing = objective.smoothing
        layers = [nn.Linear(channels, hidden), nn.GELU()] if hidden else []
        last = nn.Linear(hidden or channels, site.num_classes)
        self.classifier = nn.Sequential(nn.LayerNorm(channels), *layers, last)

    def scores(self, features: Tensor) -> Tensor:
        return at_least_float32(self.classifier(features.movedim(1, -1))).movedim(-1, 1)


@dataclass(frozen=True, kw_only=True)
class PositionCrossEntropy(SiteObjective):
    """Cross-entropy of a classifier at every position: the next token, or the class of a pixel.

    Positions share a layer normalisation and the classifier.
    """

    kind: ClassVar[str] = "position-cross-entropy"
    head_class = _PositionClassifierHead
    per_position: ClassVar[bool] = True
    smoothing: float = bounded(0.0, 0, 1)  # of the labels
    hidden: int = units(0, least=0)  # units of a hidden layer with GELU; 0 for none


class _PredictionHead(Head):
    def __init__(self, objective: "LocalPrediction", site: Site) -> None:
        super().__init__()
        self.pool: nn.Module = nn.Identity()
        inputs = math.prod(site.feature_shape)
        if positions := len(site.feature_shape) - 1:
            kernel, padding, inputs = limited_pool(site.feature_shape, objective.at_most)
            self.pool = AVERAGE_POOLS[positions](kernel, padding=padding)
        self.classifier = nn.Linear(inputs, site.num_classes)
        nn.init.zeros_(self.classifier.weight)

    def scores(self, features: Tensor) -> Tensor:
        return at_least_float32(self.classifier(self.pool(features).flatten(1)))


@dataclass(frozen=True, kw_only=True)
class LocalPrediction(SiteObjective):
    """Cross-entropy of a linear classifier whose weight starts at 0 (Nøkland & Eidnes 2019).

    It reads averages, see :func:`trifecta.nn.pooling.limited_pool`, flattened by channel, row, column.
    """

    kind: ClassVar[str] = "local-prediction"
    head_class = _PredictionHead
    reads: ClassVar[str] = "unpooled"
    at_most: int = units(2048)  # number of averages


class _AuxiliaryHead(Head):
    def __init__(self, objective: "AuxiliaryCrossEntropy | AugmentedAuxiliary", site: Site) -> None:
        super().__init__()
        self.network, self.smoothing = objective.network(site), objective.smoothing

    def scores(self, features: Tensor) -> Tensor:
        return at_least_float32(self.network(features))


@dataclass(frozen=True, kw_only=True)
class AuxiliaryCrossEntropy(SiteObjective):
    """Cross-entropy of two 3×3 convolutions, averages to 2×2 and a linear classifier (DGL).

    Each convolution keeps the map's size and channels, with batch normalisation and ReLU; the averages are
    batch-normalised by channel and flattened by channel, row, column. Units of a fully connected block are
    batch-normalised and classified.
    """

    kind: ClassVar[str] = "auxiliary-cross-entropy"
    head_class = _AuxiliaryHead
    smoothing: ClassVar[float] = 0.0

    def network(self, site: Site) -> nn.Module:
        """Return the layers and the classifier, (N, …) → (N, K)."""
        channels, dimensions = site.feature_shape[0], len(site.feature_shape) - 1
        layers: list[nn.Module] = [nn.BatchNorm1d(channels)]
        if dimensions:
            layers = [
                *_rectified(channels, channels, dimensions),
                *_rectified(channels, channels, dimensions),
            ]
            layers += [ADAPTIVE_POOLS[dimensions](2), BATCH_NORMS[dimensions](channels), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(channels * 2**dimensions, site.num_classes))


@dataclass(frozen=True, kw_only=True)
class AugmentedAuxiliary(SiteObjective):
    """Cross-entropy of a network shaped like later blocks (AugLocal), averages and a linear classifier.

    A residual block becomes a :class:`ResidualLayer`, a fully connected one a linear layer on averages, any
    other a 3×3 convolution, each with batch normalisation and ReLU. Maps are halved where channels grow, by
    the residual layer's stride or by a maximum in front of the convolution. Behind a single residual layer
    (``depth`` 1) the averages are batch-normalised. The last block has a linear classifier of averages.
    """

    kind: ClassVar[str] = "augmented-auxiliary"
    head_class = _AuxiliaryHead
    head_at = SiteObjective.build
    depth: int = units(2)  # number of later blocks, or all if there are fewer
    smoothing: float = bounded(0.0, 0, 1)  # of the labels

    def network(self, site: Site) -> nn.Module:
        """Return the layers and the classifier, (N, …) → (N, K)."""
        ahead = blocks_ahead(site.block, len(site.feature_shapes), self.depth)
        channels, *sides = site.feature_shape
        layers: list[nn.Module] = []
        halvings = 0  # that residual layers still owe
        for k in ahead:
            width, *later_sides = site.feature_shapes[k]
            if not later_sides or len(later_sides) != len(sides):
                layers += [*_average(sides), *_rectified(channels, width, 0)]
                sides = []
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
                layers += _rectified(channels, width, len(sides))
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


def _rectified(channels: int, width: int, dimensions: int) -> list[nn.Module]:
    """Return a kernel-3 convolution, or a linear layer for 0 dimensions, batch normalisation and ReLU."""
    after = [BATCH_NORMS[dimensions](width), nn.ReLU()]
    if not dimensions:
        return [nn.Linear(channels, width, bias=False), *after]
    return [CONVOLUTIONS[dimensions](channels, width, 3, padding=1, bias=False), *after]


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
