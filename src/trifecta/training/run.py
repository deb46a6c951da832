"""A run from its settings to its result: train, read the test split once, leave the folder."""

import math
import platform
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trifecta._utils.devices import describe_device, peak_memory_bytes
from trifecta._utils.references import name_of
from trifecta.counts import counts
from trifecta.data import Given, ImageData, data_from
from trifecta.learner import Learner
from trifecta.network import LocalNetwork
from trifecta.parallel.processes import Alone
from trifecta.training.calibrate import MOST_TO_REPEAT, calibrate
from trifecta.training.config import GIVEN, RunConfig
from trifecta.training.dataset_facts import DatasetFacts
from trifecta.training.evaluation import Evaluation
from trifecta.training.folder import Imported, RunFolder
from trifecta.training.model import load_model
from trifecta.training.progress import ConsoleProgress
from trifecta.training.trainer import Callback, Record, Trainer

# The least share by which a loss falls where a block learns: batches alone make it differ by less.
LEAST_FALL = 0.05


def warn_of_untrained_blocks(history: Sequence[Record], measured: Evaluation) -> None:
    """Warn of each block that has learnt nothing.

    That is one whose training loss has not fallen between its first step and its last epoch, and which is
    right no more often than the most frequent class alone would be, with two standard errors allowed for.
    A block is dead where it gives every label the same score.
    """
    counts = measured.confusion.sum(1)
    images = int(counts.sum())
    share = counts.max().item() / images
    limit = share + 2 * math.sqrt(share * (1 - share) / images)
    for block, accuracy in enumerate(measured.block_accuracy):
        if accuracy is None or accuracy > limit:
            continue
        positive, negative = measured.positive[block], measured.negative[block]
        assert positive is not None
        assert negative is not None
        first, last = _first_and_last_loss(history, block)
        if _are_equal(positive, negative):
            why = "it is dead, all labels have the same score"
        elif first is not None and last is not None and last > first - LEAST_FALL * abs(first):
            why = f"its loss was {first:.3g} at first and is {last:.3g}"
        else:
            continue
        warnings.warn(f"block {block} has learnt nothing: {accuracy:.1%} accuracy, {why}", stacklevel=3)


def _first_and_last_loss(history: Sequence[Record], block: int) -> tuple[float | None, float | None]:
    """Return the loss of a block's first step and its mean in the last epoch; None where it closed none."""
    firsts = [record["first_loss"][block] for record in history if "first_loss" in record]
    lasts = [record["loss"][block] for record in history]
    return (
        next((loss for loss in firsts if loss is not None), None),
        next((loss for loss in reversed(lasts) if loss is not None), None),
    )


def warn_of_skipped_steps(learner: Learner) -> None:
    """Say how many steps left weights as they were."""
    if learner.skipped:
        warnings.warn(
            f"{len(learner.skipped):,} of {learner.steps:,} steps left weights as they were, as a loss or "
            f"gradient was not finite; the first was step {min(learner.skipped) + 1:,}",
            stacklevel=3,
        )


def _are_equal(positive: Tensor, negative: Tensor) -> bool:
    both = positive.isfinite() & negative.isfinite()
    return bool((positive == negative)[both].all())


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide a figure."""
    libraries = {"torch": torch.__version__, "python": platform.python_version()}
    for name in ("trifecta", "numpy", "datasets"):
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return libraries


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
        """Test accuracy of the method's read-out, 0 … 1."""
        return self.test.accuracy

    @property
    def network(self) -> LocalNetwork:
        """The trained network."""
        return self.trainer.network


