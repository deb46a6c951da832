"""The record of an epoch, and the checks before it counts.

Shapes: L blocks.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn

from trifecta.training.callbacks import Record
from trifecta.training.meter import DivergenceError

if TYPE_CHECKING:
    from trifecta.training.trainer import Trainer


def epoch_record(
    trainer: "Trainer", losses: list[float | None], first_losses: list[float | None]
) -> Record:
    """Return what the history keeps of the epoch that ends; measures the validation split, if there is one.

    Args:
        trainer: at the end of an epoch.
        losses: mean of each block, L; None for a block that closed no window.
        first_losses: of each block's first step in the epoch, likewise.
    """
    record: Record = {
        "epoch": trainer.position.epoch + 1,
        "seconds": trainer.epoch_seconds,
        "images_per_second": trainer.batches.images_per_epoch / trainer.epoch_seconds,
        "loss": losses,
        "first_loss": first_losses,
        "validation_accuracy": None,
        "block_accuracy": None,
    }
    if trainer.data.validation is not None:
        began = time.perf_counter()
        measured = trainer.evaluate(trainer.data.validation)
        record |= {
            "validation_accuracy": measured.accuracy,
            "block_accuracy": measured.block_accuracy,
            "positive_score": _means(measured.positive),
            "negative_score": _means(measured.negative),
            "evaluation_seconds": time.perf_counter() - began,
        }
    return record


def check_weights(network: nn.Module) -> None:
    """Check that every weight held here is a number.

    Raises:
        DivergenceError: one is not; names it.
    """
    for name, parameter in network.named_parameters():
        if not (parameter.is_meta or bool(parameter.isfinite().all())):
            raise DivergenceError(f"a weight is not finite: {name}, at the end")


@contextmanager
def explained(trainer: "Trainer") -> Iterator[None]:
    """Add the epoch, the last good checkpoint and a remedy to the message of a divergence."""
    try:
        yield
    except DivergenceError as error:
        folder = trainer.folder
        last_good = "" if folder is None else f"the last good checkpoint is {folder.checkpoint}; "
        raise DivergenceError(
            f"{error} of epoch {trainer.position.epoch + 1}; {last_good}"
            "try a lower learning_rate, or precision=fp32"
        ) from None


def _means(scores: list[Tensor | None]) -> list[float | None]:
    """Mean score a block, of the samples whose label was not left out."""
    finite = [None if s is None else s[s.isfinite()] for s in scores]
    return [None if s is None or not len(s) else s.mean().item() for s in finite]
