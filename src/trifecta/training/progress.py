"""Progress of a run: a live bar on a terminal, lines elsewhere."""

from typing import TYPE_CHECKING

from trifecta.training.trainer import Callback, Record

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from trifecta.training.trainer import Trainer


class ConsoleProgress(Callback):
    """Shows a run on ``console``, by default that of standard error; use as a context manager around it.

    A bar on a terminal, a line an epoch elsewhere.
    """

    def __init__(self, epochs: int, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True) if console is None else console
        self.console, self.epochs = console, epochs
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[last]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, epoch=0, epochs=epochs, last="")
        self._scoring: TaskID | None = None

    def __enter__(self) -> "ConsoleProgress":
        # Older releases of rich end a hidden bar with an empty line.
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def on_epoch_begin(self, trainer: "Trainer", epoch: int) -> None:
        """Count on over the whole run, so that the time left is the run's."""
        steps = trainer.batches.steps_per_epoch
        self._bar.update(
            self._task,
            total=steps * self.epochs,
            completed=steps * (epoch - 1) + trainer.position.batch,
            epoch=epoch,
        )

    def on_step_end(self, trainer: "Trainer") -> None:
        """Advance by one batch."""
        self._bar.advance(self._task)

    def on_evaluation_begin(self, trainer: "Trainer", images: int) -> None:
        """Say what the wait is for, in a bar of its own."""
        if self._scoring is not None:
            self._bar.remove_task(self._scoring)
        epoch, last = trainer.position.epoch + 1, f"scoring {images:,} images"
        self._scoring = self._bar.add_task(
            "", total=images, epoch=min(epoch, self.epochs), epochs=self.epochs, last=last
        )

    def on_evaluation_step(self, trainer: "Trainer", images: int) -> None:
        """Advance by a batch that was scored."""
        if self._scoring is not None:
            self._bar.advance(self._scoring, images)

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        """Show what the epoch reached."""
        if self._scoring is not None:
            self._bar.remove_task(self._scoring)
            self._scoring = None
        losses = [loss for loss in record["loss"] if loss is not None]
        line = f"last block's loss {losses[-1]:.3f}"
        if record["validation_accuracy"] is not None:
            line += f", validation {record['validation_accuracy']:.2%}"
        self._bar.update(self._task, last=line)
        if not self.console.is_terminal:
            speed = f"{record['images_per_second']:,.0f} images/s"
            self.console.print(f"epoch {record['epoch']}/{self.epochs}: {line}, {speed}")
