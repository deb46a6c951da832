"""Pairs made of images alone, for training without labels.

Shapes: B images (B, C, H, W). A pair's positive is an image as it is (or with itself), its negative is an
image mixed with another one of the batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLURS = 6


class ImagePairs(nn.Module, ABC):
    """Makes positives and negatives of a batch of images."""

    @abstractmethod
    def pairs(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, C, H, W) → (2B, C, H, W), positives first."""

    @abstractmethod
    def neutral(self, images: Tensor) -> Tensor:
        """What the network receives to predict: the positives."""


class OtherImage(ImagePairs):
    """Positive ``x + x``, negative ``x + x'`` with x' another image of the batch.

    Source: Chen et al. 2025, *Self-Contrastive Forward-Forward algorithm* (Nature Communications 16:5978):
    two images enter side by side through the same weights, so the first layer sees their sum.
    """

    def pairs(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, C, H, W) → (2B, C, H, W)."""
        return torch.cat([self.neutral(images), images + another(images, generator)])

    def neutral(self, images: Tensor) -> Tensor:
        """``x + x``."""
        return images + images


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
    """For every image another one of the batch, uniformly, (B, …) → (B, …); itself if it is alone."""
    count = len(images)
    if count == 1:
        return images
    offset = torch.randint(1, count, (count,), generator=generator, device=images.device)
    return images[(torch.arange(count, device=images.device) + offset) % count]


def region_masks(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Masks of zeros and ones in large regions, (B, 1, H, W), for images (B, C, H, W)."""
    shape = (len(images), 1, *images.shape[2:])
    bits = torch.randint(0, 2, shape, generator=generator, device=images.device).to(images.dtype)
    line = bits.new_tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(line, line).view(1, 1, 3, 3)
    for _ in range(BLURS):
        bits = F.conv2d(F.pad(bits, (1, 1, 1, 1), mode="replicate"), kernel)
    return (bits > bits.mean((2, 3), keepdim=True)).to(images.dtype)


IMAGE_PAIRS: dict[str, Callable[[], ImagePairs]] = {"other-image": OtherImage, "masked-mix": MaskedMix}
