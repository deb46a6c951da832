"""One epoch of images: shuffled and augmented for training, in order for evaluation."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import torch
from torch import Tensor

from trifecta.data.augment import Augmentation, augment, normalize
from trifecta.data.images import ImageSet


@dataclass(frozen=True, eq=False)
class Batches:
    """Shuffled, augmented batches of a training set.

    The last, incomplete batch of an epoch is dropped, so that all steps have the same shapes and weigh
    images alike. ``mean`` and ``std`` are of each channel, in 0..1; the ``seed`` is of the order.
    """

    images: ImageSet
    _: KW_ONLY
    batch_size: int
    augmentation: Augmentation = field(default_factory=Augmentation)
    mean: Sequence[float]
    std: Sequence[float]
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= len(self.images):
            received = f"received batch_size={self.batch_size}"
            raise ValueError(f"a batch has 1 to {len(self.images)} images, all to train on: {received}")

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch."""
        return len(self.images) // self.batch_size

    @property
    def images_per_epoch(self) -> int:
        """Number of images in an epoch's whole batches."""
        return self.steps_per_epoch * self.batch_size

    def epoch(
        self, index: int, *, start: int = 0, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, images ``(B, C, H, W)`` float32 and labels ``(B,)`` int64.

        The seed and the epoch's ``index``, from 0, decide the order. Nothing is drawn for batches before
        ``start``; the ``generator`` augments, on its own device.
        """
        count, device = len(self.images), generator.device
        order = epoch_order(count, seed=self.seed, epoch=index)
        chosen = order[start * self.batch_size : self.images_per_epoch]
        mirrored: Tensor | None = None
        if self.augmentation.alternating:  # half of the images in turn with the others
            first = np.random.default_rng([self.seed, 0, 1]).random(count) < 0.5
            mirrored = torch.from_numpy(first ^ (index % 2 == 1)).to(self.images.labels.device)
        # Indices lie where the images are, so that no batch waits for the device.
        for indices in chosen.to(self.images.labels.device).view(-1, self.batch_size):
            batch = self.images.select(indices)
            images = augment(
                batch.images.to(device),
                self.augmentation,
                mean=self.mean,
                std=self.std,
                generator=generator,
                mirrored=None if mirrored is None else mirrored[indices].to(device),
            )
            yield images, batch.labels.to(device)


@dataclass(frozen=True, kw_only=True)
class ReceivedBatches:
    """Placeholders for the batches that another process draws and sends."""

    steps_per_epoch: int
    images_per_epoch: int

    def epoch(
        self, index: int, *, start: int = 0, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Return as many empty batches as :meth:`Batches.epoch` has."""
        nothing = torch.empty(0, device=generator.device)
        return itertools.repeat((nothing, nothing), self.steps_per_epoch - start)


def epoch_order(count: int, *, seed: int, epoch: int) -> Tensor:
    """Return a permutation ``(count,)`` int64 on the CPU that depends on its arguments alone.

    NumPy's ``SeedSequence`` mixes seed and epoch: no two pairs of them have anything in common.
    """
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(count))


def evaluation_batches(
    images: ImageSet, batch_size: int, mean: Sequence[float], std: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return every image once, in order, ``(B, C, H, W)`` float32, with labels ``(B,)`` int64."""
    pieces = images.in_order(batch_size)
    return ((normalize(piece.images, mean, std), piece.labels) for piece in pieces)
