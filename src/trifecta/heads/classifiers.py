"""Heads with a classifier of their own: of averages, or a small convolutional network.

Shapes: N samples, K classes; features (N, C, H, W) or (N, F).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.goodness import Moments
from trifecta.heads.head import FeatureShape, Head, at_least_float32
from trifecta.patches import divides, limited_pool, patch_means

# Distances between unit vectors are at most 4: too little for a softmax to be sure.
SHARPNESS = 8.0


class ClassifierHead(Head):
    """Averages maps to ``pool``×``pool`` (0: as they are), then a classifier with cross-entropy.

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
        self.pool = pool if len(feature_shape) == 3 else 1
        if self.pool > 1 and divides(self.pool, feature_shape):
            self.reads_patches = self.pool
        in_features = feature_shape[0] * self.pool**2 if self.pool else math.prod(feature_shape)
        self.normalize = nn.BatchNorm1d(in_features, affine=False) if normalized else nn.Identity()
        self.classifier: nn.Module = nn.Linear(hidden or in_features, num_classes)
        if hidden:
            first = nn.Linear(in_features, hidden, bias=False)
            self.classifier = nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(), self.classifier)

    def loss(self, features: Tensor | Moments, labels: Tensor) -> Tensor:
        """(B, …), (B,) → ()."""
        return F.cross_entropy(self.scores(features), labels, label_smoothing=self.smoothing)

    def scores(self, features: Tensor | Moments) -> Tensor:
        """(N, …) → (N, K)."""
        if isinstance(features, Moments):
            means = features.sums / features.positions if self.pool == 1 else features.patch_means
            assert means is not None
            features = means
        elif self.pool and features.ndim == 4:
            features = patch_means(features, self.pool)
        return at_least_float32(self.classifier(self.normalize(features.flatten(1))))

    @property
    def reads_moments(self) -> bool:
        """Only the average over all positions is a moment."""
        return self.pool == 1


class ZeroLinear(nn.Linear):
    """A linear map whose weight starts at 0 and whose bias starts as usual."""

    def reset_parameters(self) -> None:
        """Start anew."""
        super().reset_parameters()
        nn.init.zeros_(self.weight)


class PredictionHead(Head):
    """A linear classifier of at most so many averages of a map, all weights 0 at first.

    Averages as in :func:`trifecta.patches.limited_pool`, flattened by channel, row, column.
    """

    def __init__(self, feature_shape: FeatureShape, num_classes: int, *, at_most: int) -> None:
        super().__init__()
        self.pool: nn.Module = nn.Identity()
        features = math.prod(feature_shape)
        if len(feature_shape) == 3:
            kernel, padding, features = limited_pool(feature_shape, at_most)
            self.pool = nn.AvgPool2d(kernel, kernel, padding)
        self.classifier = ZeroLinear(features, num_classes)

    def loss(self, features: Tensor | Moments, labels: Tensor) -> Tensor:
        """(B, …), (B,) → ()."""
        return F.cross_entropy(self.scores(features), labels)

    def scores(self, features: Tensor | Moments) -> Tensor:
        """(N, …) → (N, K)."""
        assert isinstance(features, Tensor)
        return at_least_float32(self.classifier(self.pool(features).flatten(1)))

    @property
    def reads_moments(self) -> bool:
        """Averages of parts of a map are no moments."""
        return False


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

    def loss(self, features: Tensor | Moments, labels: Tensor) -> Tensor:
        """(B, …), (B,) → ()."""
        return F.cross_entropy(self.scores(features), labels)

    def scores(self, features: Tensor | Moments) -> Tensor:
        """(N, …) → (N, K)."""
        assert isinstance(features, Tensor)
        return at_least_float32(self.network(features))

    @property
    def reads_moments(self) -> bool:
        """Convolutions need the maps."""
        return False


