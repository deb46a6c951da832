"""A scikit-learn classifier that learns locally.

Shapes: N rows; F features, or images (C, H, W); K classes.
"""

# ruff: noqa: E402, N803

from __future__ import annotations

import copy
import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trifecta._utils.devices import in_memory_format, resolve_device
from trifecta._utils.extras import require
from trifecta._utils.references import part_of
from trifecta.calibration import fit_readout, probabilities
from trifecta.data import Augmentation, Batches, ImageData, ImageSet
from trifecta.data.images import hold_out
from trifecta.learner import Learner
from trifecta.method import Method
from trifecta.methods import get_method
from trifecta.network import LocalNetwork, build_network
from trifecta.nn.networks import NETWORKS, NetworkBuilder
from trifecta.nn.shapes import SampleShape
from trifecta.statistics import REMEMBERED, RunningStatistics, lagging_norms
from trifecta.training import EarlyStopping, RunConfig, Trainer
from trifecta.training.run import calibrate

require("sklearn", extra="sklearn")
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_is_fitted, validate_data

AUTO = "auto"
# Default width for images, and for tables: 128 of the 2,000 units of ``mlp``.
_IMAGE_WIDTH, _TABLE_WIDTH = 0.25, 128 / 2000
_ROWS_AT_ONCE = 512
# Number of scored rows from which partial_fit fits the temperature.
_RECENT = 1000
# Standard deviations from the mean at which columns are bounded, and the share of their variance that the
# first batch normalization adds to a batch's.
_BOUND, _ADDED_VARIANCE = 5.0, 0.1
# Types of rows that are taken as they are; others become the first.
_FLOATS = (np.float64, np.float32)
# Deviation of a constant column at most, relative to its largest value: what rounding leaves of it.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class _ForColumns:
    """Builds ``network`` with a first ε that bounds the rare values of a column that hardly varies.

    Most batches have no variance in such a column, and PyTorch's ε of 1e-5 would make its rare values 300
    times as large, in predictions more than in training.
    """

    network: str | NetworkBuilder

    def __call__(self, input_shape: SampleShape, **settings: Any) -> nn.Sequential:
        blocks = part_of(NETWORKS, self.network, "network")(input_shape, **settings)
        first = next((layer for layer in blocks[0].modules() if isinstance(layer, _BatchNorm)), None)
        if first is not None:
            first.eps = _ADDED_VARIANCE
        return blocks


