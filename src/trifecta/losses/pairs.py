"""Losses that compare the goodness of an image's true label with that of a wrong one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
        compare: Callable[[Tensor, Tensor], Tensor],
        *,
        skips_samples: bool = False,
    ) -> None:
        super().__init__()
        self._goodness, self._compare, self.skips_samples = goodness, compare, skips_samples
        is_replaced = type(self).goodness is not PairHead.goodness
        self.reads_channel_sums = reads_channel_sums(goodness) and not is_replaced

    def goodness(self, features: Any) -> Tensor:
        """(N, …) → (N,)."""
        return self._goodness(features)

    def compare(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Loss of the goodness of positives and negatives, (B,), (B,) → ()."""
        return self._compare(positive, negative)

    def loss(self, features: Any, labels: Tensor) -> Tensor:
        """(2B, …) → ()."""
        return self.compare(*self.goodness(features).chunk(2))

    def scores(self, features: Any) -> Tensor:
        """(N, …) → (N,)."""
        return self.goodness(features)


@dataclass(frozen=True, kw_only=True)
class Threshold(Objective):
    """Objective of Forward-Forward: :func:`trifecta.losses.functional.threshold_loss`.

    Attributes:
        goodness: a name in ``GOODNESS``, or a function (N, …) → (N,).
        threshold: that positives should exceed and negatives stay below.
        skip_settled: leave out samples that hardly matter, see
            :func:`trifecta.losses.functional.unsettled`; 0 leaves out none.
    """

    kind: ClassVar[str] = "threshold"
    pairs: ClassVar[bool] = True
    scores_classes: ClassVar[bool] = False
    goodness: str | Goodness = "mean-square"
    threshold: float = 2.0
    skip_settled: float = 0.0

    def __post_init__(self) -> None:
        """Reject what is no share."""
        _check_settled(self.skip_settled)

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for features (N, *feature_shape)."""
        compare = partial(threshold_loss, threshold=self.threshold, settled=self.skip_settled)
        goodness = part_of(GOODNESS, self.goodness, "goodness")
        return PairHead(goodness, compare, skips_samples=self.skip_settled > 0)


@dataclass(frozen=True, kw_only=True)
class Symmetric(Objective):
    """Objective of SymBa and the Trifecta: :func:`trifecta.losses.functional.symmetric_loss`.

    Attributes:
        goodness: a name in ``GOODNESS``, or a function (N, …) → (N,).
        alpha: steepness.
        skip_settled: leave out pairs that hardly matter, see
            :func:`trifecta.losses.functional.unsettled`; 0 leaves out none.
    """

    kind: ClassVar[str] = "symmetric"
    pairs: ClassVar[bool] = True
    scores_classes: ClassVar[bool] = False
    goodness: str | Goodness = "mean-square"
    alpha: float = 4.0
    skip_settled: float = 0.0

    def __post_init__(self) -> None:
        """Reject what is no share."""
        _check_settled(self.skip_settled)

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for features (N, *feature_shape)."""
        compare = partial(symmetric_loss, alpha=self.alpha, settled=self.skip_settled)
        goodness = part_of(GOODNESS, self.goodness, "goodness")
        return PairHead(goodness, compare, skips_samples=self.skip_settled > 0)


def _check_settled(bound: float) -> None:
    if not 0 <= bound < 1:
        raise ValueError(
            f"skip_settled is a share of a pair's largest gradient, 0 (off) … below 1: received {bound}; "
            "try 0.1"
        )
