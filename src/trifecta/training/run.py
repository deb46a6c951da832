"""A run from its settings to its result: train, calibrate, measure the test split once, write the files."""

import math
import platform
import re
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trifecta._utils.devices import describe_device, peak_memory_bytes
from trifecta._utils.references import name_of
from trifecta.calibration import fit_readout
from trifecta.counts import counts
from trifecta.data import Given, ImageData, ImageSet, LoaderBatches, data_from, is_same_rows
from trifecta.data.images import hold_out
from trifecta.network import LocalNetwork
from trifecta.parallel.processes import Processes
from trifecta.readout import fuse
from trifecta.training.callbacks import ConsoleProgress
from trifecta.training.config import GIVEN, Imported, RunConfig
from trifecta.training.evaluation import Evaluation
from trifecta.training.folder import DatasetFacts, DivergenceError, RunFolder
from trifecta.training.model import load_weights
from trifecta.training.trainer import Callback, Record, Trainer

# The least share by which the loss of a block that learns falls; batches alone make it differ by less.
LEAST_FALL = 0.05
# To calibrate, a share of at most so many training images is held out of a second training; of few images,
# one share after another.
HELD_OUT, MOST_TO_REPEAT = 0.2, 10_000
FEW, SHARES_OF_FEW = 20, 5
# Training images that are enough to fit a temperature to.
MOST_SCORED = 5_000


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    Attributes:
        result: the contents of ``result.json``.
        test: the one evaluation on the test split.
        trainer: network, data and history after training.
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
        validation: samples and labels to choose on, likewise.
        test: samples and labels to measure on, likewise.
        classes: class names, in label order.
        network: blocks in order, in place of those that ``config.network`` names: any modules that map a
            batch to a batch. They are trained as they are.
        out: folder for the files of the run, new or empty; None writes none.
        callbacks: called while it trains.
        progress: whether to show progress on standard error; None shows it on a terminal.

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
        given = _image_data(config, data, validation=validation, test=test, classes=classes)
        trainer = Trainer(config, folder=folder, data=given, blocks=network, callbacks=callbacks)
        return finish(trainer, progress=progress)


