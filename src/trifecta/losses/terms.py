"""Losses that compare the goodness of an image's true label with that of a wrong one."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, ClassVar

from torch import Tensor, nn

from trifecta._utils.checks import MOST_UNITS, require_ranges
from trifecta._utils.references import part_of
from trifecta.losses.functional import (
    similarity_loss,
    supervised_contrastive_loss,
    symmetric_loss,
    threshold_loss,
)
from trifecta.losses.goodness import GOODNESS, Goodness, reads_channel_sums
from trifecta.losses.head import Head, Objective, Term, at_least_float32
from trifecta.nn.blocks import CONVOLUTIONS
from trifecta.nn.norms import ClassGroupNorm
from trifecta.nn.pooling import ADAPTIVE_POOLS
from trifecta.nn.shapes import FeatureShape


class PairHead(Head):
    """Compares the goodness of positives and negatives; has no parameters."""

    def __init__(
        self,
        goodness: Goodness,
        compare: Callable[..., Tensor],
        *,
        skips_samples: bool = False,
    ) -> None:
        super().__init__()
        self._goodness, self._compare, self.skips_samples = goodness, compare, skips_samples
        self._takes_weights = all("weights" in signature(f).parameters for f in (compare, self.compare))
        is_replaced = type(self).goodness is not PairHead.goodness
        self.reads_channel_sums = reads_channel_sums(goodness) and not is_replaced

    def goodness(self, features: Any) -> Tensor:
        """(N, …) → (N,)."""
        return self._goodness(features)

    def compare(self, positive: Tensor, negative: Tensor, weights: Tensor | None = None) -> Tensor:
        """Loss of the goodness of positives and negatives, (B,), (B,) → (); ``weights`` are of pairs."""
        if weights is None:
            return self._compare(positive, negative)
        return self._compare(positive, negative, weights=weights)

    @property
    def weighs_classes(self) -> bool:
        """Whether the comparison takes ``weights``: those of a pair are its true label's."""
        return self._takes_weights

    def loss(self, features: Any, labels: Tensor) -> Tensor:
        """(2B, …), (B,) → ()."""
        positive, negative = self.goodness(features).chunk(2)
        weights = self.sample_weights(labels)
        if weights is None or not self._takes_weights:
            return self.compare(positive, negative)
        return self.compare(positive, negative, weights)

    def scores(self, features: Any) -> Tensor:
        """(N, …) → (N,)."""
        return self.goodness(features)


@dataclass(frozen=True, kw_only=True)
class PairObjective(Objective):
    """What losses over pairs share.

    Attributes:
        goodness: a name in ``GOODNESS``, or a function (N, …) → (N,).
        skip_settled: leave out samples that hardly matter, see
            :func:`trifecta.losses.functional.unsettled`; 0 leaves out none.
    """

    pairs: ClassVar[bool] = True
    scores_classes: ClassVar[bool] = False
    goodness: str | Goodness = "mean-square"
    skip_settled: float = 0.0

    def __post_init__(self) -> None:
        """Reject what is no share."""
        if not 0 <= self.skip_settled < 1:
            raise ValueError(
                "skip_settled is a share of a pair's largest gradient, 0 (off) … below 1: received "
                f"{self.skip_settled}; try 0.1"
            )

    def compare(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Loss of the goodness of positives and negatives, (B,), (B,) → ()."""
        raise NotImplementedError(f"{type(self).__name__} compares nothing")

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for features ``(N, *feature_shape)``."""
        goodness = part_of(GOODNESS, self.goodness, "goodness")
        return PairHead(goodness, self.compare, skips_samples=self.skip_settled > 0)


@dataclass(frozen=True, kw_only=True)
class Threshold(PairObjective):
    """Objective of Forward-Forward: :func:`trifecta.losses.functional.threshold_loss`.

    Attributes:
        threshold: that positives should exceed and negatives stay below.
    """

    kind: ClassVar[str] = "threshold"
    threshold: float = 2.0

    def compare(self, positive: Tensor, negative: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B,), (B,) → ()."""
        return threshold_loss(
            positive, negative, threshold=self.threshold, settled=self.skip_settled, weights=weights
        )


@dataclass(frozen=True, kw_only=True)
class Symmetric(PairObjective):
    """Objective of SymBa and the Trifecta: :func:`trifecta.losses.functional.symmetric_loss`.

    Attributes:
        alpha: steepness.
    """

    kind: ClassVar[str] = "symmetric"
    alpha: float = 4.0

    def compare(self, positive: Tensor, negative: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B,), (B,) → ()."""
        return symmetric_loss(
            positive, negative, alpha=self.alpha, settled=self.skip_settled, weights=weights
        )


class SimilarityModule(nn.Module):
    """A linear map without bias, each map's standard deviation, then :func:`similarity_loss`.

    The linear map is a 3×3 convolution for maps, of as many dimensions as they have. Maps of one row, or no
    more than three of them, stand for themselves. Source: the published code of Nøkland & Eidnes 2019.
    """

    def __init__(self, feature_shape: FeatureShape, num_classes: int) -> None:
        super().__init__()
        channels, self.num_classes = feature_shape[0], num_classes
        self.weights: nn.Module = nn.Linear(channels, channels, bias=False)
        if positions := len(feature_shape) - 1:
            self.weights = CONVOLUTIONS[positions](channels, channels, 3, padding=1, bias=False)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, …), (B,) → ()."""
        return similarity_loss(deviations(self.weights(features)), labels, self.num_classes)


def deviations(maps: Tensor) -> Tensor:
    """Standard deviation (n − 1) of each map, (B, C, …) → (B, C); what has no maps is flattened."""
    wide = at_least_float32(maps)
    if wide.ndim > 2 and wide.shape[1] > 3 and wide.shape[2] > 1:
        return wide.flatten(2).std(2)
    return wide.flatten(1)


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Falls linearly from ``first`` to ``second`` in ``epochs``, then along a cosine to ``last``."""

    first: float = 0.8
    second: float = 0.2
    last: float = 0.1
    epochs: int = 50

    def __post_init__(self) -> None:
        """Reject what nothing can be divided by."""
        if min(self.first, self.second, self.last) <= 0 or self.epochs < 1:
            raise ValueError(
                "temperatures are above 0 and last an epoch or more: received "
                f"{self.first}, {self.second}, {self.last} and {self.epochs} epochs"
            )

    def at(self, epoch: int, epochs: int) -> float:
        """In ``epoch`` (from 0) of so many."""
        if epoch < self.epochs:
            return self.first + (self.second - self.first) * epoch / self.epochs
        progress = (epoch - self.epochs) / (epochs - self.epochs)
        return self.last + (self.second - self.last) * (1 + math.cos(math.pi * progress)) / 2


