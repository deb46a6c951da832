"""A scikit-learn classifier that learns locally.

Shapes: N rows, F features or images (C, H, W), K classes.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from trifecta._utils.devices import in_memory_format, resolve_device
from trifecta._utils.extras import require
from trifecta.calibration import fit_temperature, probabilities
from trifecta.data import Augmentation, Batches, ImageData, ImageSet
from trifecta.data.images import hold_out
from trifecta.learner import Learner
from trifecta.method import Method
from trifecta.methods import get_method
from trifecta.network import LocalNetwork, build_network
from trifecta.nn.networks import NetworkBuilder
from trifecta.nn.shapes import SampleShape
from trifecta.statistics import REMEMBERED, estimate_statistics, lagging_norms, set_statistics
from trifecta.training import EarlyStopping, RunConfig, Trainer
from trifecta.training.run import calibrate

require("sklearn", install='"trifecta[sklearn]"')
from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.utils import check_random_state  # noqa: E402
from sklearn.utils.class_weight import compute_class_weight  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402

AUTO = "auto"
# Units of a block for a table, and the share of ``small``'s channels for images.
_UNITS, _WIDTH = 128, 0.25
_MLP_UNITS = 2000
_ROWS_AT_ONCE = 512
# Rows whose scores give the temperature of what is learnt bit by bit.
_RECENT = 1000


class TrifectaClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose blocks learn locally, for tables (N, F) and images.

    Columns of a table, and channels of images, are brought to mean 0 and deviation 1 first.

    Args:
        method: a name, as in ``trifecta list``, or a :class:`trifecta.Method`.
        network: a name, as in ``trifecta list``, or a builder of your own; ``auto`` is ``mlp`` for tables
            and ``small`` for images.
        width: multiplies the network's units or channels; None is 128 units a block for tables, and a
            quarter of the channels for images.
        epochs: passes over the rows, at most.
        batch_size: rows a step; all of them where there are fewer.
        learning_rate: at the start; None is the method's own.
        image_shape: (C, H, W) of images that come as rows (N, C·H·W); images (N, C, H, W) need none.
        early_stopping: whether to hold rows out, stop when their accuracy has not improved for ``patience``
            epochs, and keep the weights of the best epoch.
        validation_fraction: the stratified share that is held out for that.
        patience: in epochs.
        class_weight: what rows of each class weigh in the loss: a dictionary by label (1 for the others),
            ``balanced``, or None for the same.
        random_state: a seed, a ``numpy.random.RandomState``, or None for another seed every time.
        device: ``cpu``, ``auto``, or any name that PyTorch knows.

    Attributes:
        classes_: labels, sorted.
        network_: the trained :class:`trifecta.LocalNetwork`.
        history_: a record of every epoch: losses by block, and validation accuracy.
        n_iter_: epochs done.
        n_features_in_: columns, or channels of images.
    """

    def __init__(
        self,
        method: str | Method = "superfecta",
        network: str | NetworkBuilder = AUTO,
        *,
        width: float | None = None,
        epochs: int = 50,
        batch_size: int = 32,
        learning_rate: float | None = None,
        image_shape: tuple[int, int, int] | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        class_weight: dict[Any, float] | str | None = None,
        random_state: Any = None,
        device: str = "cpu",
    ) -> None:
        self.method, self.network, self.width = method, network, width
        self.epochs, self.batch_size, self.learning_rate = epochs, batch_size, learning_rate
        self.image_shape, self.early_stopping = image_shape, early_stopping
        self.validation_fraction, self.patience = validation_fraction, patience
        self.class_weight, self.random_state, self.device = class_weight, random_state, device

    def fit(self, X: ArrayLike, y: ArrayLike) -> TrifectaClassifier:  # noqa: N803
        """Train from the beginning.

        Args:
            X: (N, F), or images (N, C, H, W).
            y: (N,), labels of any type.

        Raises:
            ValueError: values that are not finite, fewer than two classes, or settings that no run can use.
        """
        samples, y = self._validated(X, y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self._learn_scale(samples)
        data = self._data(self._scaled(samples), torch.from_numpy(labels.astype(np.int64)))
        config = replace(self._config(data), class_weights=self._class_weights(y))
        callbacks = [EarlyStopping(self.patience)] if self.early_stopping else []
        trainer = Trainer(config, data=data, callbacks=callbacks)
        trainer.fit()
        calibrate(trainer, repeat_up_to=len(data.train))
        self.network_: LocalNetwork = trainer.network.eval()
        self.history_, self.n_iter_ = trainer.history, len(trainer.history)
        self._learner_state: dict[str, Any] | None = None
        self._scored: list[tuple[Tensor, Tensor]] = []
        self._forget()
        return self

    def partial_fit(
        self,
        X: ArrayLike,  # noqa: N803
        y: ArrayLike,
        classes: ArrayLike | None = None,
    ) -> TrifectaClassifier:
        """Learn from more rows, each once, at a constant rate; goes on from what was learnt before.

        Columns keep the scale of the first rows.

        Args:
            X: (N, F), or images (N, C, H, W).
            y: (N,).
            classes: all labels that will ever come; needed at the first call.

        Raises:
            ValueError: no classes at the first call, or others than before.
        """
        first = not hasattr(self, "network_")
        samples, y = self._validated(X, y, reset=first)
        if first:
            self._begin(samples, classes)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes stay those of the first call, {self.classes_}: received {classes}")
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y has classes that the first call did not name: {unknown}")
        labels = torch.from_numpy(np.searchsorted(self.classes_, y).astype(np.int64))
        self._step(self._scaled(samples), labels)
        self.n_iter_ += 1
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Class scores (N, K); of two classes the second's less the first's, (N,)."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Probabilities (N, K): softmax of the class scores over the temperature that ``fit`` found.

        It is found on the rows that ``early_stopping`` holds out; without them on a fifth of the rows,
        scored by a network that was trained on the rest, which nearly doubles the time of a fit.
        ``partial_fit`` scores rows just before it learns from them, and takes the latest.
        """
        scores = torch.from_numpy(self._scores(X))
        shares: NDArray[np.float64] = probabilities(scores, float(self.network_.temperature)).numpy()
        return shares

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Labels (N,)."""
        best = self._scores(X).argmax(1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def _validated(self, X: ArrayLike, y: ArrayLike, *, reset: bool = True) -> tuple[Tensor, NDArray[Any]]:  # noqa: N803
        rows, targets = validate_data(
            self, X, y, reset=reset, dtype=np.float32, allow_nd=True, ensure_min_samples=2
        )
        check_classification_targets(targets)
        return self._as_samples(rows), targets

    def _as_samples(self, rows: NDArray[np.float32]) -> Tensor:
        samples = torch.from_numpy(np.array(rows, dtype=np.float32))
        if self.image_shape is None or samples.ndim == 4:
            return samples
        if samples[0].numel() != math.prod(self.image_shape):
            raise ValueError(
                f"images {self.image_shape} have {math.prod(self.image_shape)} values each: received "
                f"rows of {samples[0].numel()}"
            )
        return samples.view(-1, *self.image_shape)

    def _learn_scale(self, samples: Tensor) -> None:
        """Take the mean and deviation of each column, or each channel of images."""
        dims = [0, *range(2, samples.ndim)]
        wide = samples.double()
        self.mean_ = wide.mean(dims, keepdim=True)[0].float()
        deviation = wide.std(dims, correction=0, keepdim=True)[0]
        # A column that never changes stays 0.
        self.scale_ = torch.where(deviation > 1e-12, deviation, 1.0).float()

    def _scaled(self, samples: Tensor) -> Tensor:
        return (samples - self.mean_) / self.scale_

    def _data(self, samples: Tensor, labels: Tensor) -> ImageData:
        if len(self.classes_) < 2:
            raise ValueError("a classifier needs at least 2 classes: received 1 class in y")
        train, validation = ImageSet(samples, labels), None
        if self.early_stopping:
            train, validation = hold_out(train, self.validation_fraction)
        names = tuple(str(label) for label in self.classes_)
        return ImageData(train=train, validation=validation, test=train, classes=names, mean=(), std=())

    def _config(self, data: ImageData) -> RunConfig:
        method = self._method()
        if self.learning_rate is not None:
            optimizer = replace(method.optimizer, learning_rate=self.learning_rate)
            method = replace(method, optimizer=optimizer)
        network, width = self._network(data.sample_shape)
        return RunConfig(
            method=method,
            network=network,
            width=width,
            epochs=self.epochs,
            batch_size=min(self.batch_size, len(data.train)),
            seed=self._seed(),
            device=self.device,
            precision="fp32",
        )

    def _method(self) -> Method:
        return self.method if isinstance(self.method, Method) else get_method(self.method)

    def _network(self, sample_shape: SampleShape) -> tuple[str | NetworkBuilder, float]:
        is_image = len(sample_shape) == 3
        network = ("small" if is_image else "mlp") if self.network == AUTO else self.network
        if self.width is not None:
            return network, self.width
        return network, _UNITS / _MLP_UNITS if network == "mlp" else _WIDTH

    def _class_weights(self, y: NDArray[Any] | None) -> tuple[float, ...] | None:
        """Return the weight of each class, (K,), balanced by ``y``, (N,)."""
        if self.class_weight is None:
            return None
        if y is None and isinstance(self.class_weight, str):
            raise ValueError(
                f"partial_fit knows no rows but those that it is given: received class_weight "
                f"{self.class_weight!r}; give a dictionary"
            )
        y = self.classes_ if y is None else y
        weights = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        return tuple(float(weight) for weight in weights)

    def _seed(self) -> int:
        draw = check_random_state(self.random_state)
        return int(draw.randint(np.iinfo(np.int32).max))

    def _begin(self, samples: Tensor, classes: ArrayLike | None) -> None:
        """Build an untrained network for rows such as these."""
        if classes is None:
            raise ValueError("the first call of partial_fit needs all classes: give classes=…")
        self.classes_ = np.unique(classes)
        self._learn_scale(samples)
        config = self._config(
            self._data(self._scaled(samples), torch.zeros(len(samples), dtype=torch.int64))
        )
        optimizer = replace(config.method.optimizer, decay="constant", freeze_from=1.0)
        self.network_ = build_network(
            replace(config.method, optimizer=optimizer),
            config.network,
            sample_shape=tuple(samples.shape[1:]),
            num_classes=len(self.classes_),
            width=config.width,
            seed=config.seed,
        ).to(resolve_device(self.device))
        weights = self._class_weights(None)
        if weights is not None:
            device = next(self.network_.parameters()).device
            self.network_.weigh_classes(torch.tensor(weights, device=device))
        self.history_, self.n_iter_, self._learner_state, self._scored = [], 0, None, []
        self._forget()

    def _forget(self) -> None:
        """Begin to remember rows anew, for the statistics of batch normalisations."""
        self._seen: tuple[Tensor, Tensor] | None = None
        self._running_statistics: dict[str, Tensor] = {}

    def _step(self, samples: Tensor, labels: Tensor) -> None:
        """Learn from every row once."""
        device = next(self.network_.parameters()).device
        seed = self._seed()
        generator = torch.Generator(device).manual_seed(seed)
        learner = Learner(self.network_, generator=generator)
        if self._learner_state is not None:
            learner.load_state_dict(self._learner_state)
        batches = Batches(
            ImageSet(samples, labels).to(device),
            batch_size=min(self.batch_size, len(samples)),
            augmentation=Augmentation(),
            mean=(),
            std=(),
            seed=seed,
        )
        for rows, targets in batches.epoch(self.n_iter_, generator=generator):
            self._score(rows, targets)
            set_statistics(self.network_, self._running_statistics)
            learner.step(in_memory_format(rows), targets)
            self._estimate_statistics(rows, targets, learner.steps)
        self._learner_state = learner.state_dict()
        self.network_.eval()
        self._fit_temperature()

    @torch.no_grad()
    def _score(self, rows: Tensor, targets: Tensor) -> None:
        """Score rows that are about to be learnt, which the network has not seen."""
        self._scored.append((self.network_.fused_scores(in_memory_format(rows)).cpu(), targets.cpu()))

    def _fit_temperature(self) -> None:
        """Fit the temperature to the later half of the scores so far, at most the latest thousand."""
        scores, targets = (torch.cat(parts) for parts in zip(*self._scored, strict=True))
        self._scored = [(scores[-2 * _RECENT :], targets[-2 * _RECENT :])]
        count = min(_RECENT, -(-len(targets) // 2))
        self.network_.temperature.fill_(fit_temperature(scores[-count:], targets[-count:]))

    def _estimate_statistics(self, samples: Tensor, labels: Tensor, steps: int) -> None:
        """Estimate the statistics of batch normalisations on the latest rows, as long as averages lag."""
        self._running_statistics = {}
        if not lagging_norms(self.network_, steps):
            self._seen = None
            return
        before = self._seen or (samples[:0], labels[:0])
        rows, targets = torch.cat([before[0], samples]), torch.cat([before[1], labels])
        self._seen = rows[-REMEMBERED:], targets[-REMEMBERED:]
        self._running_statistics = estimate_statistics(self.network_, [self._seen], steps=steps)

    @torch.inference_mode()
    def _scores(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        check_is_fitted(self, "network_")
        rows = validate_data(self, X, reset=False, dtype=np.float32, allow_nd=True)
        samples = self._scaled(self._as_samples(rows))
        network = self.network_
        if samples.ndim == 2:
            # The score of a row, to more digits than anyone reads, does not depend on the rows beside it.
            network, samples = copy.deepcopy(network).double(), samples.double()
        device = next(network.parameters()).device
        parts = [
            network.fused_scores(in_memory_format(part.to(device))).double().cpu()
            for part in torch.split(samples, _ROWS_AT_ONCE)
        ]
        scores: NDArray[np.float64] = torch.cat(parts).numpy()
        return scores
