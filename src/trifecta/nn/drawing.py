"""Random numbers that modules of one's own draw from generators which the whole process shares."""

import os
import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from trifecta.nn.blocks import Dropout

_DRAWING = (_DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
_WITH_DROPOUT = (nn.MultiheadAttention, nn.RNNBase)
_KNOWN = ("torch.nn.modules.", "trifecta.")
# Whoever seeds the shared generators has them alone until they are what they were.
_SHARED = RLock()


def _after_fork() -> None:
    """Begin with a free lock: a thread that held it was not copied."""
    global _SHARED
    _SHARED = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class SharedGenerators:
    """PyTorch's own generators of the CPU and of ``device``, Python's and NumPy's."""

    def __init__(self, device: torch.device) -> None:
        self._torch = [torch.default_generator]
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._torch.append(torch.cuda.default_generators[index])

    def seed(self, number: int) -> None:
        """Let all of them begin at ``number``, 0 … 2³² − 1."""
        for generator in self._torch:
            generator.manual_seed(number)
        random.seed(number)
        np.random.seed(number)

    def state(self) -> tuple[Any, ...]:
        """Where they are, comparable by :func:`pickle.dumps`."""
        shared = np.random.get_state()
        return [g.get_state().numpy() for g in self._torch], random.getstate(), shared

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Have them alone for a while, and leave them where they were."""
        with _SHARED:
            own, python, shared = self.state()
            try:
                yield
            finally:
                for generator, state in zip(self._torch, own, strict=True):
                    generator.set_state(torch.from_numpy(state))
                random.setstate(python)
                np.random.set_state(shared)

    def moved_since(self, state: tuple[Any, ...]) -> bool:
        """Whether any of them has moved on from ``state``."""
        return pickle.dumps(self.state()) != pickle.dumps(state)


def seed_from(numbers: Sequence[int]) -> int:
    """Mix numbers, 0 or more, into a seed: any two sequences that differ have nothing in common."""
    # Alone, 1 and 1, 0 would be the same sequence, and that of a layer's own dropout.
    own = np.random.SeedSequence(list(numbers), spawn_key=(2**31, len(numbers)))
    return int(own.generate_state(1)[0])


def is_known_to_draw(module: nn.Module) -> bool:
    """Whether a part of ``module`` draws by its class; the library's own dropout has its own generators."""
    return any(
        (isinstance(m, _DRAWING) and not isinstance(m, Dropout))
        or (isinstance(m, _WITH_DROPOUT) and bool(m.dropout))
        for m in module.modules()
    )


def is_known(module: nn.Module) -> bool:
    """Whether every part of ``module`` is PyTorch's or this library's, so that its class tells all."""
    return all(type(m).__module__.startswith(_KNOWN) for m in module.modules())


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Leave modes and buffers of ``module`` as they were before a pass."""
    modes = [(m, m.training) for m in module.modules()]
    buffers = [(b, b.clone()) for b in module.buffers() if not nn.parameter.is_lazy(b)]
    try:
        yield
    finally:
        for m, was_training in modes:
            m.training = was_training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
