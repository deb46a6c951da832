"""Training: batches through the learner, a record and a checkpoint after every epoch.

Shapes: S steps per epoch, L blocks, N images, K classes.
"""

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice, starmap
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trifecta._utils.devices import in_memory_format, resolve_device, synchronize
from trifecta._utils.extras import require
from trifecta._utils.files import tensor_checksum
from trifecta._utils.references import lookup
from trifecta.data import (
    Augmentation,
    Batches,
    ImageData,
    ImageSet,
    LoaderBatches,
    ReceivedBatches,
    load_data,
    normalize,
    require_finite_samples,
)
from trifecta.data.batches import epoch_order
from trifecta.losses.combined import Levels
from trifecta.network import LocalNetwork
from trifecta.parallel.processes import Processes
from trifecta.pipeline import Pipeline
from trifecta.readout import CHOSEN
from trifecta.statistics import ENOUGH, RunningStatistics, bound_variances, lagging_norms
from trifecta.training.config import RunConfig, to_plain
from trifecta.training.evaluation import (
    BATCH_SIZE,
    Evaluation,
    choose_blocks,
    score,
    summarise,
    warn_of_many_labels,
)
from trifecta.training.folder import DatasetFacts, DivergenceError, Interrupted, RunFolder, checked_record
from trifecta.training.model import load_weights, network_for

# One epoch of the history: a line of history.jsonl.
Record = dict[str, Any]
# Steps between two checks of the losses on a device that works ahead of Python; each check waits for it.
STEPS_UNCHECKED = 32
# Training images to look at; means of classes and filters need no more.
MOST_FOR_SUPERCLASSES, MOST_FOR_FILTERS, MOST_COMPARED = 20_000, 5_000, 64
PRINCIPAL_COMPONENTS = 50


