"""Progress of a run, or of a table of runs: live bars on a terminal, lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trifecta.cli.signals import stop_on_signal
from trifecta.experiments import PlannedRun
from trifecta.training import Trainer
from trifecta.training.callbacks import ConsoleProgress


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


class TableProgress:
    """Shows the runs of a table on ``console``: which one is being made, and how far that one is."""

    def __init__(self, console: Console, *, total: int, done: int) -> None:
        self.console, self.total, self.done = console, total, done

    @contextmanager
    def watch(self, run: PlannedRun, trainer: Trainer) -> Iterator[None]:
        """Around one run's training, which a signal stops with a checkpoint."""
        self.done += 1
        self.console.print(f"[{self.done}/{self.total}] {run.name}", markup=False, highlight=False)
        with ConsoleProgress(run.config.epochs, self.console) as progress, stop_on_signal(trainer):
            trainer.callbacks.append(progress)
            yield
