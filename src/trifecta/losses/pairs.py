"""Losses that compare the goodness of an image's true label with that of a wrong one."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from trifecta._utils.references import part_of
from trifecta.losses.functional import symmetric_loss, threshold_loss
from trifecta.losses.goodness import GOODNESS, READ_CHANNEL_SUMS, Goodness
from trifecta.losses.head import Head, Site, SiteObjective, bounded


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
        settled = self.skip_settled
        return threshold_loss(
            positive, negative, threshold=self.threshold, settled=settled, weights=weights
        )


@dataclass(frozen=True, kw_only=True)
class Symmetric(PairObjective):
    """The objective of SymBa and the Trifecta: :func:`trifecta.losses.functional.symmetric_loss`."""

    kind: ClassVar[str] = "symmetric"
    alpha: float = 4.0  # steepness

    def compare(self, positive: Tensor, negative: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the symmetric loss, (B,), (B,) → ()."""
        settled = self.skip_settled
        return symmetric_loss(positive, negative, alpha=self.alpha, settled=settled, weights=weights)
