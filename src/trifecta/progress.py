"""Progress on a terminal, and signals that stop a training with a checkpoint."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trifecta.experiments import PlannedRun
from trifecta.options import Terminated
from trifecta.training import Trainer
from trifecta.training.callbacks import ConsoleProgress


@contextmanager
def waiting(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """Show the reason of a wait, on a terminal only; yield a function that changes it.

    Older releases of rich leave an empty line if there is no terminal.
    """
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status(text) as status:
        yield status.update


@contextmanager
def scoring(images: int) -> Iterator[Callable[[int], None]]:
    """Show the number of scored images, on a terminal only; yield a function to call after each batch."""
    console = Console(stderr=True)
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if not console.is_terminal:
        yield lambda count: None
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=images)
        yield lambda count: bar.advance(task, count)


@contextmanager
def stop_on_signal(trainer: Trainer) -> Iterator[None]:
    """Ask ``trainer`` to stop after its batch on the first signal; the second acts at once.

    An exception of the trainer has a :class:`Terminated` as its cause if the signal was SIGTERM.
    """
    received: list[int] = []

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        received.append(number)
        trainer.stop_requested = True
        restore()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Exception as stop:
        if received == [signal.SIGTERM]:
            stop.__cause__ = Terminated()
        raise
    finally:
        restore()


class TableProgress:
    """Shows on ``console`` which run of a table is being made, and its own progress."""

    def __init__(self, console: Console, *, total: int, done: int) -> None:
        self.console, self.total, self.done = console, total, done

    @contextmanager
    def watch(self, run: PlannedRun, trainer: Trainer) -> Iterator[None]:
        """Show one run's training, which a signal stops with a checkpoint."""
        self.done += 1
        self.console.print(f"[{self.done}/{self.total}] {run.name}", markup=False, highlight=False)
        with ConsoleProgress(run.config.epochs, self.console) as progress, stop_on_signal(trainer):
            trainer.callbacks.append(progress)
            yield
