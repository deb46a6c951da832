"""Heads: what stands at a window's last block, its local loss and the class scores it can give.

A head is declared as plain data (an *objective*: a frozen dataclass that can be saved and compared)
and built into a module for the block it stands on. Shapes: B images, K classes; ``features`` are a
block's output, (2B, …) for objectives that compare pairs (positives first), (B, …) for the others.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.goodness import GOODNESS, Goodness, Moments, group_mean_square
from trifecta.names import lookup
from trifecta.objectives import symmetric_loss, threshold_loss

FeatureShape = tuple[int, ...]


class Head(nn.Module, ABC):
    """A local loss over a block's output, and the scores read off it.

    Attributes:
        skips_samples: whether the loss leaves samples out, whose gradient is then exactly 0.
    """

    skips_samples: bool = False

    @abstractmethod
    def loss(self, features: Tensor | Moments, labels: Tensor) -> Tensor:
        """Scalar loss of ``features`` (2B or B, …) for ``labels`` (B,)."""

    @abstractmethod
    def scores(self, features: Tensor | Moments) -> Tensor:
        """Pairs: goodness (N,) of the label each sample carries. Others: class scores (N, K)."""

    @property
    def reads_moments(self) -> bool:
        """Whether the moments of ``features`` will do in their place."""
        return True


class PairHead(Head):
    """Compares the goodness of positives and negatives; has no parameters."""

    def __init__(
        self,
        goodness: Goodness,
        compare: Callable[[Tensor, Tensor], Tensor],
        *,
        skips_samples: bool = False,
    ) -> None:
        super().__init__()
        self.goodness, self.compare, self.skips_samples = goodness, compare, skips_samples

    def loss(self, features: Tensor | Moments, labels: Tensor) -> Tensor:
        """(2B, …) → ()."""
        positive, negative = self.goodness(features).chunk(2)
        return self.compare(positive, negative)

    def scores(self, features: Tensor | Moments) -> Tensor:
        """(N, …) → (N,)."""
        return self.goodness(features)


class LinearHead(Head):
    """Average-pools maps to ``pool``×``pool``, then a linear classifier with cross-entropy."""

    def __init__(self, feature_shape: FeatureShape, num_classes: int, *, pool: int) -> None:
        super().__init__()
        self.pool = pool if len(feature_shape) == 3 else 0
        in_features = feature_shape[0] * max(self.pool, 1) ** 2
        self.classifier = nn.Linear(in_features, num_classes)

    def loss(self, features: Tensor | Moments, labels: Tensor) -> Tensor:
        """(B, …), (B,) → ()."""
        return F.cross_entropy(self.scores(features), labels)

    def scores(self, features: Tensor | Moments) -> Tensor:
        """(N, …) → (N, K)."""
        if isinstance(features, Moments):
            features = features.sums / features.positions
        elif self.pool:
            features = F.adaptive_avg_pool2d(features, self.pool)
        logits: Tensor = self.classifier(features.flatten(1))
        return logits.float() if logits.dtype.itemsize < 4 else logits

    @property
    def reads_moments(self) -> bool:
        """Only the average over all positions is a moment."""
        return self.pool <= 1


class GroupHead(Head):
    """Channels split into one group per class; a class's score is the goodness of its group."""

    groups: Tensor

    def __init__(self, feature_shape: FeatureShape, num_classes: int) -> None:
        super().__init__()
        channels = feature_shape[0]
        if channels < num_classes:
            raise ValueError(
                f"class groups need a channel per class: {num_classes} classes do not fit into a block of "
                f"{channels} channels; use a larger --width or another --method"
            )
        group = torch.arange(channels) * num_classes // channels
        member = F.one_hot(group, num_classes).double()
        self.register_buffer(
            "groups", (member / member.sum(0)).to(torch.get_default_dtype()), persistent=False
        )

    def loss(self, features: Tensor | Moments, labels: Tensor) -> Tensor:
        """(B, …), (B,) → ()."""
        return F.cross_entropy(self.scores(features), labels)

    def scores(self, features: Tensor | Moments) -> Tensor:
        """(N, …) → (N, K)."""
        return group_mean_square(features, self.groups)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Objective of Forward-Forward: :func:`trifecta.objectives.threshold_loss`.

    ``skip_settled`` leaves out samples that hardly matter: :func:`trifecta.objectives.unsettled`.
    """

    kind: ClassVar[str] = "threshold"
    pairs: ClassVar[bool] = True
    goodness: str = "mean-square"
    threshold: float = 2.0
    skip_settled: float = 0.0

    def __post_init__(self) -> None:
        """Reject what is no share."""
        _check_settled(self.skip_settled)

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is (N, *feature_shape)."""
        compare = partial(threshold_loss, threshold=self.threshold, settled=self.skip_settled)
        goodness = lookup(GOODNESS, self.goodness, "goodness")
        return PairHead(goodness, compare, skips_samples=self.skip_settled > 0)


@dataclass(frozen=True, kw_only=True)
class Symmetric:
    """Objective of SymBa and the Trifecta: :func:`trifecta.objectives.symmetric_loss`.

    ``skip_settled`` leaves out pairs that hardly matter: :func:`trifecta.objectives.unsettled`.
    """

    kind: ClassVar[str] = "symmetric"
    pairs: ClassVar[bool] = True
    goodness: str = "mean-square"
    alpha: float = 4.0
    skip_settled: float = 0.0

    def __post_init__(self) -> None:
        """Reject what is no share."""
        _check_settled(self.skip_settled)

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is (N, *feature_shape)."""
        compare = partial(symmetric_loss, alpha=self.alpha, settled=self.skip_settled)
        goodness = lookup(GOODNESS, self.goodness, "goodness")
        return PairHead(goodness, compare, skips_samples=self.skip_settled > 0)


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Objective of backprop: cross-entropy of a linear classifier on ``pool``×``pool`` averages."""

    kind: ClassVar[str] = "cross-entropy"
    pairs: ClassVar[bool] = False
    pool: int = 1

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is (N, *feature_shape)."""
        return LinearHead(feature_shape, num_classes, pool=self.pool)


@dataclass(frozen=True, kw_only=True)
class GroupCrossEntropy:
    """Cross-entropy over the goodness of class groups of channels: :class:`GroupHead`."""

    kind: ClassVar[str] = "group-cross-entropy"
    pairs: ClassVar[bool] = False

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is (N, *feature_shape)."""
        return GroupHead(feature_shape, num_classes)


def _check_settled(bound: float) -> None:
    if not 0 <= bound < 1:
        raise ValueError(
            f"--skip-settled is a share of a pair's largest gradient, 0 (off) … below 1: received {bound}; "
            "try 0.1"
        )


Objective = Threshold | Symmetric | CrossEntropy | GroupCrossEntropy
OBJECTIVES: dict[str, type[Objective]] = {
    o.kind: o for o in (Threshold, Symmetric, CrossEntropy, GroupCrossEntropy)
}
