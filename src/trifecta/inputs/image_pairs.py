"""Pairs made of images alone, for training without labels.

Shapes: B images (B, C, H, W). A pair's positive is an image as it is (or with itself), its negative is an
image mixed with another one of the batch.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLURS = 6


class ImagePairs(nn.Module, ABC):
    """Makes positives and negatives of a batch of images.

    Inherit from it in a class of your own and give the class to ``Method(label_input=…)``.

    Attributes:
        at_every_block: whether each block receives new pairs, made by :meth:`pairs_at` of what the block
            before passed on of the positives.
    """

    at_every_block: bool = False

    @abstractmethod
    def pairs(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, C, H, W) → (2B, C, H, W), positives first."""

    def pairs_at(self, images: Tensor, offset: Tensor) -> Tensor:
        """(B, …) → (2B, …); image i meets image ``(i + offset) mod B``, offset (1,)."""
        raise NotImplementedError(f"{type(self).__name__} makes no new pairs at a block")

    @abstractmethod
    def neutral(self, images: Tensor) -> Tensor:
        """Return the network's input for a prediction: the positives."""


class OtherImage(ImagePairs):
    """Positive ``(x, x)``, negative ``(x, x')`` with x' another image of the batch, in every block.

    Two images enter through the same weights, so a block sees their sum: ``a + b`` where (a, b) is the pair
    :func:`standardized_pair` makes of standardised images. Source: the published code of Chen et al. 2025,
    *Self-Contrastive Forward-Forward algorithm* (Nature Communications 16:5978).
    """

    at_every_block = True

    def pairs(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, …) → (2B, …); one offset for the whole batch is drawn."""
        return self.pairs_at(images, draw_offsets(1, len(images), generator, images.device))

    def pairs_at(self, images: Tensor, offset: Tensor) -> Tensor:
        """(B, …) → (2B, …); image i meets image ``(i + offset) mod B``, offset (1,)."""
        unit = standardized(images)
        order = (torch.arange(len(images), device=images.device) + offset) % len(images)
        return torch.cat([standardized_pair(unit, unit), standardized_pair(unit, unit[order])])

    def neutral(self, images: Tensor) -> Tensor:
        """Each image with itself."""
        unit = standardized(images)
        return standardized_pair(unit, unit)


def draw_offsets(
    count: int, images: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """``count`` offsets, uniform in 1 … images − 1, (count,) int64; a single image meets itself."""
    if images == 1:
        return torch.zeros(count, dtype=torch.int64, device=device)
    return torch.randint(1, images, (count,), generator=generator, device=device)


def standardized(x: Tensor, eps: float = 1e-10) -> Tensor:
    """Zero mean and unit deviation (n − 1) of each sample over all its features, (N, …) → (N, …)."""
    wide = (x.float() if x.dtype.itemsize < 4 else x).flatten(1)
    centred = wide - wide.mean(1, keepdim=True)
    return (centred / (eps + centred.std(1, keepdim=True))).view(x.shape)


def standardized_pair(x: Tensor, other: Tensor) -> Tensor:
    """The sum of two maps that are standardised as one, (N, …), (N, …) → (N, …)."""
    both = standardized(torch.stack([x, other], dim=1))
    return both[:, 0] + both[:, 1]


class MaskedMix(ImagePairs):
    """Positive ``x``, negative ``mask · x + (1 − mask) · x'``: no image far apart, like one near by.

    Masks have large regions of ones and zeros: random bits, blurred with [1/4, 1/2, 1/4] in both
    directions several times, and cut at their mean. Source: Hinton 2022, section 3.2.
    """

    def pairs(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, C, H, W) → (2B, C, H, W)."""
        mask = region_masks(images, generator)
        return torch.cat([images, mask * images + (1 - mask) * another(images, generator)])

    def neutral(self, images: Tensor) -> Tensor:
        """The images."""
        return images


def another(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw for every image another one of the batch, uniformly, (B, …) → (B, …); itself if it is alone."""
    count = len(images)
    if count == 1:
        return images
    offset = torch.randint(1, count, (count,), generator=generator, device=images.device)
    return images[(torch.arange(count, device=images.device) + offset) % count]


def region_masks(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Masks of zeros and ones in large regions, (B, 1, H, W), for images (B, C, H, W); other maps alike.

    Columns of a table (B, F) have no neighbours: their masks (B, F) are random bits.
    """
    positions = images.shape[2:]
    shape = (len(images), 1, *positions) if positions else images.shape
    bits = torch.randint(0, 2, shape, generator=generator, device=images.device).to(images.dtype)
    if not positions:
        return bits
    # Filled there, as copying it would wait for the device.
    line = bits.new_full((3,), 0.25)
    line[1] = 0.5
    for _ in range(BLURS):
        for side in range(2, bits.ndim):
            # Along the last dimension, whichever stands there.
            turned = bits.movedim(side, -1)
            flat = F.pad(turned.reshape(-1, 1, turned.shape[-1]), (1, 1), mode="replicate")
            bits = F.conv1d(flat, line.view(1, 1, 3)).view(turned.shape).movedim(-1, side)
    return (bits > bits.flatten(1).mean(1).view(-1, *[1] * (bits.ndim - 1))).to(images.dtype)


IMAGE_PAIRS: dict[str, type[ImagePairs]] = {"other-image": OtherImage, "masked-mix": MaskedMix}
