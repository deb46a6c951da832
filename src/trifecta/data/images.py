"""Names of splits, and dividing a labelled set in two, class by class."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from trifecta.nn.shapes import SampleShape

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
"""Splits by the folders that hold them, in lower case."""


def split_of(name: str) -> str:
    """The split that a name of one stands for: ``Val`` is ``validation``; any other name is itself."""
    return SPLITS.get(name.lower(), name)


def stratified_split(labels: Tensor, fraction: float, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Hold out ``fraction`` of the samples, the same fraction of every class as far as possible.

    ``round(fraction · N)`` samples are held out. Every class gives the whole part of its share,
    and the classes with the largest remainders give one more. A class never gives its last
    sample, so that fewer are held out where classes are tiny.

    Args:
        labels: ``(N,)`` int64.
        fraction: above 0 and below 1.
        seed: of the choice within each class; the same labels and seed give the same split.

    Returns:
        The indices kept and those held out, each ascending, on the CPU.

    Raises:
        ValueError: ``fraction`` is out of its range, or would hold out nothing.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"a fraction to hold out is above 0 and below 1, got {fraction}")
    _, classes, counts = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
    shares = _shares(counts, fraction)
    if shares.sum() == 0:
        raise ValueError(
            f"{fraction} of {len(labels)} images in {len(counts)} classes holds out none, as every "
            "class keeps one image: use more images, or a larger share"
        )
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[classes[shuffled].argsort(stable=True)]
    rank_in_class = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    held_out = rank_in_class < shares.repeat_interleave(counts)
    return by_class[~held_out].sort().values, by_class[held_out].sort().values


def _shares(counts: Tensor, fraction: float) -> Tensor:
    """Count the samples that each class of ``counts`` (K,) gives, by largest remainders."""
    exact = counts.double() * fraction
    shares = exact.floor().long()
    left = round(fraction * int(counts.sum())) - int(shares.sum())
    shares[(exact - shares).argsort(descending=True, stable=True)[:left]] += 1
    return torch.minimum(shares, counts - 1)


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
