"""Labelled samples in memory or in a file, how they are divided, and what normalises them."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from trifecta.nn.shapes import SampleShape

# Images whose pixels are counted at a time.
_PIECE = 4096
# Samples in both splits: fewer happen to be in published sets too.
_SHARED, _SHARED_SHARE = 10, 0.01
# Rows of a table may be equal by chance; not if nearly all of those to train on differ.
_DIFFERENT_SHARE = 0.99
# Channels of two splits are not on one scale if their deviations differ by a larger factor, or the means of
# floats by more deviations; nor are tables if a quarter of the columns do.
_LARGEST_FACTOR, _LARGEST_SHIFT, _SHIFTED_SHARE, _LEAST_VALUES = 30.0, 4.0, 0.25, 10
# They may not be if all channels, or most columns, differ by less, mostly as one split alone is normalised.
# Ten images of CIFAR-10, Fashion-MNIST or MNIST differ from training by factors and shifts of 1.33 and 0.4.
_LIKELY_FACTOR, _LIKELY_SHIFT, _LEAST_IMAGES = 1.9, 1.0, 10
_LIKELY_SHARE, _LEAST_COLUMNS, _LEAST_ROWS = 0.75, 4, 30
_MOST_SAMPLED, _MOST_VALUES = 1024, 2**24


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels, on one device.

    Attributes:
        images: ``(N, C, H, W)`` uint8, floats ``(N, …)``, or integer tokens ``(N, T)``.
        labels: class indices ``(N,)`` int64, or ``(N, …)`` with one per position.
        rows: indices ``(N,)`` into ``images`` where these are a memory-mapped file; None in memory.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.labels.dtype == torch.int64, self.labels.dtype
        assert self.images.ndim == 4 or self.images.dtype != torch.uint8, self.images.shape
        assert len(self.labels) == len(self.images if self.rows is None else self.rows), self.labels.shape

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "ImageSet":
        """Move images in memory to ``device``; images in a file stay there."""
        return self if self.rows is not None else ImageSet(self.images.to(device), self.labels.to(device))

    def select(self, indices: Tensor | slice) -> "ImageSet":
        """Return the images at ``indices`` ``(M,)``, in that order, in memory."""
        rows = indices if self.rows is None else self.rows[indices]
        return ImageSet(self.images[rows], self.labels[indices])

    def part(self, indices: Tensor) -> "ImageSet":
        """Return the images at ``indices`` ``(M,)``, in that order, without reading any from a file."""
        if self.rows is None:
            return self.select(indices)
        return replace(self, labels=self.labels[indices], rows=self.rows[indices])

    def in_order(self, size: int) -> Iterator["ImageSet"]:
        """Yield all images in order, ``size`` at a time, in memory."""
        return (self.select(slice(start, start + size)) for start in range(0, len(self), size))


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of each channel, in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def require_scale(
    train: Tensor | ChannelStatistics, other: Tensor, where: str, *, refuses: bool = True
) -> None:
    """Check that samples have training's scale; of a table, in doubt or for predictions, only warn.

    ``train`` are training samples, or the statistics of training images of bytes.
    """
    count = max(1, min(_MOST_SAMPLED, _MOST_VALUES // max(1, other[0].numel())))
    is_table, is_bytes = other.ndim == 2, other.dtype == torch.uint8
    if other.dtype == torch.int64 or len(other) * other[0, 0].numel() < _LEAST_VALUES:
        return

    def moments(samples: Tensor) -> tuple[Tensor, Tensor]:
        some = samples[:: max(1, len(samples) // count)].movedim(1, 0).flatten(1)
        return torch.std_mean(some.float(), 1, correction=0)

    spread, mean = moments(other)
    if isinstance(train, ChannelStatistics):
        own, own_spread = (torch.tensor(values) * (255 if is_bytes else 1) for values in train)
        is_bytes = True
    else:
        own_spread, own = moments(train)
    # Bytes cannot be shifted and stay in range, and an image of a single colour has no spread.
    size, own_size = (spread.hypot(mean), own_spread.hypot(own)) if is_bytes else (spread, own_spread)
    factor = size / own_size
    factor = torch.where(size > 0, torch.maximum(factor, 1 / factor), 0)
    shift = (mean - own).abs() / own_spread
    is_shifted, is_far = shift > _LARGEST_SHIFT, factor > _LARGEST_FACTOR
    if not is_bytes:
        is_far = is_shifted if is_table else is_shifted | is_far
    is_off = (shift > _LIKELY_SHIFT) | (factor > _LIKELY_FACTOR)
    (is_far, is_off), count = (x & (own_size > 0) for x in (is_far, is_off)), int((own_size > 0).sum())
    is_certain = int(is_far.sum()) >= (_SHIFTED_SHARE * len(is_far) if is_table else max(1, count))
    is_likely = int(is_off.sum()) >= (
        max(_LEAST_COLUMNS, _LIKELY_SHARE * count) if is_table else max(1, count)
    )
    is_likely &= not is_bytes and len(other) >= (_LEAST_ROWS if is_table else _LEAST_IMAGES)
    if not is_certain and not is_likely:
        return
    k = int((is_far if is_certain else is_off).nonzero()[0])
    told = (
        f"{where} {'is' if is_certain else 'may be'} on another scale than train: "
        f"{'column' if is_table else 'channel'} {k} is {mean[k]:.3g} ± {spread[k]:.3g}, and "
        f"{own[k]:.3g} ± {own_spread[k]:.3g} in train; scale both alike"
    )
    if is_certain and refuses and not is_table:
        raise ValueError(told)
    warnings.warn(told, stacklevel=3)


def sample_digests(images: ImageSet) -> Iterator[str]:
    """Yield a digest of each sample's values, in order."""
    for piece in images.in_order(_PIECE):
        for sample in piece.images.cpu().numpy():
            yield blake2b(sample.tobytes(), digest_size=8).hexdigest()


