"""Random numbers that a user's modules draw from the generators of the process."""

import os
import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from trifecta.nn.blocks import Dropout

_DRAWING = (_DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
_WITH_DROPOUT = (nn.MultiheadAttention, nn.RNNBase)
# Held by the thread that has seeded the generators, until they are restored.
_LOCK = RLock()


def _after_fork() -> None:
    """Replace the lock, because a thread that holds it is not copied."""
    global _LOCK
    _LOCK = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class SharedGenerators:
    """The global generators of PyTorch (CPU and ``device``), Python and NumPy."""

    def __init__(self, device: torch.device) -> None:
        self._torch = [torch.default_generator]
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._torch.append(torch.cuda.default_generators[index])

    def seed(self, number: int) -> None:
        """Seed all of them with ``number``, 0 … 2³² − 1."""
        for generator in self._torch:
            generator.manual_seed(number)
        random.seed(number)
        np.random.seed(number)

    def state(self) -> bytes:
        """Return their state."""
        own = [g.get_state().numpy() for g in self._torch]
        return pickle.dumps((own, random.getstate(), np.random.get_state()))

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Restore their state at the end; other threads that want the same wait."""
        with _LOCK:
            before = self.state()
            try:
                yield
            finally:
                own, python, numpy = pickle.loads(before)
                for generator, state in zip(self._torch, own, strict=True):
                    generator.set_state(torch.from_numpy(state))
                random.setstate(python)
                np.random.set_state(numpy)


def seed_from(numbers: Sequence[int]) -> int:
    """Mix numbers, 0 or more, into a seed that is independent of any other sequence's."""
    # The spawn key separates (1,) from (1, 0), and these seeds from those of seeded_dropout.
    own = np.random.SeedSequence(list(numbers), spawn_key=(2**31, len(numbers)))
    return int(own.generate_state(1)[0])


def is_known_to_draw(module: nn.Module) -> bool:
    """Return whether the class of a part of ``module`` draws from the generators of the process."""
    return any(
        (isinstance(m, _DRAWING) and not isinstance(m, Dropout))
        or (isinstance(m, _WITH_DROPOUT) and bool(m.dropout))
        for m in module.modules()
    )


def is_known(module: nn.Module) -> bool:
    """Return whether all parts of ``module`` are of classes of PyTorch or of this library."""
    return all(type(m).__module__.startswith(("torch.nn.modules.", "trifecta.")) for m in module.modules())


@contextmanager
def preserved_state(module: nn.Module) -> Iterator[None]:
    """Restore the modes and buffers of ``module`` at the end."""
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
