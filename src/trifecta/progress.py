"""Progress on a terminal, and signals that stop a training with a checkpoint."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from rich.console import Console
from rich.progress import Progress

from trifecta.options import Terminated
from trifecta.training import Trainer
from trifecta.training.callbacks import ConsoleProgress


@contextmanager
def waiting(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """Show the reason of a wait, on a terminal only; yield a function that changes it."""
    status = console.status(text)
    with status if console.is_terminal else nullcontext():  # Older releases of rich leave an empty line.
        yield status.update


@contextmanager
def scoring(images: int) -> Iterator[Callable[[int], None]]:
    """Show the number of scored images, on a terminal only; yield a function to call after each batch."""
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True)
    with bar if console.is_terminal else nullcontext():
        yield partial(bar.advance, bar.add_task("scoring", total=images))


@contextmanager
def on_signal(act: Callable[[int], None]) -> Iterator[None]:
    """Call ``act`` with the number of each SIGINT and SIGTERM, which end nothing by themselves."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda number, _: act(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def watched(trainer: Trainer, console: Console) -> Iterator[None]:
    """Show the progress of a training, and let a signal stop it after its batch; a second acts at once.

    An exception of the trainer has a :class:`Terminated` as its cause if the signal was SIGTERM.
    """
    received: list[int] = []

    def ask(number: int) -> None:
        received.append(number)
        if len(received) > 1:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        trainer.stop_requested = True

    try:
        with ConsoleProgress(trainer.config.epochs, console) as progress, on_signal(ask):
            trainer.callbacks.append(progress)
            yield
    except Exception as stop:
        if received == [signal.SIGTERM]:
            stop.__cause__ = Terminated()
        raise
