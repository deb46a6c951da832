"""Random numbers from a seed for operations that take no generator, whatever else runs.

PyTorch's own generators belong to the process, so that threads would change each other's numbers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

# Modules draw from PyTorch's own generators within it.
unseeded = _disable_current_modes


class SeededDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Give random operations of this thread a generator of its own, unless they are given one.

    Args:
        seed: seed of the generators, one per device.
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
