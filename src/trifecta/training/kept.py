"""The weights that a run ends with: those of its best epoch by validation, or of its last."""

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from trifecta.training.saved_network import load_weights

if TYPE_CHECKING:
    from trifecta.training.trainer import Trainer


class KeptWeights:
    """Keeps them in the folder's ``model.safetensors``; a run without a folder has a copy on the CPU.

    Attributes:
        epoch: at whose end they are; 0 where that is no epoch's end.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._copy: dict[str, Tensor] | None = None

    def keep(self, trainer: "Trainer") -> None:
        """Keep the weights as they are now, if none are better; all blocks must be here."""
        position, is_best = trainer.position, trainer.keeps_best
        if is_best and self.epoch and (position.batch or _less(trainer, position.epoch, self.epoch)):
            return
        self.epoch = 0 if position.batch else position.epoch
        if trainer.written is not None:
            trainer.written.write_model(trainer.network, epoch=self.epoch)
        elif trainer.folder is None and is_best and trainer.processes.is_first:
            state = trainer.network.state_dict()
            self._copy = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}

    def find(self, trainer: "Trainer") -> None:
        """Find what the folder of a resumed run has kept."""
        found = None if trainer.written is None else trainer.written.model_epoch()
        found, done = trainer.processes.agreed(found), trainer.position.epoch
        # Weights of a later epoch than the checkpoint's: that epoch comes again.
        self.epoch = 0 if found is None or found > done else found
        if found is None and trainer.keeps_best and any(_less(trainer, done, k) for k in range(1, done)):
            warnings.warn(
                "the weights of the best epoch are lost, model.safetensors is missing or damaged: the best "
                f"from epoch {done} on are kept",
                stacklevel=5,
            )

    def bring_back(self, trainer: "Trainer") -> None:
        """Put them into the network when training has ended."""
        if not trainer.keeps_best or self.epoch == trainer.position.epoch:
            return
        tensors = trainer.processes.agreed(self._tensors(trainer))
        with trainer.processes.whole(trainer.network) as network:
            if tensors is not None:
                load_weights(network, tensors, source=Path("model.safetensors"))
                return
            warnings.warn("model.safetensors is damaged: the last weights are kept", stacklevel=5)
            self.epoch = 0
            self.keep(trainer)

    def _tensors(self, trainer: "Trainer") -> dict[str, Tensor] | None:
        """Those that are kept, in the first process; None elsewhere, and where they are damaged."""
        if trainer.written is None:
            return self._copy
        try:
            tensors, is_whole = trainer.written.read_model()
        except ValueError:
            return None
        return tensors if is_whole else None


def _less(trainer: "Trainer", epoch: int, other: int) -> bool:
    """Whether the validation accuracy of ``epoch`` is below that of ``other``; no epoch's is lowest."""

    def accuracy(number: int) -> float:
        return trainer.history[number - 1]["validation_accuracy"] if number else -math.inf

    return accuracy(epoch) < accuracy(other)
