"""Callbacks that stop a run early, log it, or show its progress."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from trifecta._utils.extras import require
from trifecta.training.trainer import Callback, Record, Trainer

if TYPE_CHECKING:
    from rich.console import Console


class EarlyStopping(Callback):
    """End a run whose validation accuracy has not improved for ``patience`` epochs, 1 or more.

    Only more than ``min_delta``, a share (0.001 is 0.1 points), counts as an improvement. The run keeps the
    weights of its best epoch, unless ``RunConfig.keep`` is ``last``.
    """

    def __init__(self, patience: int = 5, *, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience is a number of epochs, 1 or more: received {patience}")
        self.patience, self.min_delta = patience, min_delta

    def on_train_begin(self, trainer: Trainer) -> None:
        """Refuse a run without validation images; end a resumed one that had come to its end."""
        if trainer.data.validation is None:
            raise ValueError("early stopping needs validation images: give validation a share such as 0.1")
        self.on_epoch_end(trainer, {})

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Compare the last epochs with the best one before them."""
        best, best_epoch = float("-inf"), 0
        for epoch, past in enumerate(trainer.history):
            if past["validation_accuracy"] > best + self.min_delta:
                best, best_epoch = past["validation_accuracy"], epoch
        if len(trainer.history) - 1 - best_epoch >= self.patience:
            trainer.stop_after_epoch = True


class CSVLogger(Callback):
    """Write the history to a .csv file after every epoch, one row per epoch and one column per number."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Write all epochs so far."""
        rows = [flat_record(past) for past in trainer.history]
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)


class TensorBoardLogger(Callback):
    """Write the history to event files in ``folder``; needs the extra ``tensorboard``."""

    def __init__(self, folder: str | Path) -> None:
        library = require("torch.utils.tensorboard", extra="tensorboard")
        self._writer = library.SummaryWriter(str(folder))

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Write the numbers of the epoch."""
        for name, value in flat_record(record).items():
            if name != "epoch":
                self._writer.add_scalar(name, value, record["epoch"])

    def on_train_end(self, trainer: Trainer) -> None:
        """Close the files."""
        self._writer.close()


def flat_record(record: Record) -> dict[str, float]:
    """Return the numbers of a record by name; those of block k are called ``name/k``."""
    flat = {name: value for name, value in record.items() if not isinstance(value, list)}
    lists = {name: value for name, value in record.items() if isinstance(value, list)}
    flat |= {f"{name}/{k}": number for name, values in lists.items() for k, number in enumerate(values)}
    return {name: number for name, number in flat.items() if number is not None}


class ConsoleProgress(Callback):
    """Show the progress of a run of ``epochs``: a bar on a terminal, a line per epoch elsewhere.

    Use it as a context manager around the run. It shows on standard error unless given a ``console``.
    """

    def __init__(self, epochs: int, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.epochs = epochs
        self.console = Console(stderr=True) if console is None else console
        last = TextColumn("{task.fields[last]}")
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), last)
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._task = self._bar.add_task("", total=None, last="")
        self._scoring = self._bar.add_task("scoring", visible=False, last="")

    def __enter__(self) -> "ConsoleProgress":
        # Older releases of rich end a hidden bar with an empty line.
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        """Count batches over the whole run, so that the time left is the run's."""
        steps = trainer.batches.steps_per_epoch
        done, told = steps * (epoch - 1) + trainer.batches_done, f"epoch {epoch}/{self.epochs}"
        self._bar.update(self._task, total=steps * self.epochs, completed=done, description=told)

    def on_step_end(self, trainer: Trainer) -> None:
        """Advance by one batch."""
        self._bar.advance(self._task)

    def on_evaluation_begin(self, trainer: Trainer, images: int) -> None:
        """Show a second bar for the evaluation."""
        self._bar.reset(self._scoring, total=images, visible=True)

    def on_evaluation_step(self, trainer: Trainer, images: int) -> None:
        """Advance the second bar by a scored batch."""
        self._bar.advance(self._scoring, images)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Show the loss and the accuracy of the epoch."""
        losses = [loss for loss in record["loss"] if loss is not None]
        line = f"last block's loss {losses[-1]:.3f}"
        if record["validation_accuracy"] is not None:
            line += f", validation {record['validation_accuracy']:.2%}"
        self._bar.update(self._task, last=line)
        self._bar.update(self._scoring, visible=False)
        if not self.console.is_terminal:
            speed = f"{record['images_per_second']:,.0f} images/s"
            self.console.print(f"epoch {record['epoch']}/{self.epochs}: {line}, {speed}")
