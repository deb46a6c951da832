"""Training under Lightning's ``Trainer``. Shapes: B samples (B, …); K classes."""

import sys
import warnings
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trifecta._utils.extras import require
from trifecta._utils.references import lookup
from trifecta.learner import Learner
from trifecta.network import LocalNetwork
from trifecta.readout import CHOSEN, fuse
from trifecta.statistics import RunningStatistics, lagging_norms

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule

PACKAGES = ("lightning.pytorch", "pytorch_lightning")

# The learner's precision for each of the Trainer's. float16 is missing, because it needs scaled losses.
PRECISIONS = {"32-true": "fp32", "64-true": "fp32", "bf16-mixed": "bf16"}


def _library() -> Any:
    """Import the Lightning package that is in use, because each accepts its own modules only."""
    for name in PACKAGES:
        if sys.modules.get(name) is not None:
            return sys.modules[name]
    with suppress(ImportError):
        return import_module(PACKAGES[0])
    return require(PACKAGES[1], extra="lightning")


LIBRARY = _library()
if not TYPE_CHECKING:
    LightningModule = LIBRARY.LightningModule


class LocalLearningModule(LightningModule):
    """Trains a :class:`LocalNetwork` under Lightning's ``Trainer``, as :class:`trifecta.Learner` does.

    Batches are pairs (samples, labels). The Trainer's ``global_step`` counts batches, although every block
    has an optimizer. It logs ``loss/k`` of each block k that computed a loss, by step and by epoch,
    ``val_accuracy`` and ``val_block_accuracy/k``, and the same for ``test``.

    Args:
        network: from :func:`trifecta.build_network` or :class:`LocalNetwork`.
        seed: seed of the method's random draws: wrong labels, pairs of samples, dropout.
        total_steps: steps over which the method decays its learning rate; None for the Trainer's whole run.

    Attributes:
        learner: the learner, from the start of a fit; None before.
    """

    def __init__(self, network: LocalNetwork, *, seed: int = 0, total_steps: int | None = None) -> None:
        super().__init__()
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"a run has 1 step or more: received total_steps {total_steps}")
        self.save_hyperparameters("seed", "total_steps")
        self.automatic_optimization = False
        self.network, self.seed, self.total_steps = network, seed, total_steps
        self.learner: Learner | None = None
        self._saved: dict[str, Any] | None = None
        self._statistics = RunningStatistics()
        method = network.method
        if method.finds_superclasses and not method.superclasses:
            warnings.warn(
                f"method {method.name} finds superclasses only in trifecta.train: here every block learns "
                "classes; give superclasses=… to use them",
                stacklevel=3,
            )
        if method.readout == CHOSEN:
            warnings.warn(
                "a read-out is chosen only in trifecta.train: here all blocks predict; set "
                "network.readout_blocks to choose",
                stacklevel=3,
            )

    @property
    def running_statistics(self) -> dict[str, Tensor]:
        """Statistics that training goes on with while others predict, by name; empty if none do."""
        return self._statistics.kept

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores of the read-out, (B, …) → (B, K)."""
        return self.network(images)  # type: ignore[no-any-return]

    def configure_callbacks(self) -> "list[Callback]":
        """Validate the Trainer's settings; add no callback."""
        if self.trainer.state.fn == "fit":
            lookup(PRECISIONS, str(self.trainer.precision), "precision")
            if not isinstance(self.trainer.strategy, LIBRARY.strategies.SingleDeviceStrategy):
                raise ValueError(
                    f"training is on one device: received strategy {type(self.trainer.strategy).__name__}; "
                    "use Trainer(devices=1)"
                )
        return []

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Build the learner on the module's device; return its optimizers."""
        self.learner = Learner(
            self.network,
            generator=torch.Generator(self.device).manual_seed(self.seed),
            precision=PRECISIONS[str(self.trainer.precision)],
            step_optimizer=self._step_optimizer,
        )
        return list(self.learner.optimizers.values())

    def on_train_start(self) -> None:
        """Set the length of the run, and the state of a run that is resumed."""
        assert self.learner is not None
        # Not earlier: the Trainer would load its data for the length, and forget to resume them.
        per_epoch, step, saved = self.trainer.num_training_batches, self.trainer.global_step, self._saved
        self.learner.steps_per_epoch = per_epoch if isinstance(per_epoch, int) else None
        self.learner.total_steps = self._run_length()
        self.learner.steps, self._saved, self._statistics.seen = step, None, []
        # A checkpoint whose weights start another run has another number of steps.
        if saved is not None and saved["steps"] == step:
            seen = [(x.to(self.device), y.to(self.device)) for x, y in saved.get("seen", [])]
            self._statistics = RunningStatistics(saved.get("running_statistics", {}), seen)
            self.learner.load_state_dict(saved)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Train every window on a batch."""
        assert self.learner is not None
        images, labels = _pair(batch)
        self._statistics.restore(self.network)
        if batch_idx == 0:
            self._statistics.seen = []
        if lagging_norms(self.network, self.learner.steps):
            self._statistics.remember((images, labels))
        # Lightning's own wrappers would count a step for each optimizer.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        # The learner knows which part of a step runs in bf16.
        with torch.autocast(self.device.type, enabled=False):
            losses = self.learner.step(images, labels)
        progress.increment_completed()
        by_name = {f"loss/{k}": loss for k, loss in enumerate(losses) if loss is not None}
        self.log_dict(by_name, on_step=True, on_epoch=True, batch_size=len(labels))

    def on_train_epoch_end(self) -> None:
        """Estimate statistics for predictions and checkpoints."""
        self.on_validation_start()
        self._statistics.seen = []

    # A run that goes on from its very last step ends no epoch.
    on_train_end = on_train_epoch_end

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the accuracy of a batch."""
        self._log_accuracy(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the accuracy of a batch."""
        self._log_accuracy(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the class scores (B, K) of samples, or of a pair (samples, labels)."""
        return self.forward(batch if isinstance(batch, Tensor) else batch[0])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the learner, except for optimizers, which Lightning saves."""
        if self.learner is not None:
            state = self.learner.state_dict()
            del state["optimizers"]
            state |= {"running_statistics": self.running_statistics, "seen": self._statistics.seen}
            checkpoint["learner"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the learner until a fit starts."""
        self._saved = checkpoint.get("learner")

    def on_validation_start(self) -> None:
        """Estimate statistics for predictions while running averages lag."""
        own = self._statistics
        if self.learner is None or not own.seen or own.kept:
            return
        # Lightning validates in inference mode, and training could not use the tensors made there.
        with torch.inference_mode(False):
            own.replace(self.network, self.learner)

    def _run_length(self) -> int | None:
        """Return the number of steps over which the learning rate decays, if it is known."""
        expected = self.total_steps or self.trainer.estimated_stepping_batches
        if isinstance(expected, int) and expected > 0:
            return expected
        if self.network.method.optimizer.decay != "constant":
            warnings.warn(
                "the learning rate stays as it is, because the run's length is unknown: give "
                "Trainer(max_epochs=…) or (max_steps=…), or LocalLearningModule(total_steps=…)",
                stacklevel=2,
            )
        return None

    def _step_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Step as Lightning does, after its hooks."""
        self.trainer.strategy.optimizer_step(optimizer, closure=lambda: None)

    def _log_accuracy(self, batch: Any, stage: str) -> None:
        images, labels = _pair(batch)
        blocks = self.network.block_scores(images)
        readout = {f"{stage}_accuracy": self.network.calibrated(fuse(blocks, self.network.readout_blocks))}
        by_block = {f"{stage}_block_accuracy/{k}": s for k, s in enumerate(blocks) if s is not None}
        for name, scores in (readout | by_block).items():
            correct = (scores.argmax(1) == labels).float().mean()
            self.log(name, correct, batch_size=len(labels), prog_bar=name in readout, sync_dist=True)


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Return samples and labels; raise a ``ValueError`` if they are not a pair of tensors."""
    if isinstance(batch, tuple | list) and [isinstance(part, Tensor) for part in batch] == [True, True]:
        return batch[0], batch[1]
    raise ValueError(
        "a batch is a pair of tensors (samples, labels): received a "
        f"{type(batch).__name__} of {len(batch) if hasattr(batch, '__len__') else 1}"
    )
