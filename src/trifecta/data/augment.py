"""Augmentation of a whole batch on its device, without waiting for the device.

Shapes: B images, C channels, H rows, W columns. The generator draws shifts, angles, flips and cutout
centres, in this order; what is switched off or given draws nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of training images; none by default.

    Attributes:
        crop_padding: pixels p of black padding to crop from; shifts are uniform in [−p, p] on each axis.
        reflected: pad with the mirror image in place of black.
        rotation: degrees r; angles are uniform in [−r, r].
        flip: mirror left and right with probability 1/2.
        alternating: with ``flip``, mirror an image in every other epoch instead, half of the images from
            the first on, so that two epochs show both sides of each (Jordan 2024, arXiv 2404.00498).
        cutout: side in pixels of a square set to 0 (the mean) after normalisation, with its centre uniform
            over the image (DeVries & Taylor, 2017).
    """

    crop_padding: int = 0
    reflected: bool = False
    rotation: float = 0.0
    flip: bool = False
    alternating: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name, most in (("crop_padding", math.inf), ("cutout", math.inf), ("rotation", 180)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is 0 to {most}, got {getattr(self, name)}")
        for name, needed in (("alternating", "flip"), ("reflected", "crop_padding")):
            if getattr(self, name) and not getattr(self, needed):
                raise ValueError(f"{name} changes {needed}, which is off: set {needed} too")


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "shift": Augmentation(crop_padding=1),
    "crop-flip": Augmentation(crop_padding=4, flip=True),
    "crop-rotate": Augmentation(crop_padding=4, rotation=15.0),
    "crop-flip-cutout": Augmentation(crop_padding=4, flip=True, cutout=8),
}
"""Augmentations by name; ``crop-rotate`` is that of the Trifecta's published code."""


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (images − mean) / std per channel, float32, with uint8 ``(B, C, H, W)`` divided by 255 first.

    Samples of any shape are returned as they are if ``mean`` is empty.
    """
    if not mean:
        return images
    unit = images / 255 if images.dtype == torch.uint8 else images.clone()
    # Filled on the device, as copying the values there would wait for it.
    filled = partial(torch.full, (1, 1), device=unit.device)
    means, deviations = (torch.stack([*map(filled, values)]) for values in (mean, std))
    return unit.sub_(means).div_(deviations)


def augment(
    images: Tensor,
    config: Augmentation,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    generator: torch.Generator,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Crop, rotate and flip every image at random, normalise it, and cut out a square.

    ``images`` are ``(B, C, H, W)`` uint8, or samples of any kind where ``config`` changes nothing; those
    ``mirrored`` ``(B,)`` bool are flipped, or drawn where it is None.
    """
    batch, device, padding = len(images), images.device, config.crop_padding
    if padding:
        shifts = torch.randint(-padding, padding + 1, (batch, 2), generator=generator, device=device)
        images = crop(images, shifts, padding, reflected=config.reflected)
    if config.rotation:
        uniform = torch.rand(batch, generator=generator, device=device)
        images = rotate(images, (uniform * 2 - 1) * config.rotation)
    if config.flip:
        if mirrored is None:
            mirrored = torch.rand(batch, generator=generator, device=device) < 0.5
        images = flip(images, mirrored)
    result = normalize(images, mean, std)
    if config.cutout:
        sizes = images.shape[2:]
        centres = [torch.randint(n, (batch,), generator=generator, device=device) for n in sizes]
        result = cut_out(result, torch.stack(centres, dim=1), config.cutout)
    return result


def crop(images: Tensor, shifts: Tensor, padding: int, *, reflected: bool = False) -> Tensor:
    """Read every pixel (y, x) from (y + dy, x + dx), black or else ``reflected`` outside of the image.

    ``shifts`` ``(B, 2)`` int64 are (dy, dx) in pixels, each in [−padding, padding].
    """
    height, width = images.shape[2:]
    if not reflected:
        padded = F.pad(images, (padding,) * 4)
    elif padding >= min(height, width):
        raise ValueError(f"reflected padding {padding} has to be smaller than the image, {height}×{width}")
    else:  # F.pad reflects no bytes
        places = torch.arange(-padding, max(height, width) + padding, device=images.device).abs()
        rows, columns = (n - 1 - (places[: n + 2 * padding] - n + 1).abs() for n in (height, width))
        padded = images[:, :, rows][:, :, :, columns]
    # A view of every possible crop: (B, C, 2p+1, 2p+1, H, W).
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    top, left = (shifts + padding).unbind(1)
    return crops[torch.arange(len(images), device=images.device), :, top, left]


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate every image about its centre by ``degrees`` ``(B,)``, counter-clockwise, black outside.

    As in Pillow, pixel (y, x), whose centre is (y + ½, x + ½), is read from the pixel that its centre was
    turned from, in fixed-point numbers of 1/65536, which hold sides of up to 16383 pixels.
    """
    batch, channels, height, width = images.shape
    # Apple's GPUs have no float64; in float32 some six pixels in a million are not Pillow's.
    angles = degrees.to(torch.float32 if degrees.device.type == "mps" else torch.float64).deg2rad()
    cos, sin = angles.cos(), angles.sin()
    down, right = (1 - height) / 2, (1 - width) / 2
    top = sin * right + cos * down + height / 2
    left = cos * right - sin * down + width / 2
    fixed = (torch.stack([cos, sin, top, left]) * 65536 + 0.5).floor().int()
    cos, sin, top, left = fixed.view(4, batch, 1, 1)
    y = torch.arange(height, dtype=torch.int32, device=images.device).view(-1, 1)
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    rows = (top + x * sin + y * cos) >> 16
    columns = (left + x * cos - y * sin) >> 16
    # Pixels outside are read from a black frame, one pixel wide.
    framed = F.pad(images, (1,) * 4).flatten(2)
    sources = (rows.clamp(-1, height) + 1) * (width + 2) + columns.clamp(-1, width) + 1
    indices = sources.long().view(batch, 1, -1).expand(-1, channels, -1)
    return framed.gather(2, indices).view_as(images)


def flip(images: Tensor, flips: Tensor) -> Tensor:
    """Mirror left and right the ``(B, C, H, W)`` images whose entry of ``flips`` (B,) is True."""
    return torch.where(flips.view(-1, 1, 1, 1), images.flip(-1), images)


def cut_out(images: Tensor, centres: Tensor, side: int) -> Tensor:
    """Set rows y − ⌊side/2⌋ … + side − 1, and columns alike, about ``centres`` ``(B, 2)`` (y, x) to 0."""
    height, width = images.shape[-2:]
    first = (centres - side // 2).unsqueeze(-1)
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    in_rows = (rows >= first[:, 0]) & (rows < first[:, 0] + side)
    in_columns = (columns >= first[:, 1]) & (columns < first[:, 1] + side)
    return images.masked_fill(in_rows[:, None, :, None] & in_columns[:, None, None, :], 0.0)
