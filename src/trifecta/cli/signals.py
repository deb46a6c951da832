"""Ctrl-C and termination: finish the batch, leave a checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trifecta.training import Trainer

OF_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Terminated(BaseException):
    """The process was asked to end by SIGTERM, as by Ctrl-C."""


@contextmanager
def stop_on_signal(trainer: "Trainer") -> Iterator[None]:
    """Ask ``trainer`` to stop after its batch on the first signal; the second acts at once.

    What the trainer raises then has a :class:`Terminated` as its cause if the signal was SIGTERM.
    """
    received: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        received.append(number)
        trainer.stop_requested = True
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous = {number: signal.signal(number, ask) for number in OF_STOPPING}
    try:
        yield
    except Exception as stop:
        if received == [signal.SIGTERM]:
            stop.__cause__ = Terminated()
        raise
    finally:
        restore()
