"""A run from its settings to its result: train, read the test split once, leave the folder."""

import dataclasses
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trifecta.counts import counts
from trifecta.data import ImageData
from trifecta.devices import describe_device, peak_memory_bytes
from trifecta.local_network import LocalNetwork
from trifecta.training.config import RunConfig
from trifecta.training.evaluation import Evaluation
from trifecta.training.progress import Progress
from trifecta.training.run_folder import RunFolder
from trifecta.training.trainer import Trainer
from trifecta.training.versions import versions as versions


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    Attributes:
        result: what ``result.json`` holds.
        test: the one evaluation on the test split.
        trainer: network, data and history as training left them.
    """

    result: dict[str, Any]
    test: Evaluation
    trainer: Trainer

    @property
    def test_accuracy(self) -> float:
        """Of the method's read-out, 0 … 1."""
        return self.test.accuracy

    @property
    def network(self) -> LocalNetwork:
        """The trained network."""
        return self.trainer.network


def train(config: RunConfig, *, out: str | Path | None = None, progress: Progress | None = None) -> Run:
    """Train as ``config`` says, then evaluate on the test split.

    Args:
        config: everything that decides the run.
        out: folder for the run's files, new or empty; None leaves none.
        progress: told of every step.

    Raises:
        ValueError: the configuration, its data, the device or ``out`` cannot be used.
        Interrupted, DivergenceError: as :meth:`Trainer.fit`.
    """
    folder = None if out is None else RunFolder(out)
    if folder is not None:
        folder.require_unused()
    return finish(Trainer(config, folder=folder, progress=progress))


def resume(
    out: str | Path,
    *,
    epochs: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Continue the run in ``out`` from its checkpoint, to ``epochs`` where given.

    Raises:
        ValueError: ``out`` is not a run, has no readable checkpoint or another network's.
        Interrupted, DivergenceError: as :meth:`Trainer.fit`.
    """
    return finish(resumed_trainer(out, epochs=epochs, device=device, progress=progress))


def resumed_trainer(
    out: str | Path,
    *,
    epochs: int | None = None,
    device: str | None = None,
    data: ImageData | None = None,
    progress: Progress | None = None,
) -> Trainer:
    """The trainer of the run in ``out``, where its checkpoint left it; on ``data`` if it is loaded."""
    folder = RunFolder(out)
    config, _ = folder.read_config()
    changes: dict[str, Any] = {"epochs": epochs, "device": device}
    config = dataclasses.replace(config, **{k: v for k, v in changes.items() if v is not None})
    trainer = Trainer(config, folder=folder, data=data, progress=progress)
    trainer.resume()
    if trainer.position.epoch > config.epochs:
        raise ValueError(
            f"{folder.path} has trained {trainer.position.epoch} epochs already: "
            f"received --epochs {config.epochs}; ask for more"
        )
    folder.write_config(config, trainer.facts, trainer.learner.precision)
    return trainer


def finish(trainer: Trainer) -> Run:
    """Train what is left, read the test split once, write result and report."""
    trainer.fit()
    began = time.perf_counter()
    trainer.choose_readout()
    test = trainer.evaluate(trainer.data.test)
    seconds = time.perf_counter() - began
    run = Run(result=_result(trainer, test, seconds), test=test, trainer=trainer)
    if trainer.folder is not None:
        # Here, not at the top: the report imports this module, and needs an extra.
        from trifecta.report.page import write_report

        trainer.folder.write_result(run.result)
        write_report(run)
    return run


def _result(trainer: Trainer, test: Evaluation, test_seconds: float) -> dict[str, Any]:
    config, history, device = trainer.config, trainer.history, trainer.device
    total_seconds, peak_bytes = trainer.total_seconds, peak_memory_bytes(device)
    seconds = sum(record["seconds"] for record in history)
    images = len(history) * trainer.batches.steps_per_epoch * config.batch_size
    return {
        "test_accuracy": test.accuracy,
        "validation_accuracy": history[-1]["validation_accuracy"],
        "block_accuracy": test.block_accuracy,
        "readout_accuracy": test.readout_accuracy,
        "readout_blocks": list(trainer.network.readout_blocks),
        "epochs": len(history),
        "seconds": seconds,
        "evaluation_seconds": test_seconds + sum(r.get("evaluation_seconds", 0.0) for r in history),
        "total_seconds": total_seconds if math.isfinite(total_seconds) else None,
        "images_per_second": images / seconds,
        "peak_memory_bytes": peak_bytes,
        **counts(trainer.network, batch_size=config.batch_size, total_steps=trainer.learner.total_steps),
        "locality": config.method.locality,
        "method": config.method.name,
        "network": config.network,
        "width": config.width,
        "data": config.data.source,
        "recipe": config.recipe,
        "budget": config.budget,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "device": str(device),
        "hardware": describe_device(device),
        "precision": trainer.learner.precision,
        "precision_choice": trainer.precision_choice,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
    }
