"""Where a run stands."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Position:
    """A run's position in the data: whole epochs done, and batches of the next one."""

    epoch: int = 0
    batch: int = 0
