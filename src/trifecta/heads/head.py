"""What a head is: the local loss over a block's output, and the class scores read off it.

A head is declared as plain data (an *objective*: a frozen dataclass that can be saved and compared)
and built into a module for the block it stands on. Shapes: B images, K classes; ``features`` are a
block's output, (2B, …) for objectives that compare pairs (positives first), (B, …) for the others.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from trifecta.goodness import Moments

FeatureShape = tuple[int, ...]


class Head(nn.Module, ABC):
    """A local loss over a block's output, and the scores read off it.

    Attributes:
        skips_samples: whether the loss leaves samples out, whose gradient is then exactly 0.
        reads_patches: P where the loss needs only the means of P×P patches; 0 where it needs others.
    """

    skips_samples: bool = False
    reads_patches: int = 0

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Say before a step which epoch of how many it belongs to; for settings that change with time."""

    @abstractmethod
    def loss(self, features: Tensor | Moments, labels: Tensor) -> Tensor:
        """Scalar loss of ``features`` (2B or B, …) for ``labels`` (B,)."""

    @abstractmethod
    def scores(self, features: Tensor | Moments) -> Tensor:
        """Pairs: goodness (N,) of the label each sample carries. Others: class scores (N, K)."""

    @property
    def reads_moments(self) -> bool:
        """Whether the moments of ``features`` will do in their place."""
        return True


def at_block(part: Any, block: int) -> Any:
    """A part of a method as it is at ``block``: ``part.at(block)`` where it differs from block to block."""
    return part.at(block) if hasattr(part, "at") else part


def at_least_float32(values: Tensor) -> Tensor:
    """Values that were computed in half precision, wide enough for sums and softmax."""
    return values.float() if values.dtype.itemsize < 4 else values


def with_share(x: Tensor, share: float) -> Tensor:
    """``x`` itself, of whose gradient only a share goes back."""
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
