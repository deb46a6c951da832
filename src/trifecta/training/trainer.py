"""Epochs: data through the learner, what was measured, and a checkpoint after each."""

import csv
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trifecta._utils.devices import in_memory_format, resolve_device, synchronize
from trifecta._utils.extras import require
from trifecta.data import ImageData, ImageSet
from trifecta.parallel.processes import Alone
from trifecta.pipeline import Losses
from trifecta.readout import CHOSEN
from trifecta.statistics import estimate_statistics, is_enough, lagging_norms, remembered, set_statistics
from trifecta.training.config import RunConfig
from trifecta.training.dataset_facts import DatasetFacts
from trifecta.training.evaluation import Evaluation, choose_blocks, score, summarise, warn_of_many_labels
from trifecta.training.folder import Interrupted, RunFolder, check_history, check_tensors, reading
from trifecta.training.meter import DivergenceError, LossMeter
from trifecta.training.model import load_weights, network_for
from trifecta.training.preparation import (
    check_samples,
    class_weights,
    fit_to_images,
    for_labels,
    identity,
    loaded,
    pipeline_for,
    statistics_batches,
    training_batches,
    with_batch_size,
    with_superclasses,
)

# One epoch of the history: what a line of history.jsonl holds.
Record = dict[str, Any]


class Callback:
    """Called while a run trains; every method does nothing unless it is overridden.

    Inherit from it and give instances to ``train(…, callbacks=[…])``. A method may set
    ``trainer.stop_after_epoch``, which ends the run after its epoch as if it had been its last one. What a
    callback needs of the past is in ``trainer.history``, also in a resumed run.
    """

    def on_train_begin(self, trainer: "Trainer") -> None:
        """Before the first batch, of a resumed run too."""

    def on_epoch_begin(self, trainer: "Trainer", epoch: int) -> None:
        """Before the first batch of ``epoch`` (from 1)."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """After every batch; must not wait for the device."""

    def on_evaluation_begin(self, trainer: "Trainer", images: int) -> None:
        """Before ``images`` images are scored."""

    def on_evaluation_step(self, trainer: "Trainer", images: int) -> None:
        """After a batch of ``images`` images is scored."""

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        """After an epoch and its checkpoint; ``record`` is its line of the history."""

    def on_train_end(self, trainer: "Trainer") -> None:
        """After the last epoch."""


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """Check that each is a callback.

    Raises:
        ValueError: one is a class, or does not inherit from :class:`Callback`.
    """
    for callback in callbacks:
        if not isinstance(callback, Callback):
            is_class = isinstance(callback, type)
            name = callback.__name__ if is_class else type(callback).__name__
            fix = f"the class {name}; give {name}()" if is_class else name
            raise ValueError(
                f"a callback is an object of a class that inherits from Callback: received {fix}"
            )


class EarlyStopping(Callback):
    """Ends a run when its validation accuracy has not improved for ``patience`` epochs.

    The run keeps the weights of its best epoch, unless ``RunConfig.keep`` is ``last``.

    Args:
        patience: in epochs, 1 or more.
        min_delta: the least improvement that counts, as a share (0.001 is 0.1 points).

    Raises:
        ValueError: a patience below 1.
    """

    def __init__(self, patience: int = 5, *, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience is a number of epochs, 1 or more: received {patience}")
        self.patience, self.min_delta = patience, min_delta

    def on_train_begin(self, trainer: "Trainer") -> None:
        """Refuse a run that validates nothing."""
        if trainer.data.validation is None:
            raise ValueError("early stopping needs validation images: give validation a share such as 0.1")

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        """Compare the last epochs with the best one before them."""
        best, best_epoch = float("-inf"), 0
        for epoch, past in enumerate(trainer.history):
            if past["validation_accuracy"] > best + self.min_delta:
                best, best_epoch = past["validation_accuracy"], epoch
        if len(trainer.history) - 1 - best_epoch >= self.patience:
            trainer.stop_after_epoch = True


class CSVLogger(Callback):
    """Writes the history as a table, one row an epoch, one column a number.

    Args:
        path: of the .csv file, which is written anew after every epoch.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        """Write all epochs so far."""
        rows = [flat_record(past) for past in trainer.history]
        names = list(dict.fromkeys(name for row in rows for name in row))
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)


