"""A callback that stops a run in the middle."""

from trifecta import Callback, Trainer


class StopAt(Callback):
    """Asks a trainer to stop after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def on_step_end(self, trainer: Trainer) -> None:
        self.left -= 1
        trainer.stop_requested = self.left <= 0
