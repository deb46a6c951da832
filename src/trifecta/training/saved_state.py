"""What a checkpoint holds of a trainer, and taking it up again."""

import math
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trifecta.training.callbacks import Record
from trifecta.training.checkpoint import check_tensors, reading
from trifecta.training.position import Position
from trifecta.training.records import check_history
from trifecta.training.run_folder import RunFolder
from trifecta.training.saved_network import load_weights

if TYPE_CHECKING:
    from trifecta.training.trainer import Trainer


def save(trainer: "Trainer") -> None:
    """Write the checkpoint of a run and its history, if it has a folder, and keep its weights."""
    with trainer.processes.whole(trainer.network):
        if trainer.folder is not None:
            state = state_of(trainer)
            if trainer.written is not None:
                trainer.written.write_checkpoint(state)
                trainer.written.write_history(trainer.history)
        trainer.kept.keep(trainer)


def state_of(trainer: "Trainer") -> dict[str, Any]:
    """Return everything that the rest of the run depends on."""
    return {
        "network": {**trainer.network.state_dict(), **trainer.running_statistics},
        "learner": trainer.processes.learner_state(trainer.learner),
        "position": {"epoch": trainer.position.epoch, "batch": trainer.position.batch},
        "history": trainer.history,
        "epoch_seconds": trainer.epoch_seconds,
        "total_seconds": trainer.total_seconds,
        "meter": trainer.joined_meter(),
    }


def restore(trainer: "Trainer", state: dict[str, Any]) -> None:
    """Take up what :func:`state_of` returned.

    Raises:
        ValueError: a field that is not this run's; names it and the file.
    """
    assert trainer.folder is not None
    file = trainer.folder.checkpoint
    check_tensors(state, file)
    with reading(file, "network"):
        tensors = dict(state["network"])
    with trainer.processes.whole(trainer.network):
        load_weights(trainer.network, tensors, source=file)
    with reading(file, "learner"):
        own = trainer.processes.own_learner_state(trainer.learner, state["learner"])
        trainer.learner.load_state_dict(own)
    with reading(file, "position"):
        trainer.position = _position(state["position"], trainer.batches.steps_per_epoch)
    trainer.processes.require_equal(lambda: asdict(trainer.position))
    with reading(file, "history"):
        trainer.history = _history(state["history"], trainer.position.epoch)
    with reading(file, "epoch_seconds"):
        trainer.epoch_seconds = _seconds(state["epoch_seconds"])
    with reading(file, "total_seconds"):
        trainer.earlier_seconds = _seconds(state["total_seconds"])
    with reading(file, "meter"):
        trainer.meter.load_state_dict(state["meter"], trainer.learner.blocks)
    _compare_history(trainer.folder, trainer.history)


def _position(plain: dict[str, Any], steps_per_epoch: int) -> Position:
    position = Position(**plain)
    if any(type(number) is not int or number < 0 for number in (position.epoch, position.batch)):
        raise ValueError(f"it has whole numbers: received {plain}")
    if position.batch > steps_per_epoch:
        raise ValueError(f"an epoch has {steps_per_epoch} batches: received {position.batch}")
    return position


def _history(records: list[Record], epochs: int) -> list[Record]:
    if not isinstance(records, list) or len(records) != epochs:
        raise ValueError(f"the run has trained {epochs} epochs, and it has another number")
    check_history(records)
    return records


def _seconds(value: float) -> float:
    if not (0 <= value < math.inf):
        raise ValueError(f"received {value}")
    return float(value)


def _compare_history(folder: RunFolder, history: list[Record]) -> None:
    """Warn where the file is not what the checkpoint says; a kill between the two is no damage."""
    try:
        written = folder.read_history()
    except ValueError as error:
        warnings.warn(f"{error}: it is written again from the checkpoint", stacklevel=4)
        return
    if len(written) < len(history) - 1 or any(a != b for a, b in zip(written, history, strict=False)):
        warnings.warn(
            f"{folder.history} has {len(written)} epochs, not the {len(history)} of the checkpoint: it is "
            "written again",
            stacklevel=4,
        )
