"""Coarse targets: a head that tells superclasses apart, which early blocks learn in place of classes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trifecta.goodness import Moments
from trifecta.heads.head import Head


class CoarseHead(Head):
    """A head over G superclasses that answers for K classes: each has the score of its superclass.

    Args:
        head: built for G classes.
        superclasses: (K,), the superclass 0 … G−1 of every class.
    """

    superclasses: Tensor

    def __init__(self, head: Head, superclasses: Sequence[int]) -> None:
        super().__init__()
        self.head, self.reads_patches = head, head.reads_patches
        self.register_buffer("superclasses", torch.tensor(superclasses), persistent=False)

    def loss(self, features: Tensor | Moments, labels: Tensor) -> Tensor:
        """(B, …) or (2B, …), (B,) → ()."""
        return self.head.loss(features, self.superclasses[labels])

    def scores(self, features: Tensor | Moments) -> Tensor:
        """(N, …) → (N, K)."""
        return self.head.scores(features)[:, self.superclasses]

    @property
    def reads_moments(self) -> bool:
        """As the head over superclasses."""
        return self.head.reads_moments


def check_superclasses(superclasses: Sequence[int], num_classes: int) -> int:
    """How many superclasses there are.

    Raises:
        ValueError: not one number for every class, or numbers that leave one out.
    """
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
    return count
