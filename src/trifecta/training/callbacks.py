"""Training callbacks: what a user runs between steps and epochs."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trifecta._utils.extras import require

if TYPE_CHECKING:
    from trifecta.training.trainer import Trainer

# One epoch of the history: what a line of history.jsonl holds.
Record = dict[str, Any]


class Callback:
    """Called while a run trains; every method does nothing unless it is overridden.

    Inherit from it and give instances to ``train(…, callbacks=[…])``. A method may set
    ``trainer.stop_after_epoch``, which ends the run after its epoch as if it had been its last one. What a
    callback needs of the past is in ``trainer.history``, also in a resumed run.
    """

    def on_train_begin(self, trainer: "Trainer") -> None:
        """Before the first batch, of a resumed run too."""

    def on_epoch_begin(self, trainer: "Trainer", epoch: int) -> None:
        """Before the first batch of ``epoch`` (from 1)."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """After every batch; must not wait for the device."""

    def on_evaluation_begin(self, trainer: "Trainer", images: int) -> None:
        """Before ``images`` images are scored."""

    def on_evaluation_step(self, trainer: "Trainer", images: int) -> None:
        """After a batch of ``images`` images is scored."""

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        """After an epoch and its checkpoint; ``record`` is its line of the history."""

    def on_train_end(self, trainer: "Trainer") -> None:
        """After the last epoch."""


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """Check that each is a callback.

    Raises:
        ValueError: one is a class, or does not inherit from :class:`Callback`.
    """
    for callback in callbacks:
        if not isinstance(callback, Callback):
            is_class = isinstance(callback, type)
            name = callback.__name__ if is_class else type(callback).__name__
            fix = f"the class {name}; give {name}()" if is_class else name
            raise ValueError(
                f"a callback is an object of a class that inherits from Callback: received {fix}"
            )


class EarlyStopping(Callback):
    """Ends a run when its validation accuracy has not improved for ``patience`` epochs.

    The run keeps the weights of its best epoch, unless ``RunConfig.keep`` is ``last``.

    Args:
        patience: in epochs, 1 or more.
        min_delta: the least improvement that counts, as a share (0.001 is 0.1 points).

    Raises:
        ValueError: a patience below 1.
    """

    def __init__(self, patience: int = 5, *, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience is a number of epochs, 1 or more: received {patience}")
        self.patience, self.min_delta = patience, min_delta

    def on_train_begin(self, trainer: "Trainer") -> None:
        """Refuse a run that validates nothing."""
        if trainer.data.validation is None:
            raise ValueError("early stopping needs validation images: give validation a share such as 0.1")

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        """Compare the last epochs with the best one before them."""
        best, best_epoch = float("-inf"), 0
        for epoch, past in enumerate(trainer.history):
            if past["validation_accuracy"] > best + self.min_delta:
                best, best_epoch = past["validation_accuracy"], epoch
        if len(trainer.history) - 1 - best_epoch >= self.patience:
            trainer.stop_after_epoch = True


class CSVLogger(Callback):
    """Writes the history as a table, one row an epoch, one column a number.

    Args:
        path: of the .csv file, which is written anew after every epoch.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        """Write all epochs so far."""
        rows = [flat_record(past) for past in trainer.history]
        names = list(dict.fromkeys(name for row in rows for name in row))
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)


class TensorBoardLogger(Callback):
    """Writes the history for TensorBoard; needs ``pip install "trifecta[tensorboard]"``.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: str | Path) -> None:
        library = require("torch.utils.tensorboard", install='"trifecta[tensorboard]"')
        self._writer = library.SummaryWriter(str(folder))

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        """Write the epoch's numbers."""
        for name, value in flat_record(record).items():
            if name != "epoch":
                self._writer.add_scalar(name, value, record["epoch"])

    def on_train_end(self, trainer: "Trainer") -> None:
        """Close the files."""
        self._writer.close()


def flat_record(record: Record) -> dict[str, float]:
    """Return a record's numbers by name; those of block k are called ``name/k``."""
    numbers: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, list):
            numbers |= {f"{name}/{k}": number for k, number in enumerate(value) if number is not None}
        elif value is not None:
            numbers[name] = value
    return numbers
