"""The losses of one epoch, kept on the device.

Shapes: S steps an epoch, L blocks.
"""

from typing import Any

import torch
from torch import Tensor


class DivergenceError(RuntimeError):
    """Training produced a number that is not finite."""


# Steps between two looks at the losses on a device that works ahead of Python, each of which waits for it.
STEPS_UNCHECKED = 32


class LossMeter:
    """Every block's loss at every step of an epoch, (S, L).

    A loss that is not finite is an error at once on a CPU, and within 32 steps elsewhere.
    """

    def __init__(self, steps: int, num_blocks: int, device: torch.device) -> None:
        self._losses = torch.zeros(steps, num_blocks, device=device)
        self._closed = torch.zeros(steps, num_blocks, dtype=torch.bool)
        self._every = 1 if device.type == "cpu" else STEPS_UNCHECKED

    def add(self, step: int, losses: list[Tensor | None]) -> None:
        """Keep what one step returned.

        Raises:
            DivergenceError: some loss is not finite; names the block and step where it began.
        """
        for block, loss in enumerate(losses):
            if loss is not None:
                self._losses[step, block] = loss
                self._closed[step, block] = True
        if (step + 1) % self._every == 0 and not bool(
            self._losses[: step + 1][-self._every :].isfinite().all()
        ):
            self.means()

    def means(self) -> list[float | None]:
        """Each block's mean loss; None for a block that closed no window.

        Raises:
            DivergenceError: some loss is not finite; names the block and step where it began.
        """
        losses = self._losses.cpu()
        bad = (~losses.isfinite() & self._closed).nonzero()
        if len(bad):
            step, block = bad[0].tolist()
            raise DivergenceError(
                f"the loss of block {block} became {losses[step, block].item()} at step {step + 1}"
            )
        counts = self._closed.sum(0)
        totals = losses.double().sum(0)
        return [
            (total / count).item() if count else None for total, count in zip(totals, counts, strict=True)
        ]

    def first_losses(self) -> list[float | None]:
        """Each block's loss at the first step where it closed a window; None where it closed none."""
        losses, steps = self._losses.cpu(), self._closed.int().argmax(0).tolist()
        is_closed = self._closed.any(0).tolist()
        return [losses[s, k].item() if is_closed[k] else None for k, s in enumerate(steps)]

    def state_dict(self) -> dict[str, Any]:
        """The losses so far, for a checkpoint within an epoch."""
        return {"losses": self._losses, "closed": self._closed}

    def load_state_dict(self, state: dict[str, Any], blocks: range) -> None:
        """Restore what :meth:`state_dict` returned of ``blocks``, those that learn in this process."""
        own = slice(blocks.start, blocks.stop)
        self._losses[:, own].copy_(state["losses"][:, own])
        self._closed[:, own].copy_(state["closed"][:, own])
