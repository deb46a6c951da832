"""Random numbers: from a seed, or from the generators of the process, which a user's modules draw from."""

import os
import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from trifecta.nn.blocks import Dropout

# Modules draw from PyTorch's own generators within it.
unseeded = _disable_current_modes
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


class SeededDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Give random operations of this thread generators from a seed, one per device, unless they have one.

    PyTorch's own generators belong to the process, so that threads would change each other's numbers.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None:
            if not _takes_generator(func):
                func = getattr(func.overloadpacket, "generator", func)
            if _takes_generator(func):
                given = args[0].device if args and isinstance(args[0], Tensor) else kwargs.get("device")
                kwargs["generator"] = self._generator(torch.device(given or "cpu"))
        return func(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device.type == "meta":  # Nothing is drawn there.
            device = torch.device("cpu")
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


def _takes_generator(func: Any) -> bool:
    return any(argument.name == "generator" for argument in func._schema.arguments)


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
    return int(own.generate_state(1).item())


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
