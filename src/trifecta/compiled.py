"""Blocks and losses of a network by ``torch.compile``, for training."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trifecta.losses import Head

# A block that learns, alone or behind another one in its window, and one that idles.
COMPILATIONS_PER_BLOCK = 4


class CompiledParts(NamedTuple):
    """What training runs in place of a network's own parts.

    Attributes:
        halves: of each block, the one up to what its head reads and the rest.
        losses: of each head.
    """

    halves: Mapping[int, tuple[Any, nn.Module]]
    losses: Mapping[int, Any]


def compile_parts(
    halves: Mapping[int, tuple[nn.Module, nn.Module]], heads: Mapping[int, Head], *args: Any, **kwargs: Any
) -> CompiledParts:
    """Compile the first half of every block, and every head's loss; arguments are ``torch.compile``'s."""
    # All blocks share the code that calls them, and each of their shapes counts as a compilation of it.
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, COMPILATIONS_PER_BLOCK * len(halves))
    return CompiledParts(
        {k: (torch.compile(front, *args, **kwargs), back) for k, (front, back) in halves.items()},
        {k: torch.compile(HeadLoss(head), *args, **kwargs) for k, head in heads.items()},
    )


class HeadLoss(nn.Module):
    """A head's loss as a module of its own, which is what ``torch.compile`` and copying understand."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Any, labels: Tensor) -> Tensor:
        """``head.loss(features, labels)``."""
        return self.head.loss(features, labels)
