"""Data handed over in Python: tensors, a ``Dataset`` or a ``DataLoader``.

Shapes: N images (N, C, H, W), rows of a table (N, F), tokens (N, T) or other samples (N, …); labels (N,),
or (N, …) where every position has one.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trifecta.data.batches import epoch_order
from trifecta.data.images import ChannelStatistics, ImageData, ImageSet, channel_statistics, hold_out

Pairs = tuple[Tensor, Tensor]
# Images and labels, a Dataset of pairs of an image and a label, or a loader of batches of them.
Given = Pairs | Dataset[Any] | DataLoader[Any]

TEST_SHARE = 0.2
_COLLECTED_AT_ONCE = 256


class EpochOrder(Sampler[int]):
    """The order of an epoch, which follows from the seed and the epoch alone.

    Attributes:
        epoch: from 0.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.count, seed=self.seed, epoch=self.epoch).tolist())

    def __len__(self) -> int:
        return self.count


class LoaderBatches:
    """Training batches from a ``DataLoader``, as it makes them.

    Nothing is normalised or augmented here: that is for the loader's own transforms. A loader's own
    sampler decides the order; only :class:`EpochOrder` makes a resumed run repeat it.

    Args:
        loader: with a length, of batches of images (B, C, H, W) and labels (B,).
        device: where batches are to go.
    """

    def __init__(self, loader: DataLoader[Any], device: torch.device) -> None:
        self.loader, self.device = loader, device

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self.loader)

    @property
    def images_per_epoch(self) -> int:
        """Images in an epoch."""
        images = len(cast(Any, self.loader.dataset))
        size = self.loader.batch_size
        return images if size is None else min(images, len(self.loader) * size)

    def epoch(
        self, index: int, *, start: int = 0, generator: torch.Generator | None = None
    ) -> Iterator[Pairs]:
        """Return the batches of an epoch from ``start`` on; those before it are made and left out."""
        if isinstance(self.loader.sampler, EpochOrder):
            self.loader.sampler.epoch = index
        for images, labels in islice(iter(self.loader), start, None):
            yield images.to(self.device), labels.to(self.device)


def data_from(
    train: Given,
    *,
    validation: Given | None = None,
    test: Given | None = None,
    share: float = 0.1,
    classes: Sequence[str] | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> ImageData:
    """Make a data set of what a program has at hand.

    Images in uint8 are normalised by the training images' mean and standard deviation; floats and integer
    tokens are taken as they are. A ``Dataset`` is loaded anew in every epoch, shuffled, so that its
    transforms stay random.

    Args:
        train: to train on.
        validation: to choose on; None keeps a stratified ``share`` of training tensors for it, and for a
            ``Dataset`` or ``DataLoader`` nothing.
        test: to measure on; None keeps a stratified fifth of training tensors for it.
        share: of training tensors that is kept for validation, 0 … below 1.
        classes: names, in label order; None numbers them.
        batch_size: of a ``Dataset``.
        seed: of the order of a ``Dataset``.

    Raises:
        ValueError: no test images, a loader without a length, or images or labels of a wrong shape or type.
    """
    if isinstance(train, tuple):
        return _from_tensors(_image_set(train), validation, test, share, classes)
    loader = train if isinstance(train, DataLoader) else _shuffled(train, batch_size, seed)
    _check_length(loader)
    if test is None:
        raise ValueError("a Dataset or DataLoader needs test images beside it: give test=…")
    tested = _image_set(test)
    plain = _unchanged(tested)
    if tested.images.dtype == torch.uint8:
        raise ValueError(
            "a Dataset or DataLoader gives float images, normalised as you like: received uint8"
        )
    return ImageData(
        train=tested.select(torch.arange(0)),
        loader=loader,
        validation=None if validation is None else _image_set(validation),
        test=tested,
        classes=_names(classes, tested.labels),
        mean=plain.mean,
        std=plain.std,
    )


def _from_tensors(
    train: ImageSet,
    validation: Given | None,
    test: Given | None,
    share: float,
    classes: Sequence[str] | None,
) -> ImageData:
    names = _names(classes, train.labels)
    if test is None:
        train, tested = hold_out(train, TEST_SHARE)
    else:
        tested = _image_set(test)
    validated = None if validation is None else _image_set(validation)
    if validation is None and share:
        train, validated = hold_out(train, share)
    is_bytes = train.images.dtype == torch.uint8
    found = channel_statistics(train) if is_bytes else _unchanged(train)
    return ImageData(
        train=train, validation=validated, test=tested, classes=names, mean=found.mean, std=found.std
    )


def _image_set(given: Given) -> ImageSet:
    """All images at once, in order."""
    if isinstance(given, tuple):
        images, labels = given
    else:
        loader = given if isinstance(given, DataLoader) else DataLoader(given, _COLLECTED_AT_ONCE)
        batches = [(images, labels) for images, labels in loader]
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    fits = images.is_floating_point() or images.dtype == torch.int64
    is_sample = images.ndim > 1 and (fits or (images.dtype == torch.uint8 and images.ndim == 4))
    if not is_sample or labels.shape[:1] != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            "samples are images (N, C, H, W) in uint8, floats (N, …) or integer tokens (N, T), with labels "
            f"(N,) int64: received {images.dtype} {tuple(images.shape)} with {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    return ImageSet(images, labels)


def _unchanged(images: ImageSet) -> ChannelStatistics:
    """Return the statistics that leave images as they are."""
    channels = images.images.shape[1] if images.images.ndim == 4 else 0
    return ChannelStatistics((0.0,) * channels, (1.0,) * channels)


def _shuffled(dataset: Dataset[Any], batch_size: int, seed: int) -> DataLoader[Any]:
    order = EpochOrder(len(cast(Any, dataset)), seed)
    return DataLoader(dataset, batch_size, sampler=order, drop_last=True)


def _check_length(loader: DataLoader[Any]) -> None:
    try:
        steps = len(loader)
    except TypeError:
        steps = 0
    if not steps:
        raise ValueError(
            "a run needs to know the batches of an epoch: received a loader without a length, or of no "
            "batch; give a Dataset with a length and at least batch_size images"
        )


def _names(classes: Sequence[str] | None, labels: Tensor) -> tuple[str, ...]:
    count = int(labels.max()) + 1
    if classes is not None and len(classes) < count:
        raise ValueError(f"labels go up to {count - 1}: received {len(classes)} class names")
    return tuple(classes) if classes is not None else tuple(str(k) for k in range(count))
