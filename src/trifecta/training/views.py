"""Views of an image over which a prediction may be averaged: mirrored, shifted.

Source: Jordan 2024 (arXiv 2404.00498), *multi-crop evaluation*. It multiplies the work of a prediction by
the number of views, so its accuracy is one to report apart.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

# A view of a batch (N, C, H, W), and its weight.
View = tuple[Tensor, float]


def _plain(images: Tensor) -> list[View]:
    return [(images, 1.0)]


def _flip(images: Tensor) -> list[View]:
    return [(images, 0.5), (images.flip(-1), 0.5)]


def _flip_shift(images: Tensor) -> list[View]:
    """Both sides, half of the weight as they are, half of it one pixel towards two opposite corners."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    shifted = [padded[..., :height, :width], padded[..., 2:, 2:]]
    return [
        *((view, weight / 2) for view, weight in _flip(images)),
        *((view, weight / 4) for moved in shifted for view, weight in _flip(moved)),
    ]


VIEWS: dict[str, Callable[[Tensor], list[View]]] = {
    "none": _plain,
    "flip": _flip,
    "flip-shift": _flip_shift,
}
