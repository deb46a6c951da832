"""Backprop the ways people save memory with it: checkpoints and accumulated gradients."""

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trifecta.fused import run_window, stages_of
from trifecta.goodness import Moments
from trifecta.learner import Learner
from trifecta.precision import autocast
from trifecta.schedules import Window


class CheckpointedLearner(Learner):
    """Keeps only the ends of √L segments and runs each again for its gradient.

    Each segment is itself a fused window, so that backprop has every economy that local windows have.
    """

    def window_loss(
        self, window: Window, x: Tensor, labels: Tensor, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`trifecta.learner.Learner`."""
        network, head = self.network, self.network.head(window.last)
        blocks = list(network.blocks[window.first : window.last + 1])
        size = math.ceil(math.sqrt(len(blocks)))
        moments: Moments | None = None
        for start in range(0, len(blocks), size):
            stages = stages_of(blocks[start : start + size])
            assert stages is not None
            x, moments = checkpoint(run_window, stages, x, use_reentrant=False)
        assert moments is not None
        return head.loss(moments if head.reads_moments else x, labels), x


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
