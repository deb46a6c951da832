"""Label inputs, and the wrong labels of negatives.

Shapes: B images (B, C, H, W); ``labels`` (B,) int64; K classes.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.nn.shapes import ImageShape


def wrong_labels(labels: Tensor, num_classes: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw one label per image, uniformly among the wrong ones, (B,) → (B,).

    ``(label + offset) mod K`` with the offset uniform in 1 … K−1, so the true label never comes out.
    """
    offset = torch.randint(
        1, num_classes, labels.shape, generator=generator, device=labels.device, dtype=labels.dtype
    )
    return (labels + offset) % num_classes


def hard_labels(labels: Tensor, scores: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one wrong label per image, the likelier the more the network believes it, (B,), (B, K) → (B,).

    With chance ``softmax(scores / spread)`` over the wrong classes, where an image's spread is the standard
    deviation of its scores: how sharp the choice is does not depend on the scores' scale. Source: Hinton
    2022, section 3.3 (negatives "that the network finds plausible"); the temperature is ours.
    """
    spread = scores.std(1, keepdim=True).clamp(min=1e-6)
    own = F.one_hot(labels, scores.shape[1]).bool()
    chances = (scores / spread).masked_fill(own, -torch.inf).softmax(1)
    return torch.multinomial(chances, 1, generator=generator).squeeze(1)


def overlay(images: Tensor, labels: Tensor, num_classes: int, *, value: float = 1.0) -> Tensor:
    """Write the label over the first K pixels of every channel, (B, C, H, W) → (B, C, H, W).

    Pixel ``label`` becomes ``value``, the K−1 others 0. Source: Hinton 2022, section 3.3.
    """
    code = F.one_hot(labels, num_classes).to(images.dtype) * value
    pixels = images.flatten(2)
    code = code.unsqueeze(1).expand(-1, pixels.shape[1], -1)
    return torch.cat([code, pixels[:, :, num_classes:]], dim=2).view(images.shape)


class LabelInput(nn.Module, ABC):
    """Shows a label to the network.

    Inherit from it in a class of your own and give the class to ``Method(label_input=…)``, which calls it
    with ``image_shape`` and ``num_classes``.

    Attributes:
        extra_channels: how many channels an image grows by.
        is_additive: whether ``forward(images, labels) = base(images) + maps(images)[labels]``. Then a
            prediction, which tries all labels, computes the first block's response to an image once.
    """

    extra_channels: ClassVar[int] = 0
    is_additive: ClassVar[bool] = False

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W), (B,) → (B, C', H, W)."""

    def base(self, images: Tensor) -> Tensor:
        """Return what does not depend on the label, (B, C, H, W) → (B, C', H, W); where ``is_additive``."""
        raise NotImplementedError(f"{type(self).__name__} is not additive")

    def maps(self, images: Tensor) -> Tensor:
        """Return what each label adds to images such as these, (K, C', H, W); where ``is_additive``."""
        raise NotImplementedError(f"{type(self).__name__} is not additive")


class LabelChannel(LabelInput):
    """One more input channel that shows the label's own picture, H·W numbers per class.

    The pictures are trained with the first block. Source: Dooms et al. 2023.
    """

    extra_channels = 1
    is_additive = True
    is_learned: ClassVar[bool] = True

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        _, height, width = image_shape
        self.pictures = nn.Embedding(num_classes, height * width)
        self.pictures.requires_grad_(self.is_learned)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W), (B,) → (B, C + 1, H, W)."""
        pictures = self.pictures(labels).view(-1, 1, *images.shape[2:])
        return torch.cat([images, pictures.to(images.dtype)], dim=1)

    def base(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C + 1, H, W)."""
        return F.pad(images, (0, 0, 0, 0, 0, 1))

    def maps(self, images: Tensor) -> Tensor:
        """(K, C + 1, H, W), only the last channel not 0."""
        pictures = self.pictures.weight.view(-1, 1, *images.shape[2:])
        return F.pad(pictures.to(images.dtype), (0, 0, 0, 0, images.shape[1], 0))


class LabelPattern(LabelChannel):
    """A label channel whose pictures stay the random patterns that they start as."""

    is_learned = False


class LabelOverlay(LabelInput):
    """The label written over the image's first K pixels: see :func:`overlay`."""

    is_additive = True

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        _, height, width = image_shape
        if num_classes > height * width:
            raise ValueError(
                f"an overlaid label needs a pixel per class: {num_classes} classes do not fit into "
                f"{height}×{width} pixels; use --set method.label_input=channel"
            )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W), (B,) → (B, C, H, W)."""
        return overlay(images, labels, self.num_classes)

    def base(self, images: Tensor) -> Tensor:
        """The images, their first K pixels 0."""
        return overlay(
            images, images.new_zeros(len(images), dtype=torch.int64), self.num_classes, value=0.0
        )

    def maps(self, images: Tensor) -> Tensor:
        """(K, C, H, W), one pixel of each channel 1."""
        blank = images.new_zeros(self.num_classes, *images.shape[1:])
        return overlay(blank, torch.arange(self.num_classes, device=images.device), self.num_classes)


LABEL_INPUTS: dict[str, type[LabelInput]] = {
    "channel": LabelChannel,
    "pattern": LabelPattern,
    "overlay": LabelOverlay,
}