@dataclass(eq=False, repr=False)
class TrifectaClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose blocks learn locally, for tables (N, F) and images.

    Columns of a table, and channels of images, are standardized to mean 0 and deviation 1 first, and
    bounded to -5 … 5, so that a rare value in a column that hardly varies in training does not decide
    alone.

    Args:
        method: a name, as in ``trifecta list``, or a :class:`trifecta.Method`.
        network: a name, as in ``trifecta list``, or a builder of your own; ``auto`` is ``mlp`` for tables
            and ``small`` for images.
        width: factor on the network's units or channels; None is 128 units a block for tables, and a
            quarter of the channels for images.
        epochs: number of passes over the rows, at most.
        batch_size: rows in a step; all of them if there are fewer.
        learning_rate: rate at the start; None is the method's own.
        image_shape: (C, H, W) of images that come as rows (N, C·H·W); images (N, C, H, W) need none.
        early_stopping: whether to hold rows out, stop when their accuracy has not improved for ``patience``
            epochs, and keep the weights of the best epoch.
        validation_fraction: stratified share of the rows to hold out for that.
        patience: number of epochs.
        class_weight: weight of each class's rows in the loss: a dictionary by label (1 for all others),
            ``balanced``, or None for equal weights.
        random_state: a seed, a ``numpy.random.RandomState``, or None for another seed every time.
        device: ``cpu``, ``auto``, or any name that PyTorch knows.

    Attributes:
        classes_: sorted labels.
        network_: the trained :class:`trifecta.LocalNetwork`.
        history_: a record of every epoch: losses by block, and validation accuracy.
        n_iter_: number of epochs, or of calls of ``partial_fit``, so far.
        n_features_in_: number of columns, or channels of images.
    """

    method: str | Method = "superfecta"
    network: str | NetworkBuilder = AUTO
    _: KW_ONLY
    width: float | None = None
    epochs: int = 50
    batch_size: int = 32
    learning_rate: float | None = None
    image_shape: tuple[int, int, int] | None = None
    early_stopping: bool = False
    validation_fraction: float = 0.1
    patience: int = 10
    class_weight: dict[Any, float] | str | None = None
    random_state: Any = None
    device: str = "cpu"

    def fit(self, X: ArrayLike, y: ArrayLike) -> TrifectaClassifier:
        """Train from scratch.

        Args:
            X: rows (N, F), or images (N, C, H, W).
            y: labels of any type, (N,).

        Raises:
            ValueError: values that are not finite, fewer than two classes, or settings that no run can use.
        """
        samples, y = self._validated(X, y, is_first=True)
        self.classes_ = np.unique(y)
        self._begin(samples)
        train, validation = self._rows(samples, y), None
        if self.early_stopping:
            train, validation = hold_out(train, self.validation_fraction)
        names = tuple(str(label) for label in self.classes_)
        data = ImageData(train=train, validation=validation, test=train, classes=names, mean=(), std=())
        config = replace(self._config(samples, y), batch_size=min(self.batch_size, len(train)))
        callbacks = [EarlyStopping(self.patience)] if self.early_stopping else []
        trainer = Trainer(config, data=data, callbacks=callbacks)
        trainer.fit()
        calibrate(trainer, repeat_up_to=len(train))
        self.network_: LocalNetwork = trainer.network.eval()
        self.history_, self.n_iter_ = trainer.history, len(trainer.history)
        return self

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None
    ) -> TrifectaClassifier:
        """Learn from more rows, each once, at a constant rate; continue from what was learnt before.

        Columns keep the scale of the first rows.

        Args:
            X: rows (N, F), or images (N, C, H, W); at least 2 at the first call, which fits the scale.
            y: labels (N,).
            classes: all labels that will ever occur; needed at the first call.

        Raises:
            ValueError: no classes at the first call, or others than before; a single row at the first call.
        """
        is_first = not hasattr(self, "network_")
        samples, y = self._validated(X, y, is_first=is_first)
        if is_first:
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            self.classes_ = unique_labels(classes)
            self._build(samples)
        elif classes is not None and not np.array_equal(self.classes_, unique_labels(classes)):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                f"{self.classes_!r}"
            )
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y has classes that the first call did not name: {unknown}")
        self._learn(self._rows(samples, y))
        self.n_iter_ += 1
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return class scores (N, K); of two classes the second's minus the first's, (N,).

        They are those of :meth:`trifecta.LocalNetwork.calibrated`, times the temperature.
        """
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return probabilities (N, K): the softmax of class scores over a fitted temperature.

        ``fit`` fits it, and offsets by the classes' frequencies where the labels show that they are needed
        (never with ``class_weight``), see :func:`trifecta.calibration.fit_readout`. It uses the rows that
        ``early_stopping`` holds out; without them a fifth of the rows, scored by a network that was trained
        on the rest, which nearly doubles the time of a fit. ``partial_fit`` uses the latest rows, which it
        scores just before it learns from them.
        """
        scores = torch.from_numpy(self._scores(X))
        shares: NDArray[np.float64] = probabilities(scores, float(self.network_.temperature)).numpy()
        return shares

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return labels (N,)."""
        best = self._scores(X).argmax(1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def _validated(self, X: ArrayLike, y: ArrayLike, *, is_first: bool) -> tuple[Tensor, NDArray[Any]]:
        least = 2 if is_first else 1
        rows, targets = validate_data(
            self, X, y, reset=is_first, dtype=_FLOATS, allow_nd=True, ensure_min_samples=least
        )
        check_classification_targets(targets)
        return self._as_samples(rows), targets

    def _as_samples(self, rows: NDArray[Any]) -> Tensor:
        samples = torch.from_numpy(np.array(rows))
        if self.image_shape is None or samples.ndim == 4:
            return samples
        if samples[0].numel() != math.prod(self.image_shape):
            raise ValueError(
                f"images {self.image_shape} have {math.prod(self.image_shape)} values each: received "
                f"rows of {samples[0].numel()}"
            )
        return samples.view(-1, *self.image_shape)

    def _begin(self, samples: Tensor) -> None:
        """Fit the scale of columns or channels, and forget all other rows."""
        if len(self.classes_) < 2:
            raise ValueError("a classifier needs at least 2 classes: received 1 class in y")
        dims, wide = [0, *range(2, samples.ndim)], samples.double()
        magnitude = wide.abs().amax(dims, keepdim=True)
        magnitude = torch.where(magnitude > 0, magnitude, 1.0)
        unit = wide / magnitude  # whose squares neither overflow nor vanish
        self.mean_ = (unit.mean(dims, keepdim=True) * magnitude)[0]
        deviation = unit.std(dims, correction=0, keepdim=True)
        # A column without a deviation says nothing: it is 0, in other rows too.
        self.scale_ = torch.where(deviation > _ROUNDING, deviation * magnitude, torch.inf)[0]
        self._learner_state: dict[str, Any] | None = None
        self._scored: list[tuple[Tensor, Tensor]] = []
        self._statistics = RunningStatistics()

    def _rows(self, samples: Tensor, y: NDArray[Any]) -> ImageSet:
        labels = torch.from_numpy(np.searchsorted(self.classes_, y).astype(np.int64))
        return ImageSet(self._scaled(samples), labels)

    def _scaled(self, samples: Tensor) -> Tensor:
        # A column may be large beside its deviation: float32 is enough only once both are taken out.
        return ((samples.double() - self.mean_) / self.scale_).clamp(-_BOUND, _BOUND).float()

    def _config(self, samples: Tensor, y: NDArray[Any]) -> RunConfig:
        """Return the settings of a run on such rows; ``y`` (N,) decides ``balanced`` weights."""
        method = self.method if isinstance(self.method, Method) else get_method(self.method)
        if self.learning_rate is not None:
            method = replace(method, optimizer=replace(method.optimizer, learning_rate=self.learning_rate))
        network, weights = self.network, None
        if network == AUTO:
            network = "small" if samples.ndim == 4 else "mlp"
        width = _TABLE_WIDTH if network == "mlp" else _IMAGE_WIDTH
        if self.class_weight is not None:
            weights = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        return RunConfig(
            method=method,
            network=_ForColumns(network) if samples.ndim == 2 else network,
            width=width if self.width is None else self.width,
            epochs=self.epochs,
            seed=self._draw_seed(),
            device=self.device,
            precision="fp32",
            class_weights=None if weights is None else tuple(weights.tolist()),
        )

    def _draw_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _build(self, samples: Tensor) -> None:
        """Build an untrained network for rows such as ``samples``."""
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"partial_fit knows no rows but those that it is given: received class_weight "
                f"{self.class_weight!r}; give a dictionary"
            )
        self._begin(samples)
        config = self._config(samples, self.classes_)
        optimizer = replace(config.method.optimizer, decay="constant", warmup=0.0, freeze_from=1.0)
        self.network_ = build_network(
            replace(config.method, optimizer=optimizer),
            config.network,
            sample_shape=tuple(samples.shape[1:]),
            num_classes=len(self.classes_),
            width=config.width,
            seed=config.seed,
        ).to(resolve_device(self.device))
        if config.class_weights is not None:
            self.network_.weigh_classes(torch.tensor(config.class_weights, device=self.network_.device))
        self.history_, self.n_iter_ = [], 0

    def _learn(self, rows: ImageSet) -> None:
        """Learn from every row once, and fit the temperature to the later half of the latest scores."""
        network, device, seed = self.network_, self.network_.device, self._draw_seed()
        generator = torch.Generator(device).manual_seed(seed)
        learner = Learner(network, generator=generator)
        if self._learner_state is not None:
            learner.load_state_dict(self._learner_state)
        size = min(self.batch_size, len(rows))
        plain: dict[str, Any] = {"augmentation": Augmentation(), "mean": (), "std": ()}
        batches = Batches(rows.to(device), batch_size=size, seed=seed, **plain)
        for samples, labels in batches.epoch(self.n_iter_, generator=generator):
            samples = in_memory_format(samples)
            with torch.no_grad():
                self._scored.append((network.fused_scores(samples).cpu(), labels.cpu()))
            self._statistics.restore(network)
            learner.step(samples, labels)
            # Statistics to predict with while running averages lag.
            seen = [*self._statistics.seen, (samples, labels)]
            lags = bool(lagging_norms(network, learner.steps))
            self._statistics.seen = [_latest(seen, REMEMBERED)] if lags else []
            self._statistics.replace(network, learner)
        self._learner_state = learner.state_dict()
        network.eval()
        self._scored = [_latest(self._scored, 2 * _RECENT)]
        ((scores, labels),) = self._scored
        count = -(-len(labels) // 2)
        found = fit_readout(scores[-count:], labels[-count:], frequencies=self.class_weight is None)
        network.temperature.fill_(found[0])
        network.offset.copy_(found[1])

    @torch.inference_mode()
    def _scores(self, X: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self, "network_")
        rows = validate_data(self, X, reset=False, dtype=_FLOATS, allow_nd=True)
        samples = self._scaled(self._as_samples(rows))
        network = self.network_
        if samples.ndim == 2:
            # In float64 a row's score does not depend on the rows beside it.
            network, samples = copy.deepcopy(network).double(), samples.double()
        parts = [
            network.fused_scores(in_memory_format(part.to(network.device))).double().cpu()
            for part in torch.split(samples, _ROWS_AT_ONCE)
        ]
        fused = torch.cat(parts)
        scores: NDArray[np.float64] = (fused + (network.temperature * network.offset).to(fused)).numpy()
        return scores


def _latest(pairs: list[tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    """Join pairs (N, …), (N,); keep the last ``count`` rows."""
    values, labels = (torch.cat(parts)[-count:] for parts in zip(*pairs, strict=True))
    return values, labels
