"""Tensors on their way between two processes, while both compute.

Messages of one direction all have the same number of tensors, shapes and types, which the first one tells:
batches of a run are equally large. So a receiver can have room ready before a message is sent, and the
transfer goes on beside the computation on both sides.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from trifecta.parallel.faults import waiting_for

# Messages that a sender may be ahead of its receiver.
AHEAD = 2
# Of the first message's description: number of tensors, then type, layout, dimensions and sizes of each.
_HEADER = 64
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64)


class _Spec(NamedTuple):
    """A tensor as it travels: channels-last maps with their channels last."""

    dtype: torch.dtype
    channels_last: bool
    shape: tuple[int, ...]


class Sender:
    """Sends messages to ``peer`` in order.

    Args:
        peer: the rank that receives them.
        device: where tensors live.
    """

    def __init__(self, peer: int, device: torch.device) -> None:
        self.peer, self.device = peer, device
        self._description: list[int] = []
        # Tensors must live until they are sent.
        self._on_their_way: deque[list[tuple[dist.Work, Tensor]]] = deque()

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Begin to send; waits only where the receiver is ``AHEAD`` messages behind.

        Raises:
            ValueError: tensors of other shapes or types than those of the first message.
        """
        layouts = [_is_channels_last(tensor) for tensor in tensors]
        kept = [
            (tensor.detach().movedim(1, -1) if is_last else tensor.detach()).contiguous()
            for tensor, is_last in zip(tensors, layouts, strict=True)
        ]
        description = _describe(kept, layouts)
        works = []
        if not self._description:
            self._description = description
            header = torch.tensor(description, device=self.device)
            works.append((_isend(header, self.peer), header))
        elif description != self._description:
            raise ValueError(
                "batches that pass between processes must all be equally large: received one of another "
                "size; drop a loader's last batch"
            )
        works += [(_isend(tensor, self.peer), tensor) for tensor in kept]
        self._on_their_way.append(works)
        while len(self._on_their_way) > AHEAD:
            self._wait_for_oldest()

    def flush(self) -> None:
        """Wait until everything is sent."""
        while self._on_their_way:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        with waiting_for([self.peer]):
            for work, _ in self._on_their_way.popleft():
                work.wait()


class Receiver:
    """Receives messages from ``peer`` in order.

    Args:
        peer: the rank that sends them.
        device: where tensors shall live.
    """

    def __init__(self, peer: int, device: torch.device) -> None:
        self.peer, self.device = peer, device
        self._specs: list[_Spec] = []
        self._expected: deque[list[tuple[dist.Work, Tensor]]] = deque()

    def expect(self) -> None:
        """Make room for one more message, so that it can come while something else is computed."""
        if self._specs:
            room = [torch.empty(s.shape, dtype=s.dtype, device=self.device) for s in self._specs]
            self._expected.append([(_irecv(tensor, self.peer), tensor) for tensor in room])

    def receive(self) -> list[Tensor]:
        """Wait for the next message."""
        if not self._specs:
            header = torch.empty(_HEADER, dtype=torch.int64, device=self.device)
            with waiting_for([self.peer]):
                _irecv(header, self.peer).wait()
            self._specs = _specs_of(header.tolist())
        if not self._expected:
            self.expect()
        tensors = []
        for spec, (work, tensor) in zip(self._specs, self._expected.popleft(), strict=True):
            with waiting_for([self.peer]):
                work.wait()
            tensors.append(tensor.movedim(-1, 1) if spec.channels_last else tensor)
        return tensors


def _isend(tensor: Tensor, peer: int) -> dist.Work:
    with waiting_for([peer]):
        work = dist.isend(tensor, peer)
    assert work is not None
    return work


def _irecv(tensor: Tensor, peer: int) -> dist.Work:
    with waiting_for([peer]):
        work = dist.irecv(tensor, peer)
    assert work is not None
    return work


def _is_channels_last(tensor: Tensor) -> bool:
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return last and not tensor.is_contiguous()


def _describe(tensors: Sequence[Tensor], layouts: Sequence[bool]) -> list[int]:
    numbers = [len(tensors)]
    for tensor, is_last in zip(tensors, layouts, strict=True):
        numbers += [_DTYPES.index(tensor.dtype), int(is_last), tensor.ndim, *tensor.shape]
    return numbers + [0] * (_HEADER - len(numbers))


def _specs_of(numbers: list[int]) -> list[_Spec]:
    specs, at = [], 1
    for _ in range(numbers[0]):
        dtype, is_last, dimensions = numbers[at : at + 3]
        shape = tuple(numbers[at + 3 : at + 3 + dimensions])
        specs.append(_Spec(dtype=_DTYPES[dtype], channels_last=bool(is_last), shape=shape))
        at += 3 + dimensions
    return specs