class TensorBoardLogger(Callback):
    """Writes the history for TensorBoard; needs ``pip install "trifecta[tensorboard]"``.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: str | Path) -> None:
        library = require("torch.utils.tensorboard", install='"trifecta[tensorboard]"')
        self._writer = library.SummaryWriter(str(folder))

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        """Write the epoch's numbers."""
        for name, value in flat_record(record).items():
            if name != "epoch":
                self._writer.add_scalar(name, value, record["epoch"])

    def on_train_end(self, trainer: "Trainer") -> None:
        """Close the files."""
        self._writer.close()


def flat_record(record: Record) -> dict[str, float]:
    """Return a record's numbers by name; those of block k are called ``name/k``."""
    numbers: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, list):
            numbers |= {f"{name}/{k}": number for k, number in enumerate(value) if number is not None}
        elif value is not None:
            numbers[name] = value
    return numbers


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


@dataclass(frozen=True, kw_only=True)
class Position:
    """A run's position in the data: whole epochs done, and batches of the next one."""

    epoch: int = 0
    batch: int = 0


class KeptWeights:
    """Keeps them in the folder's ``model.safetensors``; a run without a folder has a copy on the CPU.

    Attributes:
        epoch: at whose end they are; 0 where that is no epoch's end.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._copy: dict[str, Tensor] | None = None

    def keep(self, trainer: "Trainer") -> None:
        """Keep the weights as they are now, if none are better; all blocks must be here."""
        position, is_best = trainer.position, trainer.keeps_best
        if is_best and self.epoch and (position.batch or _less(trainer, position.epoch, self.epoch)):
            return
        self.epoch = 0 if position.batch else position.epoch
        if trainer.written is not None:
            trainer.written.write_model(trainer.network, epoch=self.epoch)
        elif trainer.folder is None and is_best and trainer.processes.is_first:
            state = trainer.network.state_dict()
            self._copy = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}

    def find(self, trainer: "Trainer") -> None:
        """Find what the folder of a resumed run has kept."""
        found = None if trainer.written is None else trainer.written.model_epoch()
        found, done = trainer.processes.agreed(found), trainer.position.epoch
        # Weights of a later epoch than the checkpoint's: that epoch comes again.
        self.epoch = 0 if found is None or found > done else found
        if found is None and trainer.keeps_best and any(_less(trainer, done, k) for k in range(1, done)):
            warnings.warn(
                "the weights of the best epoch are lost, model.safetensors is missing or damaged: the best "
                f"from epoch {done} on are kept",
                stacklevel=5,
            )

    def bring_back(self, trainer: "Trainer") -> None:
        """Put them into the network when training has ended."""
        if not trainer.keeps_best or self.epoch == trainer.position.epoch:
            return
        tensors = trainer.processes.agreed(self._tensors(trainer))
        with trainer.processes.whole(trainer.network) as network:
            if tensors is not None:
                load_weights(network, tensors, source=Path("model.safetensors"))
                return
            warnings.warn("model.safetensors is damaged: the last weights are kept", stacklevel=5)
            self.epoch = 0
            self.keep(trainer)

    def _tensors(self, trainer: "Trainer") -> dict[str, Tensor] | None:
        """Those that are kept, in the first process; None elsewhere, and where they are damaged."""
        if trainer.written is None:
            return self._copy
        try:
            tensors, is_whole = trainer.written.read_model()
        except ValueError:
            return None
        return tensors if is_whole else None


def _less(trainer: "Trainer", epoch: int, other: int) -> bool:
    """Whether the validation accuracy of ``epoch`` is below that of ``other``; no epoch's is lowest."""

    def accuracy(number: int) -> float:
        return trainer.history[number - 1]["validation_accuracy"] if number else -math.inf

    return accuracy(epoch) < accuracy(other)


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


