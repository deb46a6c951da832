"""Losses that compare the goodness of positives and negatives.

Shapes: B images; N samples, of pairs 2B with the positives first.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta._utils.references import part_of
from trifecta.losses.classifiers import CrossEntropy
from trifecta.losses.functional import at_least_float32, position_loss, symmetric_loss, threshold_loss
from trifecta.losses.goodness import GOODNESS, READ_CHANNEL_SUMS, Goodness
from trifecta.losses.head import Head, Site, SiteObjective, bounded, units
from trifecta.nn.blocks import Triangle


class PairHead(Head):
    """Compares the goodness of positives and negatives; has no parameters."""

    weighs_classes = True

    def __init__(self, objective: "PairObjective", site: Site) -> None:
        super().__init__()
        self.objective = objective
        self._goodness = part_of(GOODNESS, objective.goodness, "goodness")
        self.skips_samples = objective.skip_settled > 0
        is_overridden = type(self).goodness is not PairHead.goodness
        self.reads_channel_sums = self._goodness in READ_CHANNEL_SUMS and not is_overridden

    def goodness(self, features: Any) -> Tensor:
        """Return the goodness, (N, …) → (N,)."""
        return self._goodness(features)

    def loss(self, features: Any, labels: Tensor) -> Tensor:
        """Return the loss, (2B, …), (B,) → (); a pair has the weight of its true label."""
        positive, negative = self.goodness(features).chunk(2)
        return self.objective.compare(positive, negative, self.sample_weights(labels))

    def scores(self, features: Any) -> Tensor:
        """Return the goodness, (N, …) → (N,)."""
        return self.goodness(features)


@dataclass(frozen=True, kw_only=True)
class PairObjective(SiteObjective):
    """Base of the losses over pairs; a subclass has ``compare``."""

    head_class = PairHead
    pairs: ClassVar[bool] = True
    scores_classes: ClassVar[bool] = False
    goodness: str | Goodness = "mean-square"  # a name in GOODNESS, or a function (N, …) → (N,)
    # Leave out samples whose gradient is below this share of the largest possible (functional.unsettled).
    skip_settled: float = bounded(0.0, 0, 0.99)

    def compare(self, positive: Tensor, negative: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss () of goodness (B,), (B,), with ``weights`` of the pairs (B,) of mean 1."""
        raise NotImplementedError(f"{type(self).__name__} has no compare")


@dataclass(frozen=True, kw_only=True)
class Threshold(PairObjective):
    """The objective of Forward-Forward: :func:`trifecta.losses.functional.threshold_loss`."""

    kind: ClassVar[str] = "threshold"
    threshold: float = 2.0  # goodness that positives should exceed and negatives stay below

    def compare(self, positive: Tensor, negative: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the threshold loss, (B,), (B,) → ()."""
        return threshold_loss(
            positive, negative, threshold=self.threshold, settled=self.skip_settled, weights=weights
        )


@dataclass(frozen=True, kw_only=True)
class Symmetric(PairObjective):
    """The objective of SymBa and the Trifecta: :func:`trifecta.losses.functional.symmetric_loss`."""

    kind: ClassVar[str] = "symmetric"
    alpha: float = 4.0  # steepness

    def compare(self, positive: Tensor, negative: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the symmetric loss, (B,), (B,) → ()."""
        return symmetric_loss(
            positive, negative, alpha=self.alpha, settled=self.skip_settled, weights=weights
        )


class _PositionHead(Head):
    weighs_classes = True  # in the probe

    def __init__(self, objective: "PositionThresholds", site: Site) -> None:
        super().__init__()
        each = (objective.positive, objective.negative, objective.penalty)
        *thresholds, self.penalty = (numbers[min(site.block, len(numbers) - 1)] for numbers in each)
        self.thresholds = tuple(thresholds)
        self.activation = Triangle()
        self.probe = CrossEntropy(pool=objective.pool).head(site.feature_shape, site.num_classes)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        positive, negative = position_goodness(features).chunk(2)
        contrast = position_loss(positive, negative, thresholds=self.thresholds, penalty=self.penalty)
        with torch.no_grad():
            seen = self.activation(features[: len(labels)])
        return contrast + self.probe.loss(seen, labels)

    def scores(self, features: Tensor) -> Tensor:
        return self.probe.scores(self.activation(features))


@dataclass(frozen=True, kw_only=True)
class PositionThresholds(SiteObjective):
    """One threshold for positives and one for negatives, at every position (SCFF).

    Thresholds and penalties (of the length of an image's positive goodness map) are one for each block, the
    last one for all later blocks. The probe reads P×P averages of the triangle of the response.
    """

    kind: ClassVar[str] = "position-thresholds"
    head_class = _PositionHead
    head_at = SiteObjective.build
    pairs: ClassVar[bool] = True
    reads: ClassVar[str] = "response"
    positive: tuple[float, ...] = (0.0, 5.0, 6.0)
    negative: tuple[float, ...] = (1.0, 9.0, 10.0)
    penalty: tuple[float, ...] = (0.0012, 0.0007, 0.0005)
    pool: int = units(4, least=0)


def position_goodness(response: Tensor) -> Tensor:
    """Return ``mean_c relu(response_c)²`` by position, (N, C, …) → (N, positions), (N, C) → (N, 1)."""
    return at_least_float32(F.relu(response)).square().mean(1).reshape(len(response), -1)