def resume(
    out: str | Path,
    *,
    epochs: int | None = None,
    device: str | None = None,
    data: ImageData | Given | str | Path | None = None,
    validation: Given | None = None,
    test: Given | None = None,
    classes: Sequence[str] | None = None,
    network: Iterable[nn.Module] | None = None,
    imports: Imported = (),
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> Run:
    """Continue the run in the folder ``out`` from its checkpoint.

    Other arguments and errors are those of :func:`train`; data and blocks that were given there must be
    given again. It is a ValueError if ``out`` is not a run, has no readable checkpoint or is in use by
    another process, or if the data are not those that it was trained on.

    Args:
        out: folder of the run.
        epochs: total number of epochs, in place of the run's own.
        device: device, in place of the run's own.
        data: as for :func:`train`, like what follows; or the new place of a source that has moved.
        validation: samples and labels to choose on.
        test: samples and labels to measure on.
        classes: class names, in label order.
        network: blocks in order.
        imports: modules of your own whose parts the run's settings may name.
        callbacks: called while it trains.
        progress: whether to show progress.
    """
    folder = RunFolder(out)
    config, _ = folder.read_settings(imports=imports)
    with folder.claim():
        if not isinstance(data, str | Path):
            data = _image_data(config, data, validation=validation, test=test, classes=classes)
        same: dict[str, Any] = {"epochs": epochs, "device": device, "data": data, "imports": imports}
        trainer = resumed_trainer(out, **same, blocks=network, callbacks=callbacks)
        return finish(trainer, progress=progress)


def resumed_trainer(
    out: str | Path,
    *,
    epochs: int | None = None,
    device: str | None = None,
    data: ImageData | str | Path | None = None,
    imports: Imported = (),
    processes: Processes | None = None,
    writes: bool = True,
    **options: Any,
) -> Trainer:
    """Build the trainer of the run in ``out``, at its checkpoint, or at its beginning without one.

    Arguments and errors are those of :func:`resume`, and ``options`` those of :class:`Trainer`. Without
    ``writes`` the network has the weights that the run ended with, and nothing in the folder changes.
    """
    folder, processes = RunFolder(out), processes or Processes()
    config, facts = folder.read_settings(imports=imports)
    if config.data is None and not isinstance(data, ImageData):
        raise ValueError(
            f"{folder.path} was trained on data given in Python: hand them over again, "
            f"trifecta.resume({str(out)!r}, data=…)"
        )
    if isinstance(data, str | Path):
        assert config.data is not None
        config, data = replace(config, data=replace(config.data, source=str(data))), None
    given: dict[str, Any] = {"epochs": epochs, "device": device}
    config = replace(config, **{name: value for name, value in given.items() if value is not None})
    if folder.has_begun:
        processes.follow(folder.read_resolved())
    trainer = Trainer(config, folder=folder, data=data, processes=processes, **options)
    if not folder.has_begun:
        return trainer
    _check_same_data(folder, facts or trainer.facts, trainer.facts)
    trainer.resume()
    if trainer.epochs_done > config.epochs:
        raise ValueError(
            f"{folder.path} has trained {trainer.epochs_done} epochs already: received "
            f"epochs={config.epochs}; ask for more"
        )
    if writes:
        trainer.write_config(config)
    else:
        load_weights(trainer.network, folder.read_model(), folder.model)
    return trainer


def _check_same_data(folder: RunFolder, before: DatasetFacts, now: DatasetFacts) -> None:
    """Check that the data are those that the run was trained on, as far as the facts tell."""
    # Digests of samples and labels. Earlier versions stored neither.
    digests = "rows", "checksum"
    for name in ("sample_shape", "integer", "classes", *digests, "mean", "std", "grey_range"):
        was, found = getattr(before, name), getattr(now, name)
        is_same = found == was or (name == "rows" and is_same_rows(was, found))
        if is_same or (name in digests and not was):
            continue
        # Numbers of rows, but no digests, which say nothing to a reader.
        old, new = (re.sub(r"(, |^)[0-9a-f]{8,}\b", "", str(value)) for value in (was, found))
        told = f"{name} was {old:.100} and is {new or 'none':.100}"
        raise ValueError(
            f"the data is not what {folder.path} was trained on: "
            f"{'its samples or labels differ' if old == new else told}; give the same data, or start "
            "another run"
        )


def _image_data(config: RunConfig, data: ImageData | Given | None, **others: Any) -> ImageData | None:
    """Return the data that were given in Python; None if there are none."""
    if data is not None and not isinstance(data, ImageData):
        return data_from(data, batch_size=config.batch_size, seed=config.seed, **others)
    for name, other in others.items():
        if other is not None:
            raise ValueError(f"{name}=… goes with data=…, which has it already or is missing: leave it out")
    return data


@torch.inference_mode(False)
@torch.enable_grad()
def finish(trainer: Trainer, *, repeat_up_to: int = MOST_TO_REPEAT, progress: bool | None = False) -> Run:
    """Train what is left, calibrate as :func:`calibrate`, measure the test split once, write the result.

    ``progress`` is as for :func:`train`.
    """
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()
    if progress:
        with ConsoleProgress(trainer.config.epochs) as shown:
            trainer.callbacks.append(shown)
            return finish(trainer, repeat_up_to=repeat_up_to)
    trainer.fit()
    began = time.perf_counter()
    trainer.choose_readout()
    calibrated_on = calibrate(trainer, repeat_up_to=repeat_up_to)
    calibrated = time.perf_counter()
    test = trainer.evaluate(trainer.data.test)
    test_seconds = time.perf_counter() - calibrated
    warn_of_stuck_blocks(trainer.history, test)
    if skipped := trainer.learner.skipped:
        warnings.warn(
            f"{len(skipped):,} of {trainer.learner.steps:,} steps left weights as they were, as a loss or "
            f"gradient was not finite; the first was step {min(skipped) + 1:,}",
            stacklevel=2,
        )
    with trainer.learner.whole():
        result = _result(trainer, test, test_seconds)
        result |= {"calibrated_on": calibrated_on, "calibration_seconds": calibrated - began}
        if trainer.written is not None:
            trainer.written.write_model(trainer.network, epoch=trainer.kept_epoch)
            trainer.written.write_result(result)
    return Run(result=result, test=test, trainer=trainer)


def calibrate(trainer: Trainer, *, repeat_up_to: int = MOST_TO_REPEAT) -> str:
    """Fit the temperature and offsets of the trained network's read-out; return what they were fitted on.

    - ``validation``: the validation images, if there are any.
    - ``fold``: a stratified fifth of the training images, scored by a second network that the same run
      trains on the rest; of fewer than 20 images, five such fifths, of which the highest temperature
      counts, as luck decides each. It is at least that of the network's own training images.
    - ``training``: the training images, which the network knows too well, if no second network can be
      trained, there are more images than ``repeat_up_to``, or no class has two.
    """
    data, network = trainer.data, trainer.network
    fit = partial(fit_readout, frequencies=trainer.config.class_weights is None)
    if data.validation is not None:
        found, source = fit(*_scored(trainer, data.validation)), "validation"
    else:
        found, source = fit(*_scored(trainer, _some_training_images(trainer))), "training"
        count = len(data.train)
        seeds = range(0 if count > repeat_up_to else SHARES_OF_FEW if count < FEW else 1)
        folds = [fold for seed in seeds if (fold := _scored_by_second_network(trainer, seed)) is not None]
        if folds:
            found, source = max(found, *(fit(*fold) for fold in folds), key=itemgetter(0)), "fold"
    network.temperature.fill_(trainer.processes.agreed(found[0]))
    network.offset.copy_(found[1])
    return source


def _scored(trainer: Trainer, images: ImageSet) -> tuple[Tensor, Tensor]:
    """Return the read-out's scores of images, (N, K), and their labels, (N,)."""
    scores = fuse(trainer.scores(images), trainer.network.readout_blocks)
    return scores, images.labels.to(scores.device)


def _some_training_images(trainer: Trainer) -> ImageSet:
    train, batches = trainer.data.train, trainer.batches
    if isinstance(batches, LoaderBatches):
        enough = -(-MOST_SCORED // max(1, batches.images_per_epoch // batches.steps_per_epoch))
        images, labels = zip(*islice(batches.epoch(0), enough), strict=True)
        return ImageSet(torch.cat(images), torch.cat(labels))
    step = -(-len(train) // MOST_SCORED)
    return train.select(torch.arange(0, len(train), step, device=train.labels.device))


def _scored_by_second_network(trainer: Trainer, seed: int) -> tuple[Tensor, Tensor] | None:
    """Score a share of the training images by a network that the same run trains on the rest.

    None if no second network can be trained, no image can be held out, or training diverges.
    """
    config, data = trainer.config, trainer.data
    if not trainer.processes.is_alone or config.network == GIVEN or data.loader is not None:
        return None
    try:
        own, others = hold_out(data.train, HELD_OUT, seed=seed)
    except ValueError:  # No class has two images.
        return None
    config = replace(
        config,
        batch_size=min(config.batch_size, len(own)),
        precision=trainer.learner.precision,
        epochs=len(trainer.history),
        compiled=False,
    )
    data = replace(data, train=own, validation=None, test=others)
    second = Trainer(config, data=data, callbacks=[_StopWith(trainer)])
    try:
        second.fit()
    except DivergenceError:
        return None
    second.network.readout_blocks = trainer.network.readout_blocks
    return _scored(second, others)


class _StopWith(Callback):
    """Stop a second training when the run itself is asked to stop."""

    def __init__(self, run: Trainer) -> None:
        self.run = run

    def on_step_end(self, trainer: Trainer) -> None:
        trainer.stop_requested = self.run.stop_requested


def warn_of_stuck_blocks(history: Sequence[Record], measured: Evaluation) -> None:
    """Warn of each block that has learnt nothing.

    Its training loss has not fallen between its first step and its last epoch, and it is right no more
    often than the most frequent class alone, within two standard errors. A block that scores all labels
    alike is dead.
    """
    counts = measured.confusion.sum(1)
    share = counts.max().item() / counts.sum().item()
    limit = share + 2 * math.sqrt(share * (1 - share) / counts.sum().item())
    for block, accuracy in enumerate(measured.block_accuracy):
        positive, negative = measured.positive[block], measured.negative[block]
        if accuracy is None or accuracy > limit or positive is None or negative is None:
            continue
        firsts = [record["first_loss"][block] for record in history if record.get("first_loss")]
        lasts = [record["loss"][block] for record in reversed(history)]
        first, last = (next((loss for loss in all_ if loss is not None), None) for all_ in (firsts, lasts))
        both, why = positive.isfinite() & negative.isfinite(), ""
        if bool((positive == negative)[both].all()):
            why = "it is dead, all labels have the same score"
        elif first is not None and last is not None and last > first - LEAST_FALL * abs(first):
            why = f"its loss was {first:.3g} at first and is {last:.3g}"
        if why:
            told = f"block {block} has learnt nothing: {accuracy:.1%} accuracy, {why}"
            warnings.warn(told, stacklevel=3)


def _result(trainer: Trainer, test: Evaluation, test_seconds: float) -> dict[str, Any]:
    """Return the contents of ``result.json``."""
    config, history, network, data = trainer.config, trainer.history, trainer.network, trainer.data
    seconds = sum(record["seconds"] for record in history)
    measured = ("log_loss", "calibration_error", "block_accuracy", "readout_accuracy")
    given = ("width", "recipe", "budget", "batch_size", "seed")
    return {
        "test_accuracy": test.accuracy,
        **{name: getattr(test, name) for name in measured},
        "temperature": float(network.temperature),
        "offset": network.offset.tolist(),
        "validation_accuracy": history[trainer.kept_epoch - 1]["validation_accuracy"],
        "readout_blocks": list(network.readout_blocks),
        "shortlist": None if network.shortlist is None else asdict(network.shortlist),
        "samples": {
            split: counts if isinstance(counts, int) else dict(zip(data.classes, counts, strict=True))
            for split, counts in data.counts.items()
        },
        "epochs": len(history),
        "kept_epoch": trainer.kept_epoch,
        "skipped_steps": len(trainer.learner.skipped),
        "seconds": seconds,
        "evaluation_seconds": test_seconds + sum(r.get("evaluation_seconds") or 0.0 for r in history),
        "total_seconds": trainer.total_seconds,
        "images_per_second": len(history) * trainer.batches.images_per_epoch / seconds,
        "peak_memory_bytes": peak_memory_bytes(trainer.device),
        **counts(network, batch_size=config.batch_size, total_steps=trainer.learner.total_steps),
        "label_input": network.label_name,
        "locality": config.method.locality,
        "method": config.method.name,
        "network": name_of(config.network),
        "data": GIVEN if config.data is None else config.data.source,
        **{name: getattr(config, name) for name in given},
        "device": str(trainer.device),
        "hardware": describe_device(trainer.device),
        "precision": trainer.learner.precision,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that affect a figure."""
    libraries = {"torch": torch.__version__, "python": platform.python_version()}
    for name in ("trifecta", "numpy", "datasets"):
        with suppress(metadata.PackageNotFoundError):
            libraries[name] = metadata.version(name)
    return libraries
