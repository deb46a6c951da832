"""A classifier at every position, as a local loss: the next token, or the class of a pixel.

Shapes: N samples, K classes; features (N, C, …), labels (N, …).
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta._utils.checks import MOST_UNITS, require_ranges
from trifecta.losses.functional import position_loss
from trifecta.losses.goodness import ChannelSums
from trifecta.losses.head import Head, Objective, at_least_float32
from trifecta.nn.blocks import Triangle
from trifecta.nn.pooling import divides, patch_means
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


class FeedbackHead(Head):
    """Pulls ``relu(response)`` to ``relu(response − step · error @ feedback)``, beside a linear probe.

    ``response`` is what the block computes before its activation; ``feedback`` (K, C) is random and fixed,
    the same for all positions of a map. The probe learns from the labels and gives the block no gradient.
    """

    weighs_classes = True
    feedback: Tensor

    def __init__(self, feature_shape: FeatureShape, num_classes: int, *, step: float) -> None:
        super().__init__()
        self.step = step
        self.probe = ClassifierHead(feature_shape, num_classes, pool=1)
        self.register_buffer("feedback", torch.randn(num_classes, feature_shape[0]))
        self._error: Tensor | None = None

    def receive(self, error: Tensor) -> None:
        """Take the network's error, ``softmax(scores) − one-hot labels`` (B, K), for the next loss."""
        self._error = error

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, …), (B,) → (): half the squared distance to the target, and the probe's cross-entropy."""
        assert self._error is not None, "no error was received"
        with torch.autocast(features.device.type, enabled=False):
            weights = self.sample_weights(labels)
            # That of the weighted loss, whose gradient it is.
            error = self._error if weights is None else self._error * weights.unsqueeze(1)
            change = error.to(self.feedback.dtype) @ self.feedback * self.step
            change = change.view(*change.shape, *[1] * (features.ndim - 2))
            response = features.to(change.dtype)
            with torch.no_grad():
                seen, target = F.relu(response), F.relu(response - change)
            distance = (F.relu(response) - target).square().flatten(1).sum(1).mean() / 2
        return distance + self.probe.loss(seen, labels)

    def scores(self, features: Tensor) -> Tensor:
        """(N, …) → (N, K), of the probe."""
        return self.probe.scores(F.relu(features))


@dataclass(frozen=True, kw_only=True)
class LocalTargets(Objective):
    """Squared distance to targets that the network's error makes: :class:`FeedbackHead`."""

    kind: ClassVar[str] = "local-targets"
    uses_feedback: ClassVar[bool] = True
    reads: ClassVar[str] = "response"
    step: float = 0.1

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, step=(0, math.inf))

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is ``(N, *feature_shape)``."""
        return FeedbackHead(feature_shape, num_classes, step=self.step)


class PositionHead(Head):
    """:func:`position_loss` of each position's goodness, beside a linear probe.

    The probe reads averages of what the block passes on, the triangle of its response. It learns from the
    labels and gives the block no gradient. Weights of classes are weights in the probe.
    """

    weighs_classes = True

    def __init__(
        self,
        feature_shape: FeatureShape,
        num_classes: int,
        *,
        thresholds: tuple[float, float],
        penalty: float,
        pool: int,
    ) -> None:
        super().__init__()
        self.thresholds, self.penalty = thresholds, penalty
        self.activation = Triangle()
        self.probe = ClassifierHead(feature_shape, num_classes, pool=pool)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """(2B, …), (B,) → ()."""
        positive, negative = position_goodness(features).chunk(2)
        contrast = position_loss(positive, negative, thresholds=self.thresholds, penalty=self.penalty)
        with torch.no_grad():
            seen = self.activation(features[: len(labels)])
        return contrast + self.probe.loss(seen, labels)

    def scores(self, features: Tensor) -> Tensor:
        """(N, …) → (N, K), of the probe."""
        return self.probe.scores(self.activation(features))


def position_goodness(response: Tensor) -> Tensor:
    """``mean_c relu(response_c)²`` at every position, (N, C, …) → (N, positions), (N, C) → (N, 1)."""
    return at_least_float32(F.relu(response)).square().mean(1).reshape(len(response), -1)


@dataclass(frozen=True, kw_only=True)
class PositionThresholds(Objective):
    """A threshold for positives and one for negatives at every position: :class:`PositionHead`.

    Attributes:
        positive: of each block in order; the last one is that of all later blocks, too.
        negative: likewise.
        penalty: likewise, on the length of an image's positive goodness map.
        pool: the probe reads averages of P×P patches.
    """

    kind: ClassVar[str] = "position-thresholds"
    pairs: ClassVar[bool] = True
    reads: ClassVar[str] = "response"
    positive: tuple[float, ...] = (0.0, 5.0, 6.0)
    negative: tuple[float, ...] = (1.0, 9.0, 10.0)
    penalty: tuple[float, ...] = (0.0012, 0.0007, 0.0005)
    pool: int = 4

    def __post_init__(self) -> None:
        """Reject a block without thresholds; lists become tuples."""
        for name in ("positive", "negative", "penalty"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if not getattr(self, name):
                raise ValueError(f"{name} is a number for each block, one at least: received none")

    def at(self, block: int) -> "PositionThresholds":
        """The same with the numbers of ``block`` alone."""
        each = (self.positive, self.negative, self.penalty)
        positive, negative, penalty = ((values[min(block, len(values) - 1)],) for values in each)
        return replace(self, positive=positive, negative=negative, penalty=penalty)

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a first block whose response is ``(N, *feature_shape)``."""
        return PositionHead(
            feature_shape,
            num_classes,
            thresholds=(self.positive[0], self.negative[0]),
            penalty=self.penalty[0],
            pool=self.pool,
        )
