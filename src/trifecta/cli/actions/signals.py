"""Ctrl-C and termination: finish the batch, leave a checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trifecta.training import Trainer


@contextmanager
def stop_on_signal(trainer: Trainer) -> Iterator[None]:
    """Ask ``trainer`` to stop after its batch on the first signal; the second acts at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        trainer.stop_requested = True
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        restore()