class Callback:
    """Hooks that a run calls while it trains; each does nothing unless it is overridden.

    Inherit from it and pass instances to ``train(…, callbacks=[…])``. A hook may set
    ``trainer.stop_after_epoch``, which ends the run after its epoch as if it had been the last. Read the
    past from ``trainer.history``, which is complete in a resumed run too.
    """

    def on_train_begin(self, trainer: "Trainer") -> None:
        """Run before the first batch, also of a resumed run."""

    def on_epoch_begin(self, trainer: "Trainer", epoch: int) -> None:
        """Run before the first batch of ``epoch`` (from 1)."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """Run after every batch; must not wait for the device."""

    def on_evaluation_begin(self, trainer: "Trainer", images: int) -> None:
        """Run before ``images`` images are scored."""

    def on_evaluation_step(self, trainer: "Trainer", images: int) -> None:
        """Run after a batch of ``images`` images is scored."""

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        """Run after an epoch and its checkpoint; ``record`` is its line of the history."""

    def on_train_end(self, trainer: "Trainer") -> None:
        """Run after the last epoch."""


class LossMeter:
    """The loss of every block at every step of an epoch, (S, L), kept on the device.

    A loss that is not finite is an error at once on a CPU, and within 32 steps elsewhere.
    """

    def __init__(self, steps: int, num_blocks: int, device: torch.device) -> None:
        self.losses = torch.zeros(steps, num_blocks, device=device)
        # Whether a block closed a window, which is what has a loss.
        self.closed = torch.zeros(steps, num_blocks, dtype=torch.bool)
        self.check_every = 1 if device.type == "cpu" else STEPS_UNCHECKED

    def add(self, step: int, losses: Sequence[Tensor | None]) -> None:
        """Store the losses of one step, and check the latest when it is time."""
        for block, loss in enumerate(losses):
            if loss is not None:
                self.losses[step, block], self.closed[step, block] = loss, True
        latest = self.losses[: step + 1][-self.check_every :]
        if (step + 1) % self.check_every == 0 and not bool(latest.isfinite().all()):
            self.check_finite()

    def check_finite(self) -> None:
        """Raise a DivergenceError that names the block and step of the first loss that is not finite."""
        losses = self.losses.cpu()
        for step, block in (~losses.isfinite() & self.closed).nonzero().tolist():
            value = losses[step, block].item()
            raise DivergenceError(f"the loss of block {block} became {value} at step {step + 1}")

    def summary(self) -> dict[str, list[float | None]]:
        """Return the mean loss of each block and its first one; None if it closed no window."""
        losses, counts = self.losses.cpu(), self.closed.sum(0)
        firsts = losses.gather(0, self.closed.int().argmax(0, keepdim=True))[0]
        return {
            name: [value if count else None for value, count in zip(values.tolist(), counts, strict=True)]
            for name, values in {"loss": losses.double().sum(0) / counts, "first_loss": firsts}.items()
        }

    def joined(self, total: Callable[[Tensor], Tensor]) -> "LossMeter":
        """Return the losses of all processes, over which ``total`` adds tensors up."""
        whole = copy.copy(self)
        whole.losses, whole.closed = total(self.losses), total(self.closed)
        return whole

    def load(self, losses: Tensor, closed: Tensor, blocks: range) -> None:
        """Restore the losses of ``blocks``; those of an epoch of another length are a ValueError."""
        if self.losses.shape != losses.shape or closed.shape != losses.shape:
            raise ValueError(
                f"the checkpoint has {len(losses)} steps per epoch, and the data has {len(self.losses)}: "
                "resume with the data that the run was trained on"
            )
        own = slice(blocks.start, blocks.stop)
        self.losses[:, own], self.closed[:, own] = losses[:, own], closed[:, own]


class Trainer:
    """Trains one run, epoch by epoch, and leaves a checkpoint after each.

    Gradients are computed whatever mode the calling thread is in.

    Attributes:
        config: settings of the run, fitted to its data.
        data: the images, on the device of the run.
        history: a record of every epoch so far.
        epochs_done: number of finished epochs.
        batches_done: number of finished batches of the next epoch.
        kept_epoch: epoch whose weights the run ends with; 0 if they are not from the end of one.
        stop_requested: set it to stop after the current batch, with a checkpoint.
        stop_after_epoch: set it to end the run after the current epoch, as if it had been the last.
        written: the folder that this process writes to.

    Args:
        config: everything that decides the run; what cannot be used is a ValueError.
        folder: folder for its files; None writes none.
        data: the images, if they are loaded already; else ``config.data`` is loaded.
        blocks: blocks of the network, in place of those that ``config.network`` names.
        callbacks: called in this order, see :class:`Callback`.
        processes: the processes of the run, if there are several; only the first writes files.
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
        processes: Processes | None = None,
    ) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                rule = "a callback is an object of a class that inherits from Callback"
                raise ValueError(f"{rule}: received {callback!r:.80}")
        self.processes = processes or Processes()
        self.folder, self.callbacks = folder, list(callbacks)
        self.written = folder if self.processes.is_first else None
        self.device = resolve_device(config.device)
        if data is None:
            if config.data is None:
                raise ValueError("no data: give RunConfig(data=DataConfig(source=…)), or data=… in Python")
            data = load_data(config.data)
        # Finding and decoding images does not count as part of the run; what follows does.
        self._began, self._earlier_seconds = time.perf_counter(), 0.0
        self.config = config = fitted(config, data)
        self.processes.require_equal(lambda: identity(config, data))
        self.processes.layout.rows(0, config.batch_size)  # Replicas have equal shares.
        self.data = data.to(self.device)
        self.facts = DatasetFacts.of(self.data)
        if folder is not None and not data.rows:
            self.facts = replace(self.facts, checksum=checksum(data))
        network = network_for(config, self.facts, blocks=blocks)
        network.weigh_classes(class_weights(config, data))
        self.network = network.to(self.device)
        fit_to_images(self.network, self.data)
        if config.compiled:
            self.network.compile(dynamic=False)
        self._prepare_steps()
        self.history: list[Record] = []
        self.epochs_done = self.batches_done = self.kept_epoch = 0
        self.stop_requested = self.stop_after_epoch = False
        self.epoch_seconds, self.meter = 0.0, self._new_meter()
        # Whether the run ends with the weights of its best epoch, not of its last.
        self.keeps_best = config.keep == "best" and data.validation is not None
        self._kept_weights: dict[str, Tensor] | None = None
        self._statistics = RunningStatistics()

    def _prepare_steps(self) -> None:
        """Make the batches, and the learner that steps on them."""
        config, drawn = self.config, training_batches(self.config, self.data, self.device)
        steps, images = drawn.steps_per_epoch, drawn.images_per_epoch
        received = ReceivedBatches(steps_per_epoch=steps, images_per_epoch=images)
        self.batches = drawn if self.processes.draws_batches else received
        self.learner = self.processes.learner(
            self.network,
            generator=torch.Generator(self.device).manual_seed(config.seed),
            precision=config.precision,
            total_steps=config.epochs * steps,
            steps_per_epoch=steps,
            on_nan=config.on_nan,
        )
        self.pipeline: Pipeline | None = None
        if config.pipeline == 1:
            return
        if self.device.type == "cpu" and config.method.pipelines:
            self.pipeline = Pipeline(self.learner, config.pipeline)
            return
        reason = f"with {config.method.name} every block waits for all others"
        if self.device.type != "cpu":
            reason = f"it is for CPUs, and the run is on {self.device}"
        warnings.warn(f"pipeline is ignored: {reason}", stacklevel=4)

    def _new_meter(self) -> LossMeter:
        return LossMeter(self.batches.steps_per_epoch, len(self.network.blocks), self.device)

    @property
    def total_seconds(self) -> float:
        """Wall time of the run since its images were loaded, summed over its parts if it was resumed."""
        return self._earlier_seconds + time.perf_counter() - self._began

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self) -> None:
        """Train to the last epoch.

        Raises:
            Interrupted: ``stop_requested`` was set; the checkpoint has every batch so far.
            DivergenceError: a loss or a weight is not finite; the checkpoint is the last good one.
            StorageError: a file cannot be written; the checkpoint is the last one that could.
            ValueError: another process is training in the folder.
        """
        with nullcontext() if self.written is None else self.written.claim():
            self._begin()
            warn_of_many_labels(self.network)
            self._notify("on_train_begin")
            try:
                while self.epochs_done < self.config.epochs:
                    if self.processes.agreed(self.stop_after_epoch):
                        break
                    self._train_epoch()
                    self._finish_epoch()
            except DivergenceError as error:
                told = f"{error} of epoch {self.epochs_done + 1}; "
                told += f"the last good checkpoint is {self.folder.checkpoint}; " if self.folder else ""
                raise DivergenceError(f"{told}try a lower learning_rate, or precision=fp32") from None
            self._restore_kept_weights()
            self._notify("on_train_end")

    def _begin(self) -> None:
        """Bring the files of the folder up to date."""
        if self.epochs_done == self.batches_done == 0:
            self.write_config(self.config)
            self._save()
            return
        self._find_kept_weights()
        if self.written is not None:
            if self.epochs_done < self.config.epochs:
                for file in (self.written.result, self.written.report):
                    file.unlink(missing_ok=True)
            # A kill may have come between the checkpoint and the history.
            self.written.write_history(self.history)
        if self.batches_done == 0 and self.config.statistics == "estimated":
            self._set_statistics()
        with self.learner.whole():
            self._keep_weights()

    def _train_epoch(self) -> None:
        self._notify("on_epoch_begin", self.epochs_done + 1)
        began = time.perf_counter()
        self._statistics.restore(self.network)
        batches = self._until_stopped(self._batches(self.epochs_done, self.batches_done))
        steps = self.pipeline.steps(batches) if self.pipeline else starmap(self.learner.step, batches)
        for losses in steps:
            self.meter.add(self.batches_done, losses)
            self.batches_done += 1
            self._notify("on_step_end")
        self.learner.finish()
        synchronize(self.device)
        self.epoch_seconds += time.perf_counter() - began
        if self.processes.stops(self.learner, self.stop_requested):
            self._checked_meter()
            self._save()
            raise Interrupted(f"stopped in epoch {self.epochs_done + 1} after batch {self.batches_done}")

    def _batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches of an epoch from ``start`` on; remember some of a loader's for statistics."""
        assert self.learner.generator is not None
        self._statistics.seen = []
        if self.data.loader is None or not self._lags:
            return self.batches.epoch(epoch, start=start, generator=self.learner.generator)
        every = self.batches.epoch(epoch, generator=self.learner.generator)
        return islice(map(self._statistics.remember, every), start, None)

    def _until_stopped(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw no batch that is not trained on, because drawing it advances the random state."""
        for images, labels in batches:
            self.processes.announce_stop(self.learner, self.stop_requested)
            yield in_memory_format(images), labels
            if self.processes.stops(self.learner, self.stop_requested):
                return

    def _finish_epoch(self) -> None:
        losses = self._checked_meter().summary()
        if not any(loss is not None for loss in losses["loss"]):
            raise DivergenceError("every update was skipped, from the first step")
        if self.config.statistics == "estimated":
            began = time.perf_counter()
            self._set_statistics()
            synchronize(self.device)
            self.epoch_seconds += time.perf_counter() - began
        record: Record = {
            "epoch": self.epochs_done + 1,
            "seconds": self.epoch_seconds,
            "images_per_second": self.batches.images_per_epoch / self.epoch_seconds,
            **losses,
            **self._validation_record(),
        }
        self.history.append(record)
        self.epochs_done, self.batches_done = self.epochs_done + 1, 0
        self.epoch_seconds, self.meter = 0.0, self._new_meter()
        self._save()
        self._notify("on_epoch_end", record)

    def _validation_record(self) -> Record:
        if self.data.validation is None:
            return {"validation_accuracy": None, "block_accuracy": None}
        began = time.perf_counter()
        measured = self.evaluate(self.data.validation)
        return {
            "validation_accuracy": measured.accuracy,
            "block_accuracy": measured.block_accuracy,
            "positive_score": list(map(_mean_finite, measured.positive)),
            "negative_score": list(map(_mean_finite, measured.negative)),
            "evaluation_seconds": time.perf_counter() - began,
        }

    def evaluate(self, images: ImageSet) -> Evaluation:
        """Measure the network as it is now."""
        return summarise(self.network, images.labels, self.scores(images))

    def scores(self, images: ImageSet) -> list[Tensor | None]:
        """Return the scores of images by every block, L × (N, K); None without a head."""
        self._notify("on_evaluation_begin", len(images))
        with self.learner.whole() as network:
            share = self.processes.share(len(images))
            scores = score(
                network,
                images if len(share) == len(images) else images.part(share),
                mean=self.data.mean,
                std=self.data.std,
                precision=self.learner.precision,
                on_scored=lambda count: self._notify("on_evaluation_step", count),
            )
        return self.processes.collected(scores)

    def choose_readout(self) -> None:
        """Choose the read-out on validation images, if the method asks for that, and store the choice."""
        if self.config.method.readout != CHOSEN:
            return
        if self.data.validation is None:
            raise ValueError("a read-out is chosen on validation images: received none")
        scores = self.scores(self.data.validation)
        blocks = choose_blocks(self.network, self.data.validation.labels, scores)
        self.network.readout_blocks = blocks
        method = replace(self.config.method, readout=",".join(map(str, blocks)))
        self.write_config(replace(self.config, method=method))

    def write_config(self, config: RunConfig) -> None:
        """Write settings to the folder, with the facts about the data and what the run derived."""
        if self.written is not None:
            resolved = {"precision": self.learner.precision, **self.processes.facts()}
            self.written.write_config(config, dataset=to_plain(self.facts), resolved=resolved)

    def _notify(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)

    def _checked_meter(self) -> LossMeter:
        """Return the losses of all processes in this epoch, if they and all weights are finite."""
        # As a checkpoint stores them, so that a resumed run adds up the same numbers.
        joined = self.meter.joined(self.processes.total)
        joined.check_finite()
        for name, parameter in self.network.named_parameters():
            if not (parameter.is_meta or bool(parameter.isfinite().all())):
                raise DivergenceError(f"a weight is not finite: {name}, at the end")
        return joined

    def _save(self) -> None:
        """Write what the rest of the run depends on, if there is a folder, and keep the weights."""
        with self.learner.whole():
            if self.folder is not None:  # All processes take part.
                meter = self.meter.joined(self.processes.total)
                state = {
                    "network": {**self.network.state_dict(), **self._statistics.kept},
                    "learner": self.learner.state_dict(),
                    "position": {"epoch": self.epochs_done, "batch": self.batches_done},
                    "history": self.history,
                    "epoch_seconds": self.epoch_seconds,
                    "total_seconds": self.total_seconds,
                    "meter": {"losses": meter.losses, "closed": meter.closed},
                }
                if self.written is not None:
                    self.written.write_checkpoint(state)
                    self.written.write_history(self.history)
            self._keep_weights()

    @torch.inference_mode(False)
    @torch.enable_grad()
    def resume(self) -> None:
        """Restore the state in the folder's checkpoint; a damaged one or another run's is a ValueError."""
        assert self.folder is not None
        state = self.folder.read_checkpoint(self.device)
        try:
            self._restore(state)
        except Exception as error:  # Whatever the contents of another run's happen to cause.
            reason = " ".join(str(error).split())
            raise ValueError(f"{self.folder.checkpoint} is not this run's: {reason:.300}") from None
        place = {"epoch": self.epochs_done, "batch": self.batches_done}
        self.processes.require_equal(lambda: place)

    def _restore(self, state: dict[str, Any]) -> None:
        self.meter.load(**state["meter"], blocks=self.learner.blocks)
        with self.learner.whole():
            load_weights(self.network, state["network"], "the checkpoint")
        self.learner.load_state_dict(state["learner"])
        self.epochs_done, self.batches_done = (int(state["position"][name]) for name in ("epoch", "batch"))
        self.history = [checked_record(record, "history") for record in state["history"]]
        if len(self.history) != self.epochs_done:
            raise ValueError(f"history has {len(self.history)} epochs of {self.epochs_done}")
        self.epoch_seconds = float(state["epoch_seconds"])
        self._earlier_seconds = float(state["total_seconds"])

    # The weights that the run ends with: in model.safetensors, or without a folder in memory.

    def _keep_weights(self) -> None:
        """Keep the current weights, unless those of an earlier epoch are better; needs all blocks here."""
        is_within = self.batches_done > 0
        if self.keeps_best and self.kept_epoch and (is_within or self._is_worse_than(self.kept_epoch)):
            return
        self.kept_epoch = 0 if is_within else self.epochs_done
        if self.written is not None:
            self.written.write_model(self.network, epoch=self.kept_epoch)
        elif self.folder is None and self.keeps_best and self.processes.is_first:
            state = self.network.state_dict()
            self._kept_weights = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}

    def _find_kept_weights(self) -> None:
        """Find the epoch of the weights in the folder of a resumed run."""
        found = self.processes.agreed(None if self.written is None else self.written.model_epoch())
        # An epoch later than the checkpoint's is trained again.
        self.kept_epoch = 0 if found is None or found > self.epochs_done else found
        is_lost = found is None and self.keeps_best
        if is_lost and any(self._is_worse_than(epoch) for epoch in range(1, self.epochs_done)):
            warnings.warn(
                "the weights of the best epoch are lost, model.safetensors is missing or damaged: the best "
                f"from epoch {self.epochs_done} on are kept",
                stacklevel=5,
            )

    def _restore_kept_weights(self) -> None:
        if self.keeps_best and self.kept_epoch != self.epochs_done:
            own = self._kept_weights if self.written is None else self.written.read_model()
            tensors = self.processes.agreed(own)
            with self.learner.whole() as network:
                load_weights(network, tensors, "model.safetensors")

    def _is_worse_than(self, epoch: int) -> bool:
        """Return whether the validation accuracy after the last epoch is below that after ``epoch``."""
        return bool(
            self.history[-1]["validation_accuracy"] < self.history[epoch - 1]["validation_accuracy"]
        )

    # Statistics of batch normalizations, see trifecta.statistics.

    @property
    def _lags(self) -> bool:
        """Whether running averages lag, so that predictions need estimated statistics."""
        lagging = lagging_norms(self.network, self.learner.steps)
        return self.config.statistics == "estimated" and bool(lagging)

    def _set_statistics(self) -> None:
        """Give the network statistics to predict with, after an epoch."""
        batches: Iterable[tuple[Tensor, Tensor]] = statistics_batches(self.data)
        own = self._statistics
        if self.data.loader is not None and self._lags:
            if not own.seen:  # None remembered, as the run was resumed after this epoch.
                for _ in self._batches(self.epochs_done - 1):
                    if own.has_enough:
                        break
            batches = self.processes.agreed(own.seen)
        with self.learner.whole() as network:
            own.replace(network, self.learner, batches)
            own.kept = bound_variances(network) | own.kept
        own.seen = []


def _mean_finite(scores: Tensor | None) -> float | None:
    """Return the mean score of the samples whose label no shortlist left out."""
    finite = torch.empty(0) if scores is None else scores[scores.isfinite()]
    return finite.mean().item() if len(finite) else None


def fitted(config: RunConfig, data: ImageData) -> RunConfig:
    """Return ``config`` fitted to ``data``: to the shape of its labels, its size and its superclasses.

    A sample that is not finite is a ValueError unless such updates are skipped, and so are data that the
    method has no form for.
    """
    for name, images in _splits(data).items() if config.on_nan != "skip" else ():
        require_finite_samples(images.images, name)
    if data.test.labels.ndim > 1:
        config = replace(config, method=config.method.at_positions())
    count = len(data.train)
    if data.loader is None and config.batch_size > count:
        warnings.warn(
            f"there are {count} training images: a batch has all of them, in place of {config.batch_size}",
            stacklevel=3,
        )
        config = replace(config, batch_size=count)
    return with_superclasses(config, data)


def with_superclasses(config: RunConfig, data: ImageData) -> RunConfig:
    """Return ``config`` with superclasses found in the training images, if its method needs them."""
    method = config.method
    if not method.finds_superclasses or method.superclasses:
        return config
    if data.loader is not None:
        raise ValueError(
            f"method {method.name} finds superclasses in training images: received a loader; give tensors, "
            "or superclasses=…"
        )
    # Images that do not fit into memory are sampled.
    train = data.train if data.train.rows is None else _spread(data.train, MOST_FOR_SUPERCLASSES)
    found = find_superclasses(train.images, train.labels, len(data.classes))
    return replace(config, method=replace(method, superclasses=found))


def find_superclasses(images: Tensor, labels: Tensor, num_classes: int) -> Levels:
    """Return levels of superclasses, coarsest first, each with a number 0, 1, … for every class.

    Standardised pixels of ``images`` (N, C, H, W), with ``labels`` (N,) and one of each class at least, are
    reduced to their first 50 principal components, each class stands for the mean of its images, and Ward's
    linkage joins the means two by two. A level is a depth of the resulting tree, from two superclasses on;
    a class that is alone stays so. The level of all classes is left out. Source: the published code of
    HCL-FF (arXiv 2605.24797) for MNIST and Fashion-MNIST.
    """
    hierarchy, pixels = require("scipy.cluster.hierarchy"), images.cpu().flatten(1).float().numpy()
    scaled = require("sklearn.preprocessing").StandardScaler().fit_transform(pixels)
    pca = require("sklearn.decomposition").PCA(min(PRINCIPAL_COMPONENTS, *pixels.shape), random_state=0)
    reduced, own = pca.fit_transform(scaled), labels.cpu().numpy()
    prototypes = np.stack([reduced[own == c].mean(0) for c in range(num_classes)])
    level, levels = [hierarchy.to_tree(hierarchy.linkage(prototypes, method="ward"))], []
    while not all(node.is_leaf() for node in level):
        halves = [[node] if node.is_leaf() else [node.get_left(), node.get_right()] for node in level]
        level = [half for pair in halves for half in pair]
        numbers = {name: number for number, node in enumerate(level) for name in node.pre_order()}
        levels.append(tuple(numbers[name] for name in range(num_classes)))
    return tuple(levels[:-1])


def fit_to_images(network: LocalNetwork, data: ImageData) -> None:
    """Pass training images to the modules of ``network`` that have a ``fit_images`` method."""
    modules: list[Any] = [m for m in network.blocks.modules() if hasattr(m, "fit_images")]
    if modules and data.loader is not None:
        raise ValueError(
            "this network's filters are made of training images: received a loader; give tensors, or call "
            "fit_images of its blocks yourself"
        )
    for module in modules:
        images = normalize(_spread(data.train, MOST_FOR_FILTERS).images, data.mean, data.std)
        module.fit_images(images.to(network.device))


def class_weights(config: RunConfig, data: ImageData) -> Tensor | None:
    """Return the weight of each class in the losses, (K,) float32; None if all weigh the same.

    ``balanced`` is ``N / (K · N_k)`` for the N_k samples of a class, over the K classes that have any.
    """
    weights = config.class_weights
    if weights is None:
        return None
    if isinstance(weights, Mapping):
        for name in weights:
            lookup(dict.fromkeys(data.classes), name, "class in class_weights")
        weights = tuple(weights.get(name, 1.0) for name in data.classes)
    if not isinstance(weights, str):
        if len(weights) != data.num_classes:
            rule = f"class_weights are a number for each of {data.num_classes} classes"
            raise ValueError(f"{rule}: received {len(weights)}")
        return torch.tensor(weights)
    if data.loader is not None and data.loader_counts is None:
        raise ValueError(
            "balanced class_weights need the classes of all training samples: received a loader; give "
            "a number for each class"
        )
    labels = data.train.labels.flatten().cpu()
    counts = torch.tensor(data.loader_counts or labels.bincount(minlength=data.num_classes).tolist())
    balanced = counts.sum() / (counts.count_nonzero() * counts.double())
    return torch.where(counts > 0, balanced, 1.0).float()


def identity(config: RunConfig, data: ImageData) -> dict[str, Any]:
    """Return, as plain values, the settings and data that all processes of a run have in common."""
    try:
        plain = to_plain(replace(config, device="auto"))
    except ValueError:  # A part of the user's own that has no name.
        plain = {"seed": config.seed, "batch_size": config.batch_size, "epochs": config.epochs}
    if plain.get("data"):
        plain["data"]["source"] = None
    plain["classes"] = list(data.classes)
    for name, images in _splits(data).items():
        # All labels, and some images.
        tensors = {"labels": images.labels, "images": _spread(images, MOST_COMPARED).images}
        plain |= {f"number of {name} images": len(images)}
        plain |= {f"{kind} of {name}": tensor_checksum({kind: value}) for kind, value in tensors.items()}
    return plain


def checksum(data: ImageData) -> str:
    """Return a checksum of all samples and labels in memory."""
    kinds = ("images", "labels")
    return tensor_checksum(
        {f"{kind} of {name}": getattr(own, kind) for name, own in _splits(data).items() for kind in kinds}
    )


def statistics_batches(data: ImageData) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some training images without augmentation, always the same, in batches of mixed classes."""
    some = epoch_order(len(data.train), seed=0, epoch=0)[:ENOUGH]
    for indices in some.tensor_split(-(-len(some) // BATCH_SIZE)):
        part = data.train.select(indices.to(data.train.labels.device))
        yield normalize(part.images, data.mean, data.std), part.labels


def training_batches(config: RunConfig, data: ImageData, device: torch.device) -> Batches | LoaderBatches:
    """Return shuffled, augmented batches of the training images, or those of their loader."""
    augments = config.augmentation != Augmentation()
    scale: dict[str, Any] = {"mean": data.mean, "std": data.std}
    if data.loader is not None:
        if augments:
            warnings.warn("augmentation is ignored: a loader augments by its own transforms", stacklevel=3)
        known = torch.unique(data.test.labels).tolist() if data.loader_counts is None else ()
        form: dict[str, Any] = {"checked": config.on_nan != "skip", "one_hot": data.test.labels.ndim == 1}
        return LoaderBatches(data.loader, device, classes=data.classes, expected=known, **form, **scale)
    if augments and len(data.sample_shape) != 3:
        raise ValueError(
            f"augmentation changes images (C, H, W): received samples of shape {data.sample_shape}; "
            "leave it out"
        )
    how: dict[str, Any] = {name: getattr(config, name) for name in ("batch_size", "augmentation", "seed")}
    return Batches(data.train, **how, **scale)


def _splits(data: ImageData) -> dict[str, ImageSet]:
    """Return the splits that are in memory; a loader's training split is not."""
    train = data.train if data.loader is None else None
    splits = {"train": train, "validation": data.validation, "test": data.test}
    return {name: images for name, images in splits.items() if images is not None}


def _spread(images: ImageSet, count: int) -> ImageSet:
    """Return about ``count`` images, evenly spread over the set."""
    return images.select(torch.arange(0, len(images), max(1, len(images) // count)))
