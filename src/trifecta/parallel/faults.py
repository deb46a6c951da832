"""Processes that end or hang while others wait for them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

# Seconds in which processes that still work can say so.
ROLL_CALL = 5.0


class ProcessError(RuntimeError):
    """Another process has ended, or did not answer in time; says which."""


@contextmanager
def waiting_for(peers: Sequence[int] | None = None) -> Iterator[None]:
    """Say which process it was where waiting for one of ``peers``, or of all, fails.

    Raises:
        ProcessError: in place of what PyTorch raises.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, ProcessError):
            raise
        reason = " ".join(str(error).split())
        raise ProcessError(
            f"{_named(peers or _missing())} has ended, or did not answer in time ({reason:.160}); the "
            "last checkpoint is whole"
        ) from None


def _missing() -> list[int]:
    """Find the processes that do not answer a roll call; others, if it cannot be told."""
    rank, everybody = dist.get_rank(), range(dist.get_world_size())
    try:
        dist.monitored_barrier(timeout=timedelta(seconds=ROLL_CALL), wait_all_ranks=True)
    except RuntimeError as error:
        # "Ranks 1, 3 failed to pass monitoredBarrier in 5000 ms", on the first process.
        words = str(error).partition("anks ")[2].partition("failed")[0]
        named = [int(word) for word in words.replace(",", " ").split() if word.isdecimal()]
        if named:
            return named
    return [other for other in everybody if other != rank]


def _named(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"process {ranks[0]}"
    return f"one of processes {', '.join(map(str, ranks))}"
