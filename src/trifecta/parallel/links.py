"""Messages between two processes that both continue computing, and the error if one has ended.

In each direction all messages have the same number of tensors, with the same shapes and dtypes, which are
sent ahead of the first one. A receiver can therefore allocate memory before a message is sent, and the
transfer overlaps with computation on both sides.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Number of messages by which a sender may be ahead of its receiver.
AHEAD = 2
# Time that processes have to answer a roll call.
ROLL_CALL = timedelta(seconds=5)


class ProcessError(RuntimeError):
    """Another process has ended, or did not answer in time; the message names it."""


@contextmanager
def waiting_for(peer: int | None = None) -> Iterator[None]:
    """Turn the ``RuntimeError`` of a failed communication, with all or ``peer``, into a ProcessError."""
    try:
        yield
    except ProcessError:
        raise
    except RuntimeError as error:
        ranks = [peer] if peer is not None else _missing()
        who = "process" if len(ranks) == 1 else "one of processes"
        raise ProcessError(
            f"{who} {', '.join(map(str, ranks))} has ended, or did not answer in time "
            f"({reason(error)}); the last checkpoint is intact"
        ) from None


def reason(error: Exception) -> str:
    """Return the beginning of an error's message, on one line."""
    return " ".join(str(error).split())[:160]


def _missing() -> list[int]:
    """Return the processes that miss a roll call, or all other processes if it does not tell."""
    try:
        dist.monitored_barrier(timeout=ROLL_CALL, wait_all_ranks=True)
    except RuntimeError as error:
        # "Ranks 1, 3 failed to pass monitoredBarrier in 5000 ms", in the first process only.
        if found := re.search(r"anks ([\d, ]+) failed", str(error)):
            return [int(rank) for rank in found[1].split(",")]
    return [rank for rank in range(dist.get_world_size()) if rank != dist.get_rank()]


# A contiguous tensor as it is sent, and whether its channels were moved to the last place.
_Spec = tuple[torch.dtype, torch.Size, bool]
# A message on its way, whose tensors must stay alive until it has arrived.
_Transfer = tuple[list[dist.Work], Sequence[Tensor]]


class Link:
    """Two ordered streams of messages, to and from another process.

    Every method raises a :class:`ProcessError` if that process has ended.

    Args:
        peer: rank of the other process.
        device: device of the tensors on this side.
    """

    def __init__(self, peer: int, device: torch.device) -> None:
        self.peer, self.device = peer, device
        self._sent_specs: list[_Spec] | None = None
        self._received_specs: list[_Spec] | None = None
        self._sending: deque[_Transfer] = deque()
        self._receiving: deque[_Transfer] = deque()

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Start to send a message; wait only if the receiver is ``AHEAD`` messages behind.

        Raises:
            ValueError: the shapes or dtypes differ from those of the first message.
        """
        specs, packed = map(list, zip(*map(_pack, tensors), strict=True))
        with waiting_for(self.peer):
            if self._sent_specs is None:
                self._sent_specs = specs
                dist.send_object_list([specs], self.peer, device=self.device)
            elif self._sent_specs != specs:
                raise ValueError(
                    "batches that pass between processes must all be equally large: received one of "
                    "another size; drop a loader's last batch"
                )
            self._sending.append(self._start(dist.isend, packed))
        self.flush(AHEAD)

    def flush(self, ahead: int = 0) -> None:
        """Wait until at most ``ahead`` messages are still on their way to the receiver."""
        while len(self._sending) > ahead:
            self._arrived(self._sending)

    def expect(self) -> None:
        """Start to receive the next message, unless it is the first one."""
        if self._received_specs is not None:
            buffers = [
                torch.empty(shape, dtype=dtype, device=self.device)
                for dtype, shape, _ in self._received_specs
            ]
            with waiting_for(self.peer):
                self._receiving.append(self._start(dist.irecv, buffers))

    def receive(self) -> list[Tensor]:
        """Wait for the next message."""
        if self._received_specs is None:
            found: list[Any] = [None]
            with waiting_for(self.peer):
                dist.recv_object_list(found, self.peer, device=self.device)
            self._received_specs = found[0]
        if not self._receiving:
            self.expect()
        assert self._received_specs is not None
        tensors = self._arrived(self._receiving)
        return [
            tensor.movedim(-1, 1) if was_moved else tensor
            for tensor, (_, _, was_moved) in zip(tensors, self._received_specs, strict=True)
        ]

    def _start(self, operation: Any, tensors: Sequence[Tensor]) -> _Transfer:
        works = dist.batch_isend_irecv([dist.P2POp(operation, tensor, self.peer) for tensor in tensors])
        return works, tensors

    def _arrived(self, transfers: deque[_Transfer]) -> Sequence[Tensor]:
        """Wait for the first of ``transfers``; return its tensors."""
        works, tensors = transfers.popleft()
        with waiting_for(self.peer):
            for work in works:
                work.wait()
        return tensors


def _pack(tensor: Tensor) -> tuple[_Spec, Tensor]:
    is_moved = not tensor.is_contiguous() and (
        tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    packed = (tensor.movedim(1, -1) if is_moved else tensor).detach().contiguous()
    return (packed.dtype, packed.shape, is_moved), packed