class ContrastiveModule(nn.Module):
    """Normalises by class group, averages, projects, then :func:`supervised_contrastive_loss`.

    Averages to 4×4, 2×2 or whole maps for up to 100, up to 400 or more channels; the projection is linear
    without bias and batch-normalised. Before the first step of a run, and where nobody says which epoch it
    is, the temperature is its first. Source: the published code of HCL-FF (arXiv 2605.24797).
    """

    def __init__(
        self, feature_shape: FeatureShape, num_classes: int, *, features: int, temperature: Temperature
    ) -> None:
        super().__init__()
        channels = feature_shape[0]
        self.schedule, self.temperature = temperature, temperature.first
        pool = 4 if channels <= 100 else 2 if channels <= 400 else 1
        self.normalize = ClassGroupNorm(channels, num_classes)
        positions = len(feature_shape) - 1
        self.averages = ADAPTIVE_POOLS[positions](pool) if positions else nn.Identity()
        self.projection = nn.Linear(channels * pool**positions, features, bias=False)
        self.projected_norm = nn.BatchNorm1d(features)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Move the temperature to ``epoch`` (from 0) of so many."""
        self.temperature = self.schedule.at(epoch, epochs)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, …), (B,) → ()."""
        return supervised_contrastive_loss(self.project(features), labels, temperature=self.temperature)

    def project(self, features: Tensor) -> Tensor:
        """(B, …) → (B, features), not yet of length 1."""
        maps = self.normalize(features)
        projected: Tensor = self.projected_norm(self.projection(self.averages(maps).flatten(1)))
        return projected


class ContrastModule(nn.Module):
    """The loss of a pair head, on (2B, …)."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(2B, …), (B,) → ()."""
        return self.head.loss(features, labels)


@dataclass(frozen=True, kw_only=True)
class Similarity(Term):
    """Similarity matching: :class:`SimilarityModule`."""

    kind: ClassVar[str] = "similarity"
    weight: float = 1.0

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Build the term for a block whose output is ``(N, *feature_shape)``."""
        return SimilarityModule(feature_shape, num_classes)


@dataclass(frozen=True, kw_only=True)
class SupervisedContrastive(Term):
    """Supervised-contrastive term on normalised, projected averages: :class:`ContrastiveModule`."""

    kind: ClassVar[str] = "supervised-contrastive"
    weight: float = 1.0
    features: int = 128
    temperature: Temperature = field(default_factory=Temperature)

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, features=(1, MOST_UNITS))

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Build the term for a block whose output is ``(N, *feature_shape)``."""
        return ContrastiveModule(
            feature_shape, num_classes, features=self.features, temperature=self.temperature
        )


@dataclass(frozen=True, kw_only=True)
class Contrast(Term):
    """The goodness of positives against that of negatives: :class:`ContrastModule`."""

    kind: ClassVar[str] = "contrast"
    pairs: ClassVar[bool] = True
    weight: float = 1.0
    loss: Objective = field(default_factory=Symmetric)

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Build the term for a block whose output is ``(N, *feature_shape)``."""
        return ContrastModule(self.loss.head(feature_shape, num_classes))


TERMS: dict[str, type[Term]] = {term.kind: term for term in (Similarity, SupervisedContrastive, Contrast)}
