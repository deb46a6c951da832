"""Pairs made of images alone, for training without labels.

Shapes: B images (B, C, H, W), or other samples alike. A pair's positive is an image as it is (or with
itself), its negative an image mixed with another one of the batch.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImagePairs(nn.Module, ABC):
    """Pairs of images. Inherit from it, and give the class to ``Method(label_input=…)``.

    Attributes:
        at_every_block: whether each block receives new pairs, which :meth:`pairs_at` makes of the
            previous block's output for the positives.
    """

    at_every_block: bool = False

    @abstractmethod
    def pairs(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the first block's input, (B, …) → (2B, …), positives first."""

    def pairs_at(self, images: Tensor, offset: Tensor) -> Tensor:
        """Return a later block's input, (B, …), (1,) → (2B, …): image i meets ``(i + offset) mod B``."""
        raise NotImplementedError(f"{type(self).__name__} makes no new pairs at a block")

    @abstractmethod
    def neutral(self, images: Tensor) -> Tensor:
        """Return a block's input for a prediction, (B, …) → (B, …): the positives."""


class OtherImage(ImagePairs):
    """Positive ``(x, x)``, negative ``(x, x')`` with x' another image of the batch, in every block.

    Two images enter through the same weights, so a block sees the sum of the :func:`standardized_pair`.
    Source: the published code of Chen et al. 2025 (SCFF, Nature Communications 16:5978).
    """

    at_every_block = True

    def pairs(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return pairs with one random offset for the whole batch."""
        return self.pairs_at(images, draw_offsets(1, len(images), generator, images.device))

    def pairs_at(self, images: Tensor, offset: Tensor) -> Tensor:
        """Return pairs of image i and image ``(i + offset) mod B``."""
        unit = standardized(images)
        return torch.cat([standardized_pair(unit, unit), standardized_pair(unit, _ahead(unit, offset))])

    def neutral(self, images: Tensor) -> Tensor:
        """Return each image with itself."""
        unit = standardized(images)
        return standardized_pair(unit, unit)


class MaskedMix(ImagePairs):
    """Positive ``x``, negative ``mask · x + (1 − mask) · x'``: an image locally, but not as a whole.

    Source: Hinton 2022, section 3.2.
    """

    def pairs(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return images and mixtures."""
        mask = region_masks(images, generator)
        return torch.cat([images, mask * images + (1 - mask) * another(images, generator)])

    def neutral(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images


IMAGE_PAIRS: dict[str, type[ImagePairs]] = {"other-image": OtherImage, "masked-mix": MaskedMix}
# Number of times that a random mask is blurred.
BLURS = 6


def draw_offsets(
    count: int, images: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Draw ``count`` offsets, uniform in 1 … images − 1, (count,) int64; 0 for a single image."""
    if images == 1:
        return torch.zeros(count, dtype=torch.int64, device=device)
    return torch.randint(1, images, (count,), generator=generator, device=device)


def another(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw for every image another one of the batch, uniformly, (B, …) → (B, …); itself if it is alone."""
    return _ahead(images, draw_offsets(len(images), len(images), generator, images.device))


def _ahead(images: Tensor, offset: Tensor) -> Tensor:
    """Return image ``(i + offset) mod B`` for every i."""
    return images[(torch.arange(len(images), device=images.device) + offset) % len(images)]


def standardized(x: Tensor, eps: float = 1e-10) -> Tensor:
    """Scale each sample to zero mean and unit deviation (n − 1) over all features, (N, …) → (N, …)."""
    wide = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(1, keepdim=True)
    return (centred / (eps + centred.std(1, keepdim=True))).view(x.shape)


def standardized_pair(x: Tensor, other: Tensor) -> Tensor:
    """Return the sum of two samples that are standardised as one, (N, …), (N, …) → (N, …)."""
    both = standardized(torch.stack([x, other], dim=1))
    return both[:, 0] + both[:, 1]


def region_masks(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw masks of zeros and ones in large regions, (B, C, H, W) → (B, 1, H, W); other maps alike.

    Random bits are blurred with [1/4, 1/2, 1/4] along every side several times, and cut at their mean.
    Columns of a table (B, F) have no neighbours: their masks (B, F) are random bits.
    """
    positions = images.shape[2:]
    shape = (len(images), 1, *positions) if positions else images.shape
    bits = torch.randint(2, shape, generator=generator, device=images.device).to(images.dtype)
    if not positions:
        return bits
    # Filled on the device: copying it there would wait.
    line = bits.new_full((1, 1, 3), 0.25)
    line[..., 1] = 0.5
    for _ in range(BLURS):
        for side in range(2, bits.ndim):
            turned = bits.movedim(side, -1)
            flat = F.pad(turned.reshape(-1, 1, turned.shape[-1]), (1, 1), mode="replicate")
            bits = F.conv1d(flat, line).view(turned.shape).movedim(-1, side)
    return (bits > bits.flatten(1).mean(1).view(-1, *[1] * (bits.ndim - 1))).to(images.dtype)
