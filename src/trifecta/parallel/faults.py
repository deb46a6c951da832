"""Errors that name the process which ended, or hangs, while others wait for it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

# Seconds that processes have to answer a roll call.
ROLL_CALL = 5.0


class ProcessError(RuntimeError):
    """Another process has ended, or did not answer in time; the message names it."""


@contextmanager
def waiting_for(peers: Sequence[int] | None = None) -> Iterator[None]:
    """Name the process that failed when communication with ``peers``, or with all processes, fails.

    Raises:
        ProcessError: in place of PyTorch's ``RuntimeError``.
    """
    try:
        yield
    except ProcessError:
        raise
    except RuntimeError as error:
        ranks = peers or _missing()
        names = ", ".join(map(str, ranks))
        who = f"process {names}" if len(ranks) == 1 else f"one of processes {names}"
        reason = " ".join(str(error).split())
        raise ProcessError(
            f"{who} has ended, or did not answer in time ({reason:.160}); the last checkpoint is whole"
        ) from None


def _missing() -> list[int]:
    """Return the processes that miss a roll call, or all other processes if it does not tell."""
    try:
        dist.monitored_barrier(timeout=timedelta(seconds=ROLL_CALL), wait_all_ranks=True)
    except RuntimeError as error:
        # "Ranks 1, 3 failed to pass monitoredBarrier in 5000 ms", in the first process only.
        words = str(error).partition("anks ")[2].partition("failed")[0]
        named = [int(word) for word in words.replace(",", " ").split() if word.isdecimal()]
        if named:
            return named
    return [rank for rank in range(dist.get_world_size()) if rank != dist.get_rank()]
