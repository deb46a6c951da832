"""A scoring head with terms beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.losses.classifiers import CrossEntropy
from trifecta.losses.goodness import ChannelSums, group_means
from trifecta.losses.head import Head, Objective, Term, head_at, with_share
from trifecta.nn.shapes import FeatureShape


class CombinedHead(Head):
    """A weighted head that scores, of whose gradient the block receives a share, and weighted terms.

    The scoring head itself learns from its whole gradient whatever the share: with 0 it is a probe.

    Args:
        scoring: the head that scores.
        share: of its gradient, 0 … 1.
        terms: each with its module.
        weight: of the scoring head's loss.
    """

    def __init__(
        self, scoring: Head, share: float, terms: Sequence[tuple[Term, nn.Module]], *, weight: float
    ) -> None:
        super().__init__()
        self.scoring, self.share, self.weight = scoring, share, weight
        self.declared = [term for term, _ in terms]
        self.terms = nn.ModuleList(module for _, module in terms)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, …) or (2B, …), (B,) → (); only terms that compare pairs see the negatives."""
        positives = features[: len(labels)]
        loss = self.weight * self.scoring.loss(with_share(positives, self.share), labels)
        for term, module in zip(self.declared, self.terms, strict=True):
            loss = loss + term.weight * module(features if term.pairs else positives, labels)
        return loss

    @property
    def weighs_classes(self) -> bool:
        """Whether the scoring head's loss does. Of the terms only those that compare pairs do."""
        return self.scoring.weighs_classes

    def scores(self, features: Tensor) -> Tensor:
        """(N, …) → (N, K)."""
        return self.scoring.scores(features)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Tell the terms whose settings change with time."""
        for module in self.terms:
            if callable(tell := getattr(module, "set_epoch", None)):
                tell(epoch, epochs)


@dataclass(frozen=True, kw_only=True)
class Combined(Objective):
    """``weight`` times a scoring objective, plus weighted terms: :class:`CombinedHead`.

    The block receives a ``share`` of the scoring objective's gradient.
    """

    kind: ClassVar[str] = "combined"
    scoring: Objective = field(default_factory=CrossEntropy)
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
        """The position in a block that all of it reads: the scoring objective's."""
        return self.scoring.reads

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for features ``(N, *feature_shape)``."""
        return self.head_at(0, [feature_shape], num_classes)

    def head_at(
        self,
        block: int,
        feature_shapes: Sequence[FeatureShape],
        num_classes: int,
        residual: Sequence[int] = (),
    ) -> Head:
        """Build the head for ``block``, as :func:`trifecta.losses.head.head_at`."""
        scoring = head_at(self.scoring, block, feature_shapes, num_classes, residual)
        terms = [(term, term.module(feature_shapes[block], num_classes)) for term in self.terms]
        return CombinedHead(scoring, self.share, terms, weight=self.weight)


Levels = tuple[tuple[int, ...], ...]


class CoarseHead(Head):
    """A head over K classes that learns to tell G superclasses apart.

    A superclass's score is the mean of its classes' scores, the loss their cross-entropy. The scores that
    predict stay those of the classes. Source: the published code of HCL-FF (arXiv 2605.24797).

    Args:
        head: built for K classes.
        superclasses: (K,), the superclass 0 … G−1 of every class.
    """

    weighs_classes = True
    superclasses: Tensor
    members: Tensor

    def __init__(self, head: Head, superclasses: Sequence[int]) -> None:
        super().__init__()
        self.head = head
        self.reads_channel_sums, self.reads_patch_means = head.reads_channel_sums, head.reads_patch_means
        self.register_buffer("superclasses", torch.tensor(superclasses), persistent=False)
        members = F.one_hot(torch.tensor(superclasses)).bool()
        self.register_buffer("members", members, persistent=False)

    def loss(self, features: Tensor | ChannelSums, labels: Tensor) -> Tensor:
        """(B, …) or (2B, …), (B,) → ()."""
        weights, targets = self.sample_weights(labels), self.superclasses[labels]
        if weights is None:
            return F.cross_entropy(self.coarse_scores(features), targets)
        return (F.cross_entropy(self.coarse_scores(features), targets, reduction="none") * weights).mean()

    def coarse_scores(self, features: Tensor | ChannelSums) -> Tensor:
        """(N, …) → (N, G)."""
        return group_means(self.head.scores(features), self.members)

    def scores(self, features: Tensor | ChannelSums) -> Tensor:
        """(N, …) → (N, K)."""
        return self.head.scores(features)


def coarsened(head: Head, superclasses: Sequence[int]) -> Head:
    """``head`` with coarse targets; terms beside a scoring head keep the classes."""
    if isinstance(head, CombinedHead):
        head.scoring = CoarseHead(head.scoring, superclasses)
        return head
    return CoarseHead(head, superclasses)


def superclasses_of(block: int, num_blocks: int, levels: Levels) -> tuple[int, ...] | None:
    """The superclasses that ``block`` of so many learns, coarse to fine; None where it learns the classes.

    The levels and, after them, the classes share the blocks equally: block k has level ``k · D // L`` of D.
    """
    level = block * (len(levels) + 1) // num_blocks
    return levels[level] if level < len(levels) else None


def check_superclasses(levels: Levels, num_classes: int) -> None:
    """Check that every level has one number for every class.

    Raises:
        ValueError: it has not, or its numbers leave one out.
    """
    for superclasses in levels:
        count = len(set(superclasses))
        if len(superclasses) != num_classes:
            raise ValueError(
                f"superclasses are one number for each of the {num_classes} classes: received "
                f"{len(superclasses)} of them"
            )
        if set(superclasses) != set(range(count)) or count < 2:
            raise ValueError(
                "superclasses are numbered 0, 1, … without a gap, two at least: received "
                f"{','.join(map(str, superclasses))}"
            )
