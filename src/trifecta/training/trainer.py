"""Epochs: data through the learner, what was measured, and a checkpoint after each."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, nn

from trifecta._utils.devices import in_memory_format, resolve_device, synchronize
from trifecta.data import ImageData, ImageSet
from trifecta.distributed.processes import Alone
from trifecta.learning.pipeline import Losses
from trifecta.learning.statistics import (
    estimate_statistics,
    is_enough,
    lagging_norms,
    remembered,
    set_statistics,
)
from trifecta.readout import CHOSEN
from trifecta.training.callbacks import Callback, Record, check_callbacks
from trifecta.training.config import RunConfig
from trifecta.training.dataset_facts import DatasetFacts
from trifecta.training.epoch_record import check_weights, epoch_record, explained
from trifecta.training.evaluation import Evaluation, choose_blocks, score, summarise, warn_of_many_labels
from trifecta.training.interrupted import Interrupted
from trifecta.training.kept import KeptWeights
from trifecta.training.meter import DivergenceError, LossMeter
from trifecta.training.position import Position
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
from trifecta.training.run_folder import RunFolder
from trifecta.training.saved_network import network_for
from trifecta.training.saved_state import restore, save


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
