"""Steps that are left out because of a number that is not finite."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def is_finite(loss: Tensor, optimizers: Iterable[torch.optim.Optimizer]) -> bool:
    """Whether ``loss``, (), and every gradient that the optimizers would use are finite."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    return bool(torch.stack([value.isfinite().all() for value in (loss, *gradients)]).all())


class KeptBuffers:
    """Buffers of modules as they were before a pass, such as running statistics."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._kept = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]

    def restore(self) -> None:
        """Set the buffers back."""
        for buffer, before in self._kept:
            buffer.copy_(before)

    def restore_unless_finite(self) -> None:
        """Set them back where the pass has left a number in them that is not finite."""
        if not all(bool(buffer.isfinite().all()) for buffer, _ in self._kept):
            self.restore()
