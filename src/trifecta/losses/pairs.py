"""Losses that compare the goodness of an image's true label with that of a wrong one."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

from torch import Tensor

from trifecta._utils.references import part_of
from trifecta.losses.functional import symmetric_loss, threshold_loss
from trifecta.losses.goodness import GOODNESS, Goodness, reads_channel_sums
from trifecta.losses.head import Head, Objective
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
