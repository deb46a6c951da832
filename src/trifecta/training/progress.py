"""Who is told how a run goes on, and how it stops where it was asked to."""

from typing import Any, Protocol

Record = dict[str, Any]


class Progress(Protocol):
    """Who wants to see a run go on. Called between steps; must not wait for the device."""

    def epoch_started(self, epoch: int, steps: int, done: int) -> None:
        """Epoch ``epoch`` (from 1) begins, with ``done`` of its ``steps`` already made."""

    def step_done(self) -> None:
        """One batch was learned from."""

    def evaluating(self, images: int) -> None:
        """So many images are about to be scored, which can take a while with many classes."""

    def epoch_done(self, record: Record) -> None:
        """An epoch ended; ``record`` is its line of the history."""


class Interrupted(Exception):  # noqa: N818  (it is not an error)
    """A run stopped where it was asked to; its checkpoint continues it."""
