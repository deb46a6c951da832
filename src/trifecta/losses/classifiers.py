"""Cross-entropy of a classifier on a block: of averages, at every position, or of several layers.

Shapes: B images, N samples, K classes; features (N, C, …) or (N, C), before the activation where a head
reads the block's ``response``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.losses.functional import at_least_float32
from trifecta.losses.goodness import ChannelSums, averages, kernel_patches
from trifecta.losses.head import Head, Site, SiteObjective, bounded, units
from trifecta.nn.blocks import CONVOLUTIONS
from trifecta.nn.convolution import ADAPTIVE_POOLS, AVERAGE_POOLS, MAX_POOLS, limited_pool
from trifecta.nn.norms import BATCH_NORMS


class ClassifierHead(Head):
    """The head of :class:`CrossEntropy`. Units of a fully connected block are maps of one position."""

    def __init__(self, objective: "CrossEntropy", site: Site) -> None:
        super().__init__()
        positions = site.feature_shape[1:]
        self.smoothing, self.dimensions = objective.smoothing, len(positions)
        self.pool = objective.pool if positions else 1
        self.reads_patch_means = kernel_patches(self.pool, positions)
        # Sums tell only the average over all positions.
        self.reads_channel_sums = self.pool == 1
        inputs, hidden = site.averages(self.pool), objective.hidden
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
    """Cross-entropy at every position, such as the next token: layer norm and a shared classifier."""

    kind: ClassVar[str] = "position-cross-entropy"
    head_class = _PositionClassifierHead
    per_position: ClassVar[bool] = True
    smoothing: float = bounded(0.0, 0, 1)  # of the labels
    hidden: int = units(0, least=0)  # units of a hidden layer with GELU; 0 for none


class _FeedbackHead(Head):
    weighs_classes = True
    feedback: Tensor

    def __init__(self, objective: "LocalTargets", site: Site) -> None:
        super().__init__()
        self.step = objective.step
        self.probe = CrossEntropy().head(site.feature_shape, site.num_classes)
        self.register_buffer("feedback", torch.randn(site.num_classes, site.feature_shape[0]))
        self._error: Tensor | None = None

    def receive(self, error: Tensor) -> None:
        self._error = error

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        assert self._error is not None, "no error was received"
        with torch.autocast(features.device.type, enabled=False):
            weights = self.sample_weights(labels)
            # The error is the gradient of the network's loss, which has the same weights.
            error = self._error if weights is None else self._error * weights.unsqueeze(1)
            change = error.to(self.feedback.dtype) @ self.feedback * self.step
            change = change.view(*change.shape, *[1] * (features.ndim - 2))
            response = features.to(change.dtype)
            with torch.no_grad():
                seen, target = F.relu(response), F.relu(response - change)
            distance = (F.relu(response) - target).square().flatten(1).sum(1).mean() / 2
        return distance + self.probe.loss(seen, labels)

    def scores(self, features: Tensor) -> Tensor:
        return self.probe.scores(F.relu(features))


@dataclass(frozen=True, kw_only=True)
class LocalTargets(SiteObjective):
    """Half the squared distance to ``relu(response − step · error @ feedback)``; a classifier is a probe.

    ``error`` (B, K) is the network's; ``feedback`` (K, C) is random and fixed, for all positions of a map.
    """

    kind: ClassVar[str] = "local-targets"
    head_class = _FeedbackHead
    uses_feedback: ClassVar[bool] = True
    reads: ClassVar[str] = "response"
    step: float = bounded(0.1, 0)


class _PredictionHead(Head):
    def __init__(self, objective: "LocalPrediction", site: Site) -> None:
        super().__init__()
        self.pool: nn.Module = nn.Identity()
        inputs = site.feature_shape[0]
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

    It reads averages, see :func:`trifecta.nn.convolution.limited_pool`, flattened by channel, row, column.
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

    Convolutions keep the map's size and channels, with batch normalisation and ReLU; the averages are
    batch-normalised by channel. Units of a fully connected block are batch-normalised and classified.
    """

    kind: ClassVar[str] = "auxiliary-cross-entropy"
    head_class = _AuxiliaryHead
    smoothing: ClassVar[float] = 0.0

    def network(self, site: Site) -> nn.Module:
        """Return the layers and the classifier, (N, …) → (N, K)."""
        channels, dimensions = site.feature_shape[0], len(site.feature_shape) - 1
        layers: list[nn.Module] = [nn.BatchNorm1d(channels)]
        if dimensions:
            first, second = (_rectified(channels, channels, dimensions) for _ in range(2))
            after = [ADAPTIVE_POOLS[dimensions](2), BATCH_NORMS[dimensions](channels), nn.Flatten()]
            layers = [*first, *second, *after]
        return nn.Sequential(*layers, nn.Linear(site.averages(2), site.num_classes))


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
    """Return at most ``depth`` blocks after ``block``, evenly spaced, including the last of L.

    ``round(block + (L − 1 − block) / depth · i)`` for i = 1 … depth, as in the authors' code.
    """
    ahead = num_blocks - 1 - block
    depth = min(depth, ahead)
    return [round(block + ahead / depth * i) for i in range(1, depth + 1)]


def _rectified(channels: int, width: int, dimensions: int, stride: int = 1) -> list[nn.Module]:
    """Return a kernel-3 convolution, or a linear layer for 0 dimensions, batch normalisation and ReLU."""
    after = [BATCH_NORMS[dimensions](width), nn.ReLU()]
    if not dimensions:
        return [nn.Linear(channels, width, bias=False), *after]
    return [CONVOLUTIONS[dimensions](channels, width, 3, stride, padding=1, bias=False), *after]


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
        first = _rectified(channels, width, dimensions, stride)
        second = _rectified(width, width, dimensions)
        self.residual = nn.Sequential(*first, *second[:-1])
        self.shortcut = nn.Sequential()
        if stride > 1 or channels != width:
            self.shortcut.append(CONVOLUTIONS[dimensions](channels, width, 1, bias=False))
            self.shortcut.append(BATCH_NORMS[dimensions](width))
        # Positions are skipped in front of the 1×1 convolution, for the reason in nn.blocks.ResidualBlock.
        self.kept = (slice(None), slice(None), *[slice(None, None, stride)] * dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, (N, channels, …) → (N, width, …)."""
        y: Tensor = self.residual(x) + self.shortcut(x[self.kept])
        return y.relu()