def train(
    config: RunConfig,
    *,
    data: ImageData | Given | None = None,
    validation: Given | None = None,
    test: Given | None = None,
    classes: Sequence[str] | None = None,
    network: Iterable[nn.Module] | None = None,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> Run:
    """Train as ``config`` says, then evaluate on the test split.

    Args:
        config: everything that decides the run.
        data: samples and labels to train on, in place of ``config.data``: arrays, a ``Dataset`` or a
            ``DataLoader``; see :func:`trifecta.data.data_from` for it and the next three.
        validation: to choose on, likewise.
        test: to measure on, likewise.
        classes: names, in label order.
        network: blocks in order, in place of those that ``config.network`` names: any modules that map a
            batch to a batch. They are trained as they are.
        out: folder for the run's files, new or empty; None leaves none.
        callbacks: called while it trains.
        progress: whether to show how far it is on standard error; None does so on a terminal.

    Raises:
        ValueError: the configuration, its data, the device or ``out`` cannot be used.
        Interrupted, DivergenceError, StorageError: as :meth:`Trainer.fit`.
    """
    if not isinstance(config, RunConfig):
        raise ValueError(f"config is a RunConfig: received {config!r:.80}")
    folder = None if out is None else RunFolder(out)
    if data is not None:
        config = replace(config, data=None)
    if network is not None:
        config = replace(config, network=GIVEN)
    with nullcontext() if folder is None else folder.begin(config):
        trainer = Trainer(
            config,
            folder=folder,
            data=_image_data(config, data, validation, test, classes),
            blocks=network,
            callbacks=callbacks,
        )
        return _watched(trainer, progress)


def resume(
    out: str | Path,
    *,
    epochs: int | None = None,
    device: str | None = None,
    data: ImageData | Given | None = None,
    validation: Given | None = None,
    test: Given | None = None,
    classes: Sequence[str] | None = None,
    network: Iterable[nn.Module] | None = None,
    imports: Imported = (),
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> Run:
    """Continue the run in ``out`` from its checkpoint, to ``epochs`` where given.

    Data and blocks that were handed to :func:`train` must be handed over again.

    Args:
        out: the run's folder.
        epochs: in all, in place of the run's own.
        device: in place of the run's own.
        data: as for :func:`train`, like the next four.
        validation: to choose on.
        test: to measure on.
        classes: names, in label order.
        network: blocks in order.
        imports: modules of your own whose parts the run's settings may name.
        callbacks: called while it trains.
        progress: whether to show how far it is on standard error; None does so on a terminal.

    Raises:
        ValueError: ``out`` is not a run, has no readable checkpoint or another network's, or is another
            process's.
        Interrupted, DivergenceError, StorageError: as :meth:`Trainer.fit`.
    """
    folder = RunFolder(out)
    config, _ = folder.read_settings(imports=imports)
    with folder.claim():
        trainer = resumed_trainer(
            out,
            epochs=epochs,
            device=device,
            data=_image_data(config, data, validation, test, classes),
            blocks=network,
            imports=imports,
            callbacks=callbacks,
        )
        return _watched(trainer, progress)


def resumed_trainer(
    out: str | Path,
    *,
    epochs: int | None = None,
    device: str | None = None,
    data: ImageData | None = None,
    blocks: Iterable[nn.Module] | None = None,
    imports: Imported = (),
    callbacks: Sequence[Callback] = (),
    processes: Alone | None = None,
    writes: bool = True,
) -> Trainer:
    """Build the trainer of the run in ``out``, at its checkpoint; on ``data`` if it is loaded.

    A run that was stopped before its first checkpoint begins. Unless it ``writes``, the run is only looked
    at: its network has the weights that it ended with, and nothing in the folder changes.
    """
    folder = RunFolder(out)
    config, facts = folder.read_settings(imports=imports)
    if config.data is None and data is None:
        raise ValueError(
            f"{folder.path} was trained on data given in Python: hand them over again, "
            f"trifecta.resume({str(out)!r}, data=…)"
        )
    changes: dict[str, Any] = {"epochs": epochs, "device": device}
    config = replace(config, **{k: v for k, v in changes.items() if v is not None})
    processes = processes or Alone()
    if folder.has_begun:
        processes.follow(folder.read_resolved())
    trainer = Trainer(
        config, folder=folder, data=data, blocks=blocks, callbacks=callbacks, processes=processes
    )
    if not folder.has_begun:
        return trainer
    _check_same_data(folder, facts, trainer.facts)
    trainer.resume()
    if trainer.position.epoch > config.epochs:
        raise ValueError(
            f"{folder.path} has trained {trainer.position.epoch} epochs already: "
            f"received epochs={config.epochs}; ask for more"
        )
    if not writes:
        # The weights that the run ended with may be an earlier epoch's than its checkpoint's.
        load_model(folder, trainer.network)
    else:
        trainer.write_config(config)
    return trainer


def _check_same_data(folder: RunFolder, before: DatasetFacts | None, now: DatasetFacts) -> None:
    """Check that the data are those that the run was trained on, as far as the facts tell."""
    # Runs from before the rows were noted have none.
    if before is None or replace(before, rows=before.rows or now.rows) == now:
        return
    then, there = before.to_plain(), now.to_plain()
    known = [name for name in ("rows", *then) if name != "rows" or before.rows]
    name = next(name for name in known if then[name] != there[name])
    raise ValueError(
        f"the data is not what {folder.path} was trained on: {name} was {then[name]!s:.100} and is "
        f"{there[name]!s:.100}; bring it back, or start another run"
    )


def _image_data(
    config: RunConfig,
    data: ImageData | Given | None,
    validation: Given | None,
    test: Given | None,
    classes: Sequence[str] | None,
) -> ImageData | None:
    """Make a data set of what was handed over; None where nothing was."""
    if data is None or isinstance(data, ImageData):
        others = {"validation": validation, "test": test, "classes": classes}
        for name, other in others.items():
            if other is not None:
                raise ValueError(
                    f"{name}=… goes with data=…, which has it already or is missing: leave it out"
                )
        return data
    return data_from(
        data,
        validation=validation,
        test=test,
        classes=classes,
        batch_size=config.batch_size,
        seed=config.seed,
    )


def _watched(trainer: Trainer, progress: bool | None) -> Run:
    """Finish a run, and show how far it is."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    if not (is_terminal if progress is None else progress):
        return finish(trainer)
    with ConsoleProgress(trainer.config.epochs) as shown:
        trainer.callbacks.append(shown)
        return finish(trainer)


@torch.inference_mode(False)
@torch.enable_grad()
def finish(trainer: Trainer, *, repeat_up_to: int = MOST_TO_REPEAT) -> Run:
    """Train what is left, fit the read-out's temperature, read the test split once, write the result.

    ``repeat_up_to`` as for :func:`trifecta.training.calibrate.calibrate`.
    """
    trainer.fit()
    began = time.perf_counter()
    trainer.choose_readout()
    calibrated_on = calibrate(trainer, repeat_up_to=repeat_up_to)
    calibrated = time.perf_counter()
    test = trainer.evaluate(trainer.data.test)
    seconds = time.perf_counter() - calibrated
    calibration = {"calibrated_on": calibrated_on, "calibration_seconds": calibrated - began}
    warn_of_untrained_blocks(trainer.history, test)
    warn_of_skipped_steps(trainer.learner)
    with trainer.processes.whole(trainer.network):
        result = _result(trainer, test, seconds) | calibration
        if trainer.written is not None:
            trainer.written.write_model(trainer.network, epoch=trainer.kept.epoch)
    run = Run(result=result, test=test, trainer=trainer)
    if trainer.written is not None:
        trainer.written.write_result(run.result)
    return run


def _samples(data: ImageData) -> dict[str, Any]:
    """Return the number of samples by split and, where that is known, by class."""
    return {
        split: counts if isinstance(counts, int) else dict(zip(data.classes, counts, strict=True))
        for split, counts in data.counts.items()
    }


def _result(trainer: Trainer, test: Evaluation, test_seconds: float) -> dict[str, Any]:
    config, history, device = trainer.config, trainer.history, trainer.device
    total_seconds, peak_bytes = trainer.total_seconds, peak_memory_bytes(device)
    seconds = sum(record["seconds"] for record in history)
    images = len(history) * trainer.batches.images_per_epoch
    return {
        "test_accuracy": test.accuracy,
        "log_loss": test.log_loss,
        "calibration_error": test.calibration_error,
        "temperature": float(trainer.network.temperature),
        "validation_accuracy": history[trainer.kept.epoch - 1]["validation_accuracy"],
        "block_accuracy": test.block_accuracy,
        "readout_accuracy": test.readout_accuracy,
        "readout_blocks": list(trainer.network.readout_blocks),
        "shortlist": None if trainer.network.shortlist is None else asdict(trainer.network.shortlist),
        "samples": _samples(trainer.data),
        "epochs": len(history),
        "kept_epoch": trainer.kept.epoch,
        "skipped_steps": len(trainer.learner.skipped),
        "seconds": seconds,
        "evaluation_seconds": test_seconds + sum(r.get("evaluation_seconds", 0.0) for r in history),
        "total_seconds": total_seconds,
        "images_per_second": images / seconds,
        "peak_memory_bytes": peak_bytes,
        **counts(trainer.network, batch_size=config.batch_size, total_steps=trainer.learner.total_steps),
        "label_input": trainer.network.label_name,
        "locality": config.method.locality,
        "method": config.method.name,
        "network": name_of(config.network),
        "width": config.width,
        "data": GIVEN if config.data is None else config.data.source,
        "recipe": config.recipe,
        "budget": config.budget,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "device": str(device),
        "hardware": describe_device(device),
        "precision": trainer.learner.precision,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
    }
