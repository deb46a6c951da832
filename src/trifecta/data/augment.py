"""Augmentation of a whole batch at once, on the device that holds it.

Shapes: B images, C channels, H rows, W columns. Everything random is drawn from the generator
passed in, in a fixed order: shifts, angles, flips, centres of the cutout; what is switched off
draws nothing. Nothing here waits for the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of the training images. The default changes nothing.

    Attributes:
        crop_padding: pixels p of black padding to crop from: shifts are uniform in [−p, p] on
            each axis.
        rotation: degrees r; angles are uniform in [−r, r].
        flip: whether to mirror left and right, with probability 1/2.
        cutout: side in pixels of a square set to 0 (the mean) after normalisation. Its centre is
            uniform over the image, and what lies outside is lost (DeVries & Taylor, 2017).

    Raises:
        ValueError: a value is out of its range.
    """

    crop_padding: int = 0
    rotation: float = 0.0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is in pixels, 0 or more, got {getattr(self, name)}")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation is in degrees, 0 to 180, got {self.rotation}")


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "shift": Augmentation(crop_padding=1),
    "crop-flip": Augmentation(crop_padding=4, flip=True),
    "crop-rotate": Augmentation(crop_padding=4, rotation=15.0),
    "crop-flip-cutout": Augmentation(crop_padding=4, flip=True, cutout=8),
}
"""Augmentations by name; ``crop-rotate`` is the Trifecta paper's."""


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images / 255 − mean) / std, channel by channel.

    Args:
        images: ``(B, C, H, W)`` in 0..255, uint8 or floating.
        mean: of the C channels, in 0..1.
        std: of the C channels, in 0..1.

    Returns:
        ``(B, C, H, W)`` float32.
    """
    unit = images / 255
    return unit.sub_(_per_channel(mean, unit.device)).div_(_per_channel(std, unit.device))


def augment(
    images: Tensor,
    config: Augmentation,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    generator: torch.Generator,
) -> Tensor:
    """Change every image at random, and normalise it.

    Crops and flips move whole pixels. With a rotation the three are one bilinear resampling, which
    crops first, then rotates about the centre, then flips. Black comes in from outside.

    Args:
        images: ``(B, C, H, W)`` uint8.
        config: what to change.
        mean: of the C channels, in 0..1.
        std: of the C channels, in 0..1.
        generator: of the images' device.

    Returns:
        ``(B, C, H, W)`` float32, a new tensor.
    """
    batch, _, height, width = images.shape
    device, padding = images.device, config.crop_padding
    shifts = angles = flips = None
    if padding:
        shifts = torch.randint(-padding, padding + 1, (batch, 2), generator=generator, device=device)
    if config.rotation:
        uniform = torch.rand(batch, generator=generator, device=device)
        angles = (uniform * 2 - 1) * math.radians(config.rotation)
    if config.flip:
        flips = torch.rand(batch, generator=generator, device=device) < 0.5
    if angles is not None:
        images = resample(images, angles, shifts=shifts, flips=flips)
    else:
        images = images if shifts is None else crop(images, shifts, padding)
        images = images if flips is None else flip(images, flips)
    result = normalize(images, mean, std)
    if config.cutout:
        centres = [
            torch.randint(size, (batch,), generator=generator, device=device) for size in (height, width)
        ]
        result = cut_out(result, torch.stack(centres, dim=1), config.cutout)
    return result


def crop(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Read every pixel (y, x) from (y + dy, x + dx), and black outside the image.

    Args:
        images: ``(B, C, H, W)``.
        shifts: ``(B, 2)`` int64, (dy, dx) in pixels, each in [−padding, padding].
        padding: the largest shift.

    Returns:
        ``(B, C, H, W)`` of the same type.
    """
    batch, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    # A view of every possible crop: (B, C, 2p+1, 2p+1, H, W).
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    top, left = (shifts + padding).unbind(1)
    return crops[torch.arange(batch, device=images.device), :, top, left]


def flip(images: Tensor, flips: Tensor) -> Tensor:
    """Mirror left and right those ``(B, C, H, W)`` images whose entry of ``flips`` (B,) is True."""
    return torch.where(flips.view(-1, 1, 1, 1), images.flip(-1), images)


def resample(
    images: Tensor, angles: Tensor, *, shifts: Tensor | None = None, flips: Tensor | None = None
) -> Tensor:
    """Crop, rotate about the centre and flip, in one bilinear interpolation with black outside.

    Args:
        images: ``(B, C, H, W)``.
        angles: ``(B,)`` float32, radians; positive turns what is seen counter-clockwise.
        shifts: ``(B, 2)``, (dy, dx) in pixels, as in ``crop``; None shifts nothing.
        flips: ``(B,)`` bool, as in ``flip``; None flips nothing.

    Returns:
        ``(B, C, H, W)`` float32, in the images' units.
    """
    batch, _, height, width = images.shape
    cos, sin = angles.cos(), angles.sin()
    mirror = torch.ones_like(cos) if flips is None else 1 - 2 * flips.float()
    dy, dx = torch.zeros(2, batch, device=cos.device) if shifts is None else shifts.T.float()
    # In units of half the width and half the height, where a rotation is no longer one.
    row_x = [cos * mirror, -sin * (height / width), dx * (2 / width)]
    row_y = [sin * mirror * (width / height), cos, dy * (2 / height)]
    transform = torch.stack([*row_x, *row_y], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def cut_out(images: Tensor, centres: Tensor, side: int) -> Tensor:
    """Set a square of ``side`` pixels about ``centres``, ``(B, 2)`` int64 (y, x), to 0.

    Rows y − ⌊side/2⌋ up to that plus ``side`` − 1 are set, columns alike, where the image has them.
    """
    height, width = images.shape[-2:]
    first = (centres - side // 2).unsqueeze(-1)
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    in_rows = (rows >= first[:, 0]) & (rows < first[:, 0] + side)
    in_columns = (columns >= first[:, 1]) & (columns < first[:, 1] + side)
    return images.masked_fill(in_rows[:, None, :, None] & in_columns[:, None, None, :], 0.0)


def _per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """``values`` as (C, 1, 1) on ``device``: filled there, as copying them would wait for it."""
    filled = [torch.full((1, 1), value, device=device) for value in values]
    return torch.stack(filled)
