"""Schedules: which blocks learn together at step t, as pure data.

A *window* is a run of blocks that one loss trains: the loss is at its last block, and its gradient ends at
its first. A schedule partitions the blocks into windows at every step.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class Window(NamedTuple):
    """Blocks ``first`` to ``last``, both included; the loss is at ``last``."""

    first: int
    last: int

    @property
    def blocks(self) -> range:
        """The numbers of its blocks."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Partition of the blocks into windows at every step.

    Attributes:
        size: number of blocks in a window; 0 for one window over the whole network (backprop).
        overlapping: whether the partition shifts by one block each step. For size 2 these are the
            overlapping local updates of Dooms et al. 2023: (0,1)(2,3)… at even steps, (0)(1,2)(3,4)… at
            odd ones.
        trains_remainder: whether the blocks left over at the end make a shorter window; otherwise they
            learn nothing at that step, as in the published code of Dooms et al. 2023.
        deep_supervision: whether a window has a loss at each of its blocks, not only at its last.
        restarts: whether steps are counted within their epoch, as in the same code.
    """

    size: int = 1
    overlapping: bool = False
    trains_remainder: bool = True
    deep_supervision: bool = False
    restarts: bool = False

    def __post_init__(self) -> None:
        """Validate the size."""
        if self.size < 0 or (self.overlapping and self.size < 2):
            raise ValueError(
                f"windows need at least one block, overlapping ones two: received size {self.size}"
                f"{', overlapping' if self.overlapping else ''}; try overlapping:2 or blockwise:2"
            )

    @property
    def cycle(self) -> int:
        """Number of steps after which the windows repeat."""
        return self.size if self.overlapping else 1

    def windows(self, step: int, num_blocks: int) -> tuple[Window, ...]:
        """Return the windows that learn at ``step`` (from 0), in order."""
        size = self.size or num_blocks
        lead = step % size if self.overlapping else 0
        edges = [0, *range(lead or size, num_blocks, size), num_blocks]
        windows = tuple(Window(a, b - 1) for a, b in pairwise(edges))
        is_remainder = len(windows) > 1 and len(windows[-1].blocks) < size
        return windows[:-1] if is_remainder and not self.trains_remainder else windows

    def closing_blocks(self, num_blocks: int) -> tuple[int, ...]:
        """Return the blocks that have a loss at some step, in order."""
        if self.deep_supervision:
            return tuple(range(num_blocks))
        return tuple(sorted({window.last for window in self._all_windows(num_blocks)}))

    def trained_by(self, last: int, num_blocks: int) -> range:
        """Return the blocks that the objective at block ``last`` trains at some step."""
        return range(min(w.first for w in self._all_windows(num_blocks) if w.last == last), last + 1)

    def _all_windows(self, num_blocks: int) -> list[Window]:
        return [window for step in range(self.cycle) for window in self.windows(step, num_blocks)]

    @property
    def locality(self) -> str:
        """Reach of gradients: ``strict`` (a block), ``overlapping``, ``blockwise`` or ``end-to-end``."""
        if self.overlapping:
            return "overlapping"
        return {0: "end-to-end", 1: "strict"}.get(self.size, "blockwise")

    def __str__(self) -> str:
        """Return the spelling that :func:`parse_schedule` reads."""
        if self == DEEPLY_SUPERVISED:
            return "deeply-supervised"
        name = "layer-wise" if self.locality == "strict" else self.locality
        return f"{name}:{self.size}" if self.size > 1 else name


LAYER_WISE = Schedule(size=1)
OVERLAPPING = Schedule(size=2, overlapping=True)
END_TO_END = Schedule(size=0)
DEEPLY_SUPERVISED = Schedule(size=0, deep_supervision=True)


def parse_schedule(text: str) -> Schedule:
    """Parse layer-wise, overlapping[:K], blockwise[:K], end-to-end or deeply-supervised."""
    named = {str(schedule): schedule for schedule in (LAYER_WISE, END_TO_END, DEEPLY_SUPERVISED)}
    if text in named:
        return named[text]
    if found := re.fullmatch(r"(overlapping|blockwise)(?::([1-9]\d*))?", text):
        return Schedule(size=int(found[2] or 2), overlapping=found[1] == "overlapping")
    raise ValueError(
        f"unknown schedule '{text}': use layer-wise, overlapping[:K], blockwise[:K], end-to-end or "
        "deeply-supervised"
    )