class Trainer:
    """One run of a configuration.

    Gradients are computed whatever mode the calling thread is in.

    Attributes:
        stop_requested: set it to stop after the batch in hand, with a checkpoint.
        kept: the weights that the run ends with.
        running_statistics: of batch normalisations, by name, with which training goes on while the network
            has estimated ones to predict with; empty within an epoch.
        stop_after_epoch: set it to end the run after its epoch, as if it had been the last one.

    Args:
        config: everything that decides the run.
        folder: where to leave its files; None leaves none.
        data: the images, if they are loaded already; else ``config.data`` is loaded.
        blocks: of the network, in place of those that ``config.network`` names.
        callbacks: called in this order, see :class:`Callback`.
        processes: those of the run, where there are several; only the first one writes files.

    Raises:
        ValueError: the configuration, its data or the device cannot be used; nothing was written.
    """

    @torch.inference_mode(False)
    @torch.enable_grad()
    def __init__(
        self,
        config: RunConfig,
        *,
        folder: RunFolder | None = None,
        data: ImageData | None = None,
        blocks: Iterable[nn.Module] | None = None,
        callbacks: Sequence[Callback] = (),
        processes: Alone | None = None,
    ) -> None:
        check_callbacks(callbacks)
        self.processes = processes or Alone()
        self.folder, self.callbacks = folder, list(callbacks)
        self.device = resolve_device(config.device)
        self.data = loaded(config) if data is None else data
        check_samples(config, self.data)
        # Set-up counts as part of the run, finding and decoding its images does not.
        self._began, self.earlier_seconds = time.perf_counter(), 0.0
        config = with_batch_size(for_labels(config, self.data), self.data)
        self.config = with_superclasses(config, self.data)
        self.processes.require_equal(lambda: identity(self.config, self.data))
        self.processes.require_shares(self.config.batch_size)
        self.data = self.data.to(self.device)
        self.facts = DatasetFacts.of(self.data)
        config = self.config
        self.network = network_for(config, self.facts, blocks=blocks).to(self.device)
        weights = class_weights(config, self.data)
        self.network.weigh_classes(None if weights is None else weights.to(self.device))
        fit_to_images(self.network, self.data)
        if config.compiled:
            self.network.compile(dynamic=False)
        received = not self.processes.draws_batches
        self.batches = training_batches(config, self.data, self.device, received=received)
        self.learner = self.processes.learner(
            self.network,
            generator=torch.Generator(self.device).manual_seed(config.seed),
            precision=config.precision,
            total_steps=config.epochs * self.batches.steps_per_epoch,
            steps_per_epoch=self.batches.steps_per_epoch,
            on_nan=config.on_nan,
        )
        self.pipeline = pipeline_for(config, self.learner)
        self.position = Position()
        self.history: list[Record] = []
        self.stop_requested = self.stop_after_epoch = False
        self.epoch_seconds = 0.0
        self.meter = self._new_meter()
        self.kept = KeptWeights()
        # Those with which training goes on, while the network has others to predict with.
        self.running_statistics: dict[str, Tensor] = {}
        self._seen: list[tuple[Tensor, Tensor]] = []

    @property
    def keeps_best(self) -> bool:
        """Whether the run ends with the weights of its best epoch, and not of its last."""
        return self.config.keep == "best" and self.data.validation is not None

    @property
    def total_seconds(self) -> float:
        """Wall time of the run since its images were loaded; of a resumed one the sum over its parts."""
        return self.earlier_seconds + time.perf_counter() - self._began

    @property
    def written(self) -> RunFolder | None:
        """The folder where this process writes the run's files; None where it writes none."""
        return self.folder if self.processes.is_first else None

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self) -> None:
        """Train to the last epoch.

        Raises:
            Interrupted: ``stop_requested`` was set; the checkpoint has every batch so far.
            DivergenceError: a loss or a weight is not finite; the checkpoint is the last good one.
            StorageError: a file of the run cannot be written; the checkpoint is the last one that could.
            ValueError: another process is training in the folder.
        """
        with nullcontext() if self.written is None else self.written.claim():
            self._fit()

    def _fit(self) -> None:
        self._prepare()
        warn_of_many_labels(self.network)
        for callback in self.callbacks:
            callback.on_train_begin(self)
        while self.position.epoch < self.config.epochs and not self.stop_after_epoch:
            self._train_epoch()
            self._finish_epoch()
        self.kept.bring_back(self)
        for callback in self.callbacks:
            callback.on_train_end(self)

    def evaluate(self, images: ImageSet) -> Evaluation:
        """Measure the network as it is now."""
        return summarise(self.network, images.labels.to(self.device), self.scores(images))

    def scores(self, images: ImageSet) -> list[Tensor | None]:
        """Score images by every block, L × (N, K), see :func:`trifecta.training.evaluation.score`."""
        for callback in self.callbacks:
            callback.on_evaluation_begin(self, len(images))

        def on_scored(count: int) -> None:
            for callback in self.callbacks:
                callback.on_evaluation_step(self, count)

        with self.processes.whole(self.network) as network:
            share = self.processes.share(len(images))
            scores = score(
                network,
                images if len(share) == len(images) else images.part(torch.tensor(share)),
                mean=self.data.mean,
                std=self.data.std,
                precision=self.learner.precision,
                on_scored=on_scored,
            )
        return self.processes.collected(scores)

    def choose_readout(self) -> None:
        """Choose the read-out on validation images, where that is asked for, and note it in the folder."""
        if self.config.method.readout != CHOSEN:
            return
        if self.data.validation is None:
            raise ValueError(
                "a read-out is chosen on validation images: received readout chosen without any"
            )
        with self.processes.whole(self.network) as network:
            blocks = choose_blocks(
                network,
                self.data.validation,
                mean=self.data.mean,
                std=self.data.std,
                precision=self.learner.precision,
            )
        self.network.readout_blocks = blocks
        method = replace(self.config.method, readout=",".join(map(str, blocks)))
        self.write_config(replace(self.config, method=method))

    @torch.inference_mode(False)
    @torch.enable_grad()
    def resume(self) -> None:
        """Take up the run where its folder's checkpoint left it.

        Raises:
            ValueError: no checkpoint, a damaged one, or another network's.
        """
        assert self.folder is not None
        restore(self, self.folder.read_checkpoint(self.device))

    def _prepare(self) -> None:
        """Make the folder's files those of this moment."""
        if self.position == Position():
            self.write_config(self.config)
            save(self)
            return
        self.kept.find(self)
        if self.written is not None and self.position.epoch < self.config.epochs:
            self.written.remove_result()
        # A kill may have come between a checkpoint and what follows.
        if self.written is not None:
            self.written.write_history(self.history)
        if self.position.batch == 0 and self._estimates:
            self._estimate_statistics()
        with self.processes.whole(self.network):
            self.kept.keep(self)

    def _train_epoch(self) -> None:
        epoch, start = self.position.epoch, self.position.batch
        for callback in self.callbacks:
            callback.on_epoch_begin(self, epoch + 1)
        began = time.perf_counter()
        set_statistics(self.network, self.running_statistics)
        self.running_statistics = {}
        batches = self._batches(epoch, start)
        done = start
        for losses in self._steps(self._until_stopped(batches)):
            with explained(self):
                self.meter.add(done, losses)
            done += 1
            for callback in self.callbacks:
                callback.on_step_end(self)
        self.processes.settle(self.learner)
        synchronize(self.device)
        self.epoch_seconds += time.perf_counter() - began
        if self._stops:
            self._stop(done)

    @property
    def _stops(self) -> bool:
        """Whether the run stops after the step that is done."""
        return self.processes.stops(self.learner, self.stop_requested)

    def _steps(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Losses]:
        if self.pipeline is not None:
            return self.pipeline.steps(batches)
        return (self.learner.step(images, labels) for images, labels in batches)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return an epoch's batches from ``start`` on; remember some of a loader, while they are needed."""
        assert self.learner.generator is not None
        self._seen = []
        if self.data.loader is None or not self._estimates:
            return self.batches.epoch(epoch, start=start, generator=self.learner.generator)
        every = self.batches.epoch(epoch, generator=self.learner.generator)
        return islice(remembered(every, self._seen), start, None)

    def _until_stopped(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Draws no batch that will not be learnt from, as drawing it moves the random state on."""
        for images, labels in batches:
            self.processes.announce_stop(self.learner, self.stop_requested)
            yield in_memory_format(images), labels
            if self._stops:
                return

    def _stop(self, batch: int) -> None:
        """Save in the middle of an epoch, unless what would be saved is no longer good."""
        self.position = Position(epoch=self.position.epoch, batch=batch)
        self._check_finite()
        save(self)
        raise Interrupted(f"stopped in epoch {self.position.epoch + 1} after batch {batch}")

    def _finish_epoch(self) -> None:
        meter = self._check_finite()
        losses, first_losses = meter.means(), meter.first_losses()
        with explained(self):
            if all(loss is None for loss in losses):
                raise DivergenceError("every update was skipped, from the first step")
        if self._estimates:
            began = time.perf_counter()
            self._estimate_statistics()
            synchronize(self.device)
            self.epoch_seconds += time.perf_counter() - began
        record = epoch_record(self, losses, first_losses)
        self.history.append(record)
        self.stop_after_epoch = self.processes.agreed(self.stop_after_epoch)
        self.position = Position(epoch=self.position.epoch + 1)
        self.epoch_seconds = 0.0
        self.meter = self._new_meter()
        save(self)
        for callback in self.callbacks:
            callback.on_epoch_end(self, record)

    def _check_finite(self) -> LossMeter:
        """Return the losses of all processes in this epoch, if they and all weights are numbers."""
        with explained(self):
            self.meter.means()
            # Of every step, as a checkpoint keeps them, so that a resumed run adds up the same numbers.
            joined = self._new_meter()
            joined.load_state_dict(self.joined_meter(), range(len(self.network.blocks)))
            joined.means()
            check_weights(self.network)
        return joined

    def joined_meter(self) -> dict[str, Tensor]:
        """Return the losses of the epoch so far of all processes, the mean over replicas."""
        return {name: self.processes.total(kept) for name, kept in self.meter.state_dict().items()}

    @property
    def _estimates(self) -> bool:
        """Whether predictions need better statistics than running averages."""
        is_short = bool(lagging_norms(self.network, self.learner.steps))
        return self.config.statistics == "estimated" and is_short

    def _estimate_statistics(self) -> None:
        """Give the network statistics to predict with, after an epoch."""
        batches: Iterable[tuple[Tensor, Tensor]] = statistics_batches(self.data)
        if self.data.loader is not None:
            if not self._seen:  # of the epoch before a resumed run's first one
                for _ in self._batches(self.position.epoch - 1, 0):
                    if is_enough(self._seen):
                        break
            batches = self.processes.agreed(self._seen)
        with self.processes.whole(self.network) as network:
            self.running_statistics = estimate_statistics(
                network, batches, steps=self.learner.steps, precision=self.learner.precision
            )
        self._seen = []

    def _new_meter(self) -> LossMeter:
        return LossMeter(self.batches.steps_per_epoch, len(self.network.blocks), self.device)

    def write_config(self, config: RunConfig) -> None:
        """Write settings to the folder, with what the data and the processes are."""
        if self.written is not None:
            self.written.write_config(
                config, self.facts, self.learner.precision, replicas=self.processes.facts()
            )
