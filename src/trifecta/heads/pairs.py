"""Heads that compare the goodness of an image's true label with that of a wrong one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from trifecta.goodness import GOODNESS, Goodness, Moments
from trifecta.heads.head import FeatureShape, Head
from trifecta.names import lookup
from trifecta.objectives import symmetric_loss, threshold_loss


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


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Objective of Forward-Forward: :func:`trifecta.objectives.threshold_loss`.

    ``skip_settled`` leaves out samples that hardly matter: :func:`trifecta.objectives.unsettled`.
    """

    kind: ClassVar[str] = "threshold"
    pairs: ClassVar[bool] = True
    scores_classes: ClassVar[bool] = False
    feeds_back: ClassVar[bool] = False
    reads: ClassVar[str] = "output"
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
    scores_classes: ClassVar[bool] = False
    feeds_back: ClassVar[bool] = False
    reads: ClassVar[str] = "output"
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


def _check_settled(bound: float) -> None:
    if not 0 <= bound < 1:
        raise ValueError(
            f"--skip-settled is a share of a pair's largest gradient, 0 (off) … below 1: received {bound}; "
            "try 0.1"
        )
