"""The state of one step on its way through the blocks."""

from dataclasses import dataclass

from torch import Tensor

from trifecta.schedules import Window


@dataclass(kw_only=True)
class LocalStep:
    """One batch on its way through the blocks.

    Attributes:
        number: of the step, counted from 0.
        progress: the share of the run before it; 0 where the run's length is unknown.
        frozen: how many blocks, counted from the first, learn no more.
        windows: those that learn, in order.
        x: what the next of them receives.
        labels: (B,).
        losses: of each block that has closed a window, L × ().
        windows_done: how many have learnt.
        offsets: (L,) which images make a pair in each block, where every block receives new ones.
    """

    number: int
    progress: float
    frozen: int
    windows: list[Window]
    x: Tensor
    labels: Tensor
    losses: list[Tensor | None]
    windows_done: int = 0
    offsets: Tensor | None = None

    @property
    def is_done(self) -> bool:
        """Whether every window has learnt."""
        return self.windows_done == len(self.windows)
