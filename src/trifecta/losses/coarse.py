"""Coarse targets: what early blocks learn to tell apart in place of classes.

Shapes: N samples, K classes, G superclasses.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta.losses.combined import CombinedHead
from trifecta.losses.goodness import ChannelSums, group_means
from trifecta.losses.head import Head

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
