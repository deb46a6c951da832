"""The memory of one variant or run, measured in a process that does nothing else.

Run as ``python -m trifecta.bench.probe JSON``; prints JSON. See :mod:`trifecta.bench.memory`.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from threading import RLock
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from trifecta._utils.devices import peak_memory_bytes
from trifecta.bench.published import PublishedRule
from trifecta.bench.setting import Setting
from trifecta.bench.variants import VARIANTS, Trains, variant_of
from trifecta.learner import Learner, LocalStep
from trifecta.training import from_plain

# Both parities of an overlapping schedule, and the first again with warm buffers.
STEPS = 3


def main(arguments: str) -> None:
    """Build, take ``steps`` steps, and say what it took."""
    order = json.loads(arguments)
    setting = Setting(**order["setting"] | {"image_shape": tuple(order["setting"]["image_shape"])})
    who = order["variant"]
    # By its name, or the settings of a run.
    variant = VARIANTS[who] if isinstance(who, str) else variant_of(from_plain(who))
    trainer = variant.build(setting)
    images, labels = setting.batch()
    _fill_optimizers(trainer)
    if setting.torch_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with SavedBytes() as saved:
        if variant.pipeline > 1 and isinstance(trainer, Learner):
            saved.follow(trainer)
        variant.train(trainer, [(images, labels)] * order["steps"])
    print(json.dumps({"peak_bytes": peak_memory_bytes(images.device), "saved_bytes": saved.most}))


class SavedBytes:
    """Counts what graphs hold for their gradients, parameters aside, each piece of memory once.

    Attributes:
        most: the largest number of bytes held at one time.
    """

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._holders: Counter[int] = Counter()
        self._hooks = self._new_hooks()
        # Reentrant, as collecting garbage may free a graph anywhere.
        self._lock = RLock()

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def follow(self, learner: Learner) -> None:
        """Count in whatever threads ``learner`` learns: hooks are those of one."""
        learn = learner.learn

        def counted(step: LocalStep) -> None:
            with self._new_hooks():
                learn(step)

        learner.learn = counted  # type: ignore[method-assign]

    def _new_hooks(self) -> saved_tensors_hooks:
        return saved_tensors_hooks(self._pack, lambda holder: holder.tensor)

    def _pack(self, tensor: Tensor) -> "_Holder":
        return _Holder(tensor, self)

    def take(self, tensor: Tensor) -> None:
        """A graph now holds ``tensor``."""
        storage = tensor.untyped_storage()
        with self._lock:
            self._holders[storage.data_ptr()] += 1
            if self._holders[storage.data_ptr()] == 1:
                self._now += storage.nbytes()
                self.most = max(self.most, self._now)

    def give(self, tensor: Tensor) -> None:
        """A graph no longer holds it."""
        storage = tensor.untyped_storage()
        with self._lock:
            self._holders[storage.data_ptr()] -= 1
            if self._holders[storage.data_ptr()] == 0:
                self._now -= storage.nbytes()


class _Holder:
    """Stands in a graph for a saved tensor; freed with the graph."""

    def __init__(self, tensor: Tensor, count: SavedBytes) -> None:
        # Detached: otherwise the graph would keep itself alive.
        self.tensor, self._count = tensor.detach(), count
        self._counts = not isinstance(tensor, nn.Parameter)
        if self._counts:
            count.take(tensor)

    def __del__(self) -> None:
        if self._counts:
            self._count.give(self.tensor)


def _fill_optimizers(trainer: Trains) -> None:
    """Give optimizers their moments now, so that they count as part of the model and not of training."""
    optimizers: Iterable[torch.optim.Optimizer] = ()
    if isinstance(trainer, PublishedRule):
        optimizers = trainer.optimizers
    elif isinstance(trainer, Learner):
        optimizers = trainer.optimizers.values()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                hidden = group.get("orthogonalized", False)
                names = ("momentum",) if hidden else ("exp_avg", "exp_avg_sq")
                moments = {name: torch.empty_like(parameter).zero_() for name in names}
                optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}


if __name__ == "__main__":
    main(sys.argv[1])
