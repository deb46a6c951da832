"""Decoded images (or other samples) with their labels, and the splits of a data set.

Shapes: N images, C channels (1 grey, 3 RGB), H rows, W columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from trifecta.data.splits import stratified_split
from trifecta.nn.shapes import SampleShape

# Images of which a statistic is taken at a time.
_PIECE = 4096


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels, on one device.

    Attributes:
        images: ``(N, C, H, W)`` uint8, or used as they are: floating ``(N, …)``, integer tokens ``(N, T)``.
        labels: ``(N,)`` int64, indices into the classes; ``(N, …)`` where every position has one.
        rows: ``(N,)``, where ``images`` are many in a file: these ones, in this order. They stay there, on
            the CPU, until they are selected.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        kinds = (torch.uint8, torch.int64)
        assert self.images.dtype in kinds or self.images.is_floating_point(), self.images.dtype
        assert self.labels.dtype == torch.int64, self.labels.dtype
        assert self.images.ndim == 4 or self.images.dtype != torch.uint8, self.images.shape
        assert len(self.labels) == len(self.images if self.rows is None else self.rows), self.labels.shape

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same images on ``device``, unless they stay in a file."""
        return self if self.rows is not None else ImageSet(self.images.to(device), self.labels.to(device))

    def select(self, indices: Tensor) -> "ImageSet":
        """The images at ``indices``, ``(M,)`` int64, in that order, in memory."""
        rows = indices if self.rows is None else self.rows[indices]
        return ImageSet(self.images[rows], self.labels[indices])

    def part(self, indices: Tensor) -> "ImageSet":
        """The same, but images in a file stay there."""
        if self.rows is None:
            return self.select(indices)
        return replace(self, labels=self.labels[indices], rows=self.rows[indices])

    def in_order(self, size: int) -> Iterator["ImageSet"]:
        """All of them in order, ``size`` at a time, in memory."""
        if self.rows is None:
            for images, labels in zip(
                torch.split(self.images, size), torch.split(self.labels, size), strict=True
            ):
                yield ImageSet(images, labels)
            return
        for indices in torch.split(torch.arange(len(self)), size):
            yield self.select(indices)


def hold_out(images: ImageSet, fraction: float) -> tuple[ImageSet, ImageSet]:
    """Keep some images and hold out a stratified ``fraction`` of them, see :func:`stratified_split`.

    Where every position has a label, the last ones are held out, so that texts do not overlap.
    """
    if images.labels.ndim > 1:
        count = len(images) - round(fraction * len(images))
        return images.part(torch.arange(count)), images.part(torch.arange(count, len(images)))
    kept, held_out = stratified_split(images.labels, fraction)
    return images.part(kept), images.part(held_out)


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """A data set, ready for training.

    Attributes:
        train: what weights are trained on; nothing where a loader makes the batches.
        validation: what choices are made on; None if nothing is kept for that.
        test: what a result is measured on, once.
        classes: the name of every label.
        mean: to normalise each channel by, in 0..1; empty where samples are used as they are.
        std: standard deviation to normalise each channel by, above 0 and up to 1; likewise.
        loader: makes training batches by its own rules, in place of ``train``.
        loader_counts: the number of its samples by class, where that is known.
        grey_range: the greys of 16-bit training images that became 0 and 255; None where they had 8 bits.
        rows: stands for the rows of the source's training split and their labels; empty where it has none.
    """

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    loader: DataLoader[Any] | None = None
    loader_counts: tuple[int, ...] | None = None
    grey_range: tuple[int, int] | None = None
    rows: str = ""

    @property
    def sample_shape(self) -> SampleShape:
        """(C, H, W) of every image; the shape of any other sample."""
        return tuple(self.test.images.shape[1:])

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def counts(self) -> dict[str, tuple[int, ...] | int]:
        """The number of samples by split and class, (K,).

        It is one number where a loader's classes are unknown, and where positions have labels.
        """
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        found: dict[str, tuple[int, ...] | int] = {}
        for name, images in splits.items():
            if images is None:
                continue
            by_class = torch.bincount(images.labels.flatten().cpu(), minlength=self.num_classes)
            found[name] = tuple(by_class.tolist()) if images.labels.ndim == 1 else len(images)
        if self.loader is not None:
            found["train"] = self.loader_counts or len(cast(Any, self.loader.dataset))
        return found

    def to(self, device: torch.device | str) -> "ImageData":
        """The same data on ``device``."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), validation=validation, test=self.test.to(device))


class ChannelStatistics(NamedTuple):
    """The mean and the standard deviation of each channel, in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def channel_statistics(images: ImageSet) -> ChannelStatistics:
    """Mean and standard deviation of each channel of uint8 images, in 0..1.

    Both come exactly from the 256 counts of a channel. The deviation is at least 1/255, one grey
    level, so that a constant channel can be divided by it.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for counts in _level_counts(images):
        weights = counts.double() / counts.sum()
        mean = (weights * levels).sum()
        variance = (weights * (levels - mean) ** 2).sum()
        means.append(mean.item())
        deviations.append(max(variance.sqrt().item(), 1 / 255))
    return ChannelStatistics(tuple(means), tuple(deviations))


def _level_counts(images: ImageSet) -> Tensor:
    """Count the pixels of each channel and grey level, (C, 256), on the CPU."""
    counts = torch.zeros(images.images.shape[1], 256, dtype=torch.int64)
    for piece in images.in_order(_PIECE):
        for channel, values in zip(counts, piece.images.unbind(1), strict=True):
            channel += torch.bincount(values.flatten(), minlength=256).cpu()
    return counts
