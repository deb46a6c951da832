"""Progress of a run, or of a table of runs: live bars on a terminal, lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from trifecta.cli.signals import stop_on_signal
from trifecta.experiments.plan import PlannedRun
from trifecta.report.terminal import percent
from trifecta.training import Callback, Trainer
from trifecta.training.callbacks import Record


@contextmanager
def waiting(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """Show what the wait is for, on a terminal only; yields a function that changes the text.

    Older releases of rich leave an empty line where there is no terminal.
    """
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status(text) as status:
        yield status.update


@contextmanager
def scoring(console: Console, images: int) -> Iterator[Callable[[int], None]]:
    """Show how many of ``images`` are scored, on a terminal only; call the function after each batch."""
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if not console.is_terminal:
        yield lambda count: None
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=images)
        yield lambda count: bar.advance(task, count)


class ConsoleProgress(Callback):
    """Shows a run on ``console``; use as a context manager around it."""

    def __init__(self, console: Console, epochs: int) -> None:
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

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        """Count on over the whole run, so that the time left is the run's."""
        steps = trainer.batches.steps_per_epoch
        self._bar.update(
            self._task,
            total=steps * self.epochs,
            completed=steps * (epoch - 1) + trainer.position.batch,
            epoch=epoch,
        )

    def on_step_end(self, trainer: Trainer) -> None:
        """Advance by one batch."""
        self._bar.advance(self._task)

    def on_evaluation_begin(self, trainer: Trainer, images: int) -> None:
        """Say what the wait is for, in a bar of its own."""
        if self._scoring is not None:
            self._bar.remove_task(self._scoring)
        epoch, last = trainer.position.epoch + 1, f"scoring {images:,} images"
        self._scoring = self._bar.add_task(
            "", total=images, epoch=min(epoch, self.epochs), epochs=self.epochs, last=last
        )

    def on_evaluation_step(self, trainer: Trainer, images: int) -> None:
        """Advance by a batch that was scored."""
        if self._scoring is not None:
            self._bar.advance(self._scoring, images)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Show what the epoch reached."""
        if self._scoring is not None:
            self._bar.remove_task(self._scoring)
            self._scoring = None
        losses = [loss for loss in record["loss"] if loss is not None]
        line = f"last block's loss {losses[-1]:.3f}"
        if record["validation_accuracy"] is not None:
            line += f", validation {percent(record['validation_accuracy'])}"
        self._bar.update(self._task, last=line)
        if not self.console.is_terminal:
            speed = f"{record['images_per_second']:,.0f} images/s"
            self.console.print(f"epoch {record['epoch']}/{self.epochs}: {line}, {speed}")


class TableProgress:
    """Shows the runs of a table on ``console``: which one is being made, and how far that one is."""

    def __init__(self, console: Console, *, total: int, done: int) -> None:
        self.console, self.total, self.done = console, total, done

    @contextmanager
    def watch(self, run: PlannedRun, trainer: Trainer) -> Iterator[None]:
        """Around one run's training, which a signal stops with a checkpoint."""
        self.done += 1
        self.console.print(f"[{self.done}/{self.total}] {run.name}", markup=False, highlight=False)
        with ConsoleProgress(self.console, run.config.epochs) as progress, stop_on_signal(trainer):
            trainer.callbacks.append(progress)
            yield
