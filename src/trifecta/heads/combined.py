"""A scoring head with terms beside it."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from trifecta.goodness import Moments
from trifecta.heads.classifiers import (
    AuxiliaryCrossEntropy,
    CentroidMargin,
    CrossEntropy,
    LocalPrediction,
)
from trifecta.heads.goodness_heads import GroupCrossEntropy, ProjectedCrossEntropy
from trifecta.heads.head import FeatureShape, Head, with_share
from trifecta.heads.terms import ContrastiveModule, ContrastModule, Term

ScoringObjective = (
    CrossEntropy
    | LocalPrediction
    | AuxiliaryCrossEntropy
    | CentroidMargin
    | GroupCrossEntropy
    | ProjectedCrossEntropy
)


class CombinedHead(Head):
    """A weighted head that scores, of whose gradient the block receives a share, and weighted terms.

    The scoring head itself learns from its whole gradient whatever the share: with 0 it is a probe.
    """

    def __init__(
        self, scoring: Head, share: float, terms: list[tuple[float, nn.Module]], *, weight: float = 1.0
    ) -> None:
        super().__init__()
        self.scoring, self.share, self.weight = scoring, share, weight
        self.weights = [weight for weight, _ in terms]
        self.terms = nn.ModuleList(term for _, term in terms)

    def loss(self, features: Tensor | Moments, labels: Tensor) -> Tensor:
        """(B, …) or (2B, …), (B,) → (); only terms that compare pairs see the negatives."""
        assert isinstance(features, Tensor)
        positives = features[: len(labels)]
        loss = self.weight * self.scoring.loss(with_share(positives, self.share), labels)
        for weight, term in zip(self.weights, self.terms, strict=True):
            seen = features if isinstance(term, ContrastModule) else positives
            loss = loss + weight * term(seen, labels)
        return loss

    def scores(self, features: Tensor | Moments) -> Tensor:
        """(N, …) → (N, K)."""
        return self.scoring.scores(features)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Tell the terms whose settings change with time."""
        for term in self.terms:
            if isinstance(term, ContrastiveModule):
                term.set_epoch(epoch, epochs)

    @property
    def reads_moments(self) -> bool:
        """Terms need the features."""
        return False


@dataclass(frozen=True, kw_only=True)
class Combined:
    """``weight`` times a scoring objective, plus weighted terms: :class:`CombinedHead`.

    The block receives a ``share`` of the scoring objective's gradient.
    """

    kind: ClassVar[str] = "combined"
    scores_classes: ClassVar[bool] = True
    feeds_back: ClassVar[bool] = False
    scoring: ScoringObjective = field(default_factory=CrossEntropy)
    terms: tuple[Term, ...] = ()
    share: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Reject a share that is none; a list of terms becomes a tuple."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"the share of a scoring head's gradient is 0 … 1: received {self.share}")
        object.__setattr__(self, "terms", tuple(self.terms))

    @property
    def pairs(self) -> bool:
        """Whether a term compares positives with negatives."""
        return any(term.pairs for term in self.terms)

    @property
    def reads(self) -> str:
        """Where in a block all of it looks: as the scoring objective."""
        return self.scoring.reads

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is (N, *feature_shape)."""
        scoring = self.scoring.head(feature_shape, num_classes)
        terms = [(term.weight, term.module(feature_shape, num_classes)) for term in self.terms]
        return CombinedHead(scoring, self.share, terms, weight=self.weight)