class CentroidHead(Head):
    """A learned centroid per class; a class's score is how near the averages of the maps are to it."""

    def __init__(self, feature_shape: FeatureShape, num_classes: int, *, pool: int, margin: float) -> None:
        super().__init__()
        self.pool, self.margin = pool if len(feature_shape) == 3 else 1, margin
        size = feature_shape[0] * self.pool**2
        self.centroids = nn.Parameter(torch.empty(num_classes, size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Centroids of length about 1."""
        nn.init.normal_(self.centroids, std=self.centroids.shape[1] ** -0.5)

    def loss(self, features: Tensor | Moments, labels: Tensor) -> Tensor:
        """(B, …), (B,) → (): ``mean log(1 + Σ_wrong exp(margin + scores_wrong − scores_true))``."""
        scores = self.scores(features)
        own = F.one_hot(labels, scores.shape[1]).bool()
        return F.cross_entropy(scores.where(own, scores + self.margin), labels)

    def scores(self, features: Tensor | Moments) -> Tensor:
        """(N, …) → (N, K): ``−SHARPNESS · |features − centroid|²``, features of length 1."""
        assert isinstance(features, Tensor)
        if features.ndim == 4:
            features = patch_means(features, self.pool)
        with torch.autocast(features.device.type, enabled=False):
            unit = F.normalize(at_least_float32(features.flatten(1)))
            centroids = self.centroids.to(unit.dtype)
            squares = unit.square().sum(1, keepdim=True) + centroids.square().sum(1)
            return (2 * unit @ centroids.T - squares) * SHARPNESS

    @property
    def reads_moments(self) -> bool:
        """Averages of patches are no moments."""
        return False


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Cross-entropy of a classifier of averages: :class:`ClassifierHead`, with label ``smoothing``.

    Attributes:
        pool: averages of P×P patches; 0 for the features as they are.
        smoothing: of the labels.
        normalized: the classifier reads batch-normalised averages.
        hidden: units of the classifier's hidden layer; 0 for a linear one.
    """

    kind: ClassVar[str] = "cross-entropy"
    pairs: ClassVar[bool] = False
    scores_classes: ClassVar[bool] = True
    feeds_back: ClassVar[bool] = False
    reads: ClassVar[str] = "output"
    pool: int = 1
    smoothing: float = 0.0
    normalized: bool = False
    hidden: int = 0

    def __post_init__(self) -> None:
        """Reject what is no number of units."""
        if self.hidden < 0:
            raise ValueError(f"a classifier has 0 hidden units or more: received {self.hidden}")

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is (N, *feature_shape)."""
        return ClassifierHead(
            feature_shape,
            num_classes,
            pool=self.pool,
            smoothing=self.smoothing,
            normalized=self.normalized,
            hidden=self.hidden,
        )


@dataclass(frozen=True, kw_only=True)
class LocalPrediction:
    """Cross-entropy of a linear classifier of ``at_most`` averages: :class:`PredictionHead`."""

    kind: ClassVar[str] = "local-prediction"
    pairs: ClassVar[bool] = False
    scores_classes: ClassVar[bool] = True
    feeds_back: ClassVar[bool] = False
    reads: ClassVar[str] = "unpooled"
    at_most: int = 2048

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for features (N, *feature_shape)."""
        return PredictionHead(feature_shape, num_classes, at_most=self.at_most)


@dataclass(frozen=True, kw_only=True)
class CentroidMargin:
    """Nearest centroid by a ``margin``, N-pair: :class:`CentroidHead`."""

    kind: ClassVar[str] = "centroid-margin"
    pairs: ClassVar[bool] = False
    scores_classes: ClassVar[bool] = True
    feeds_back: ClassVar[bool] = False
    reads: ClassVar[str] = "output"
    pool: int = 4
    margin: float = 1.0

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is (N, *feature_shape)."""
        return CentroidHead(feature_shape, num_classes, pool=self.pool, margin=self.margin)


@dataclass(frozen=True, kw_only=True)
class AuxiliaryCrossEntropy:
    """Cross-entropy of a small convolutional network: :class:`ConvolutionalHead`."""

    kind: ClassVar[str] = "auxiliary-cross-entropy"
    pairs: ClassVar[bool] = False
    scores_classes: ClassVar[bool] = True
    feeds_back: ClassVar[bool] = False
    reads: ClassVar[str] = "output"

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is (N, *feature_shape)."""
        return ConvolutionalHead(feature_shape, num_classes)
