"""Goodness at every position of a map, for pairs of images without labels.

Shapes: B images, N samples; a block's response before its activation (N, C, …) or (N, C).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta.losses.classifiers import ClassifierHead
from trifecta.losses.functional import position_loss
from trifecta.losses.head import Head, Objective, at_least_float32
from trifecta.nn.blocks import Triangle
from trifecta.nn.shapes import FeatureShape


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
