"""Backprop the ways people save memory with it: checkpoints and accumulated gradients."""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trifecta._utils.devices import autocast
from trifecta.kernels import fused_blocks, run_window
from trifecta.learner import Learner
from trifecta.losses import ChannelSums
from trifecta.schedules import Window


class CheckpointedLearner(Learner):
    """Keeps only the ends of √L segments and runs each again for its gradient.

    Each segment is itself a fused window where its blocks allow, so that backprop has every economy that
    local windows have.
    """

    def window_loss(
        self, window: Window, x: Tensor, labels: Tensor, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`trifecta.learner.Learner`."""
        network, head = self.network, self.network.head(window.last)
        blocks = list(network.blocks[window.first : window.last + 1])
        size = math.ceil(math.sqrt(len(blocks)))
        sums: ChannelSums | None = None
        for start in range(0, len(blocks), size):
            members = blocks[start : start + size]
            segment, sums = fused_blocks(members), None
            if segment is None:
                # Statistics of the batch are counted twice here, as whenever a graph is run again.
                x = checkpoint(nn.Sequential(*members), x, use_reentrant=False)
            else:
                x, sums = checkpoint(run_window, segment, x, use_reentrant=False)
        return head.loss(sums if sums is not None and head.reads_channel_sums else x, labels), x


class AccumulatedLearner(Learner):
    """Splits every batch into ``pieces`` and adds up their gradients; batch norm sees the pieces."""

    pieces = 4

    def step(self, images: Tensor, labels: Tensor) -> list[Tensor | None]:
        """See :class:`trifecta.learner.Learner`."""
        self.network.train()
        window = Window(0, len(self.network.blocks) - 1)
        for x, y in zip(images.chunk(self.pieces), labels.chunk(self.pieces), strict=True):
            with autocast(self.precision, self.device):
                loss, _ = self.window_loss(window, x, y)
            torch.autograd.backward(loss * len(x) / len(images))
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return [*[None] * window.last, loss]
