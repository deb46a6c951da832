"""The interfaces of a local loss: objective, head, term.

A local loss is declared as plain data (an *objective*: a frozen dataclass that can be saved and compared)
and built into a module (a *head*) for the block it stands on. Shapes: B images, K classes; ``features`` are
a block's output, (2B, …) for objectives that compare pairs (positives first), (B, …) for the others.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.nn.shapes import FeatureShape


class Head(nn.Module, ABC):
    """A local loss over a block's output, and the scores read off it.

    The loss is the cross-entropy of the scores, unless a head has another one.

    Attributes:
        smoothing: of the labels, in the cross-entropy.
        class_weights: (K,), what a sample of each class weighs in the loss; None where all weigh the same.
        skips_samples: whether the loss leaves samples out, whose gradient is then exactly 0.
        reads_channel_sums: whether ``features`` may be :class:`ChannelSums` in place of the output, which a
            fused window has at hand.
        reads_patch_means: P where the loss needs only the means of P×P patches; 0 where it needs others.
    """

    smoothing: float = 0.0
    class_weights: Tensor | None
    skips_samples: bool = False
    reads_channel_sums: bool = False
    reads_patch_means: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("class_weights", None, persistent=False)

    @property
    def weighs_classes(self) -> bool:
        """Whether the loss heeds ``class_weights``. Say so in a head with a loss of its own."""
        return type(self).loss is Head.loss

    def weigh_classes(self, weights: Tensor | None) -> None:
        """Set ``class_weights`` here and in every head that this one is made of.

        Raises:
            ValueError: the loss does not heed them.
        """
        if weights is not None and not self.weighs_classes:
            raise ValueError(
                f"the loss of {type(self).__name__} has no weights for classes: received class_weights; "
                "leave them out, or use cross_entropy and weighs_classes in it"
            )
        for part in self.modules():
            if isinstance(part, Head):
                part.class_weights = weights

    def sample_weights(self, labels: Tensor) -> Tensor | None:
        """Return what each of the samples weighs, of mean 1, (B,); None where all weigh the same."""
        if self.class_weights is None:
            return None
        weights = self.class_weights[labels]
        return weights / weights.mean()

    def cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of class scores, (B, K, …), (B, …) → (): a mean weighted as PyTorch does it."""
        weights = None if self.class_weights is None else self.class_weights.to(scores.dtype)
        return F.cross_entropy(scores, labels, weight=weights, label_smoothing=self.smoothing)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Take note, before a step, of its epoch (from 0) and how many there are."""

    def receive(self, error: Tensor) -> None:
        """Take the network's error, ``softmax(scores) − one-hot labels`` (B, K), for the next loss.

        Called where the objective says ``uses_feedback``.
        """

    def loss(self, features: Any, labels: Tensor) -> Tensor:
        """Scalar loss of ``features`` (2B or B, …) for ``labels`` (B,)."""
        return self.cross_entropy(self.scores(features), labels)

    @abstractmethod
    def scores(self, features: Any) -> Tensor:
        """Pairs: goodness (N,) of the label each sample carries. Others: class scores (N, K)."""


class Objective(Protocol):
    """Declares a local loss. Inherit from it in a frozen dataclass, or write the same members."""

    @property
    def pairs(self) -> bool:
        """Whether the loss compares positives with negatives, so that a head receives (2B, …)."""
        return False

    @property
    def scores_classes(self) -> bool:
        """Whether the head scores all classes, (N, K); else the label that a sample carries, (N,)."""
        return True

    @property
    def uses_feedback(self) -> bool:
        """Whether heads must receive the network's error before every step."""
        return False

    @property
    def per_position(self) -> bool:
        """Whether every position has a label of its own, (N, …), and class scores, (N, K, …)."""
        return False

    @property
    def reads(self) -> str:
        """The position in a block that the head reads, see :func:`trifecta.nn.blocks.split_block`."""
        return "output"

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for features ``(N, *feature_shape)``."""
        ...


class Term(Protocol):
    """Declares a loss beside a scoring head, which cannot score classes by itself."""

    @property
    def pairs(self) -> bool:
        """Whether it compares positives with negatives, (2B, …); else it sees the positives, (B, …)."""
        return False

    @property
    def weight(self) -> float:
        """The factor of its loss."""
        return 1.0

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Build a module ``(features, labels) → ()`` for features ``(N, *feature_shape)``.

        A module with a method ``set_epoch(epoch, epochs)`` is told the epoch before every step.
        """
        ...


def at_block(part: Any, block: int) -> Any:
    """Return a part of a method at ``block``: ``part.at(block)`` where it differs between blocks."""
    return part.at(block) if hasattr(part, "at") else part


def head_at(
    objective: Objective, block: int, feature_shapes: Sequence[FeatureShape], num_classes: int
) -> Head:
    """Build the head for ``block`` of those whose outputs are ``(N, *feature_shapes[k])``.

    An objective that has ``head_at(block, feature_shapes, num_classes)`` sees the shapes of all blocks.
    """
    if hasattr(objective, "head_at"):
        made: Head = objective.head_at(block, feature_shapes, num_classes)
        return made
    return objective.head(feature_shapes[block], num_classes)


def at_least_float32(values: Tensor) -> Tensor:
    """Widen values that were computed in half precision, for sums and softmax."""
    return values.float() if values.dtype.itemsize < 4 else values


def with_share(x: Tensor, share: float) -> Tensor:
    """Return ``x``, of whose gradient only a share goes back."""
    scaled: Tensor = _ScaledGradient.apply(x, share)  # type: ignore[no-untyped-call]
    return scaled


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a share."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.share, None