def warn_of_shared(train: ImageSet, test: ImageSet) -> None:
    """Warn if test samples are training samples too, unless they stay in a file."""
    if train.rows is not None or test.rows is not None:
        return
    known, kind = set(sample_digests(train)), "images" if train.images.ndim == 4 else "samples"
    count = sum(own in known for own in sample_digests(test))
    is_chance = kind == "samples" and len(known) < _DIFFERENT_SHARE * len(train)
    if not is_chance and count >= max(_SHARED, _SHARED_SHARE * len(test)):
        told = f"{count:,} of {len(test):,} test {kind} are training {kind} too, value by value"
        warnings.warn(f"{told}: the test accuracy is too high", stacklevel=3)


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """A data set, ready for training.

    Attributes:
        train: training samples; empty where a loader makes the batches.
        validation: samples to choose on; None if there are none.
        test: samples to measure a result on, once.
        classes: class names, in label order.
        mean: mean of each channel, in 0..1; empty where samples are used as they are.
        std: standard deviation of each channel, above 0 and up to 1; likewise.
        loader: maker of training batches, in place of ``train``.
        loader_counts: number of its samples per class, where known.
        grey_range: 16-bit greys of training images that became 0 and 255; None for images of 8 bits.
        rows: identity of the source's training rows and labels; empty for data without a source.
    """

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    loader: DataLoader[Any] | None = None
    loader_counts: tuple[int, ...] | None = None
    grey_range: tuple[int, int] | None = None
    rows: str = ""

    @property
    def sample_shape(self) -> SampleShape:
        """Shape of one sample, (C, H, W) for images."""
        return tuple(self.test.images.shape[1:])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def counts(self) -> dict[str, tuple[int, ...] | int]:
        """Number of samples by split and class (K,), or by split where classes are unknown or many."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        found: dict[str, tuple[int, ...] | int] = {
            name: len(images)
            if images.labels.ndim > 1
            else tuple(torch.bincount(images.labels.cpu(), minlength=self.num_classes).tolist())
            for name, images in splits.items()
            if images is not None
        }
        if self.loader is not None:
            found["train"] = self.loader_counts or len(cast(Any, self.loader.dataset))
        return found

    def to(self, device: torch.device | str) -> "ImageData":
        """Move all splits to ``device``."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), validation=validation, test=self.test.to(device))


def stratified_split(labels: Tensor, fraction: float, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return ascending indices of the samples kept and of ``round(fraction · N)`` held out, on the CPU.

    Every class gives the whole part of its share, and those with the largest remainders give one more, but
    never their last sample; the ``seed`` is of the choice within each. Holding out none is a ValueError.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"a fraction to hold out is above 0 and below 1, got {fraction}")
    _, classes, counts = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
    exact = counts.double() * fraction
    shares = exact.floor().long()
    left = round(fraction * len(labels)) - int(shares.sum())
    shares[(exact - shares).argsort(descending=True, stable=True)[:left]] += 1
    shares = torch.minimum(shares, counts - 1)
    if shares.sum() == 0:
        told = f"{fraction} of {len(labels)} images in {len(counts)} classes holds out none"
        raise ValueError(f"{told}, as every class keeps one: use more images, or a larger share")
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[classes[shuffled].argsort(stable=True)]
    rank_in_class = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    held_out = rank_in_class < shares.repeat_interleave(counts)
    return by_class[~held_out].sort().values, by_class[held_out].sort().values


def hold_out(images: ImageSet, fraction: float, *, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Divide images by :func:`stratified_split`, or in their order where positions have labels."""
    if images.labels.ndim > 1:
        count = len(images) - round(fraction * len(images))
        kept, held_out = torch.arange(count), torch.arange(count, len(images))
    else:
        kept, held_out = stratified_split(images.labels, fraction, seed=seed)
    return images.part(kept), images.part(held_out)


def channel_statistics(images: ImageSet) -> ChannelStatistics:
    """Return the exact mean and standard deviation of each channel of uint8 images, in 0..1.

    The deviation is at least 1/255, so that a constant channel can be divided by it.
    """
    counts = torch.zeros(images.images.shape[1], 256, dtype=torch.int64)
    for piece in images.in_order(_PIECE):
        for channel, values in zip(counts, piece.images.unbind(1), strict=True):
            channel += torch.bincount(values.flatten(), minlength=256).cpu()
    levels = torch.arange(256, dtype=torch.float64) / 255
    weights = counts.double() / counts.sum(1, keepdim=True)
    mean = (weights * levels).sum(1)
    std = (weights * (levels - mean[:, None]) ** 2).sum(1).sqrt().clamp(min=1 / 255)
    return ChannelStatistics(tuple(mean.tolist()), tuple(std.tolist()))
