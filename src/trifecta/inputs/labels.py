"""Label inputs, and the wrong labels of negatives.

Shapes: B samples, such as images (B, C, H, W) or rows of a table (B, F); ``labels`` (B,) int64; K classes.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.nn.shapes import SampleShape


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
    """Write the label over the first K positions of every channel, (B, C, …) → (B, C, …).

    Pixel ``label`` becomes ``value``, the K−1 others 0. Source: Hinton 2022, section 3.3.
    """
    code = F.one_hot(labels, num_classes).to(images.dtype) * value
    pixels = images.flatten(2) if images.ndim > 2 else images.unsqueeze(1)
    code = code.unsqueeze(1).expand(-1, pixels.shape[1], -1)
    return torch.cat([code, pixels[:, :, num_classes:]], dim=2).view(images.shape)


class LabelInput(nn.Module, ABC):
    """Shows a label to the network.

    Inherit from it in a class of your own and give the class to ``Method(label_input=…)``, which calls it
    with ``sample_shape`` and ``num_classes``.

    Attributes:
        extra_channels: how many channels a sample grows by.
        keeps_sample: whether the sample's own channels come first and unchanged, so that nothing that
            learns stands before them.
        is_additive: whether ``forward(samples, labels) = base(samples) + maps(samples)[labels]``. Then a
            prediction, which tries all labels, computes the first block's response to a sample once.
    """

    extra_channels: ClassVar[int] = 0
    keeps_sample: ClassVar[bool] = False
    is_additive: ClassVar[bool] = False

    def __init__(self, sample_shape: SampleShape, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    @classmethod
    def input_shape(cls, sample_shape: SampleShape, num_classes: int) -> SampleShape:
        """Return the shape of a labelled sample."""
        channels, *positions = sample_shape
        return channels + cls.extra_channels, *positions

    @abstractmethod
    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """(B, C, …), (B,) → (B, C', …)."""

    def base(self, samples: Tensor) -> Tensor:
        """Return what does not depend on the label, (B, C, …) → (B, C', …); where ``is_additive``."""
        raise NotImplementedError(f"{type(self).__name__} is not additive")

    def maps(self, samples: Tensor) -> Tensor:
        """Return what each label adds to samples such as these, (K, C', …); where ``is_additive``."""
        raise NotImplementedError(f"{type(self).__name__} is not additive")


class LabelChannel(LabelInput):
    """One more input channel that shows the label's own picture, a number per class and position.

    A table has no positions: as many columns again as it has (F,), a number per class and column. The
    pictures are trained with the first block. Source: Dooms et al. 2023, for images.
    """

    extra_channels = 1
    keeps_sample = True
    is_additive = True
    is_learned: ClassVar[bool] = True

    def __init__(self, sample_shape: SampleShape, num_classes: int) -> None:
        super().__init__(sample_shape, num_classes)
        self.extra_shape = _extra_shape(sample_shape)
        self.pictures = nn.Embedding(num_classes, math.prod(self.extra_shape))
        self.pictures.requires_grad_(self.is_learned)

    @classmethod
    def input_shape(cls, sample_shape: SampleShape, num_classes: int) -> SampleShape:
        """(C, …) → (C + 1, …), (F,) → (2F,)."""
        channels, *positions = sample_shape
        return channels + _extra_shape(sample_shape)[0], *positions

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """(B, C, …), (B,) → (B, C + 1, …)."""
        pictures = self.pictures(labels).view(-1, *self.extra_shape)
        return torch.cat([samples, pictures.to(samples.dtype)], dim=1)

    def base(self, samples: Tensor) -> Tensor:
        """(B, C, …) → (B, C + 1, …)."""
        return torch.cat([samples, samples.new_zeros(len(samples), *self.extra_shape)], dim=1)

    def maps(self, samples: Tensor) -> Tensor:
        """(K, C + 1, …), only the last channel not 0."""
        pictures = self.pictures.weight.view(-1, *self.extra_shape).to(samples.dtype)
        return torch.cat([samples.new_zeros(len(pictures), *samples.shape[1:]), pictures], dim=1)


def _extra_shape(sample_shape: SampleShape) -> SampleShape:
    """Return the shape of a label's picture: a channel (1, …), or the columns (F,) of a table."""
    return sample_shape if len(sample_shape) == 1 else (1, *sample_shape[1:])


class LabelPattern(LabelChannel):
    """A label channel whose pictures stay the random patterns that they start as."""

    is_learned = False


class LabelOverlay(LabelInput):
    """The label written over the sample's first K positions: see :func:`overlay`.

    A table has no positions to spare, so K columns come before its own.
    """

    is_additive = True

    def __init__(self, sample_shape: SampleShape, num_classes: int) -> None:
        super().__init__(sample_shape, num_classes)
        positions = math.prod(sample_shape[1:])
        if len(sample_shape) > 1 and num_classes > positions:
            raise ValueError(
                f"an overlaid label needs a position per class: {num_classes} classes do not fit into "
                f"{'×'.join(map(str, sample_shape[1:]))}; use method.label_input=channel"
            )

    @classmethod
    def input_shape(cls, sample_shape: SampleShape, num_classes: int) -> SampleShape:
        """(C, …) → (C, …), (F,) → (K + F,)."""
        return sample_shape if len(sample_shape) > 1 else (num_classes + sample_shape[0],)

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """(B, C, …), (B,) → (B, C, …)."""
        return overlay(self._with_room(samples), labels, self.num_classes)

    def base(self, samples: Tensor) -> Tensor:
        """The samples, their first K positions 0."""
        none = samples.new_zeros(len(samples), dtype=torch.int64)
        return overlay(self._with_room(samples), none, self.num_classes, value=0.0)

    def maps(self, samples: Tensor) -> Tensor:
        """(K, C, …), one position of each channel 1."""
        blank = samples.new_zeros(self.num_classes, *samples.shape[1:])
        labels = torch.arange(self.num_classes, device=samples.device)
        return overlay(self._with_room(blank), labels, self.num_classes)

    def _with_room(self, samples: Tensor) -> Tensor:
        """Put K columns before a table's own, (B, F) → (B, K + F)."""
        return F.pad(samples, (self.num_classes, 0)) if samples.ndim == 2 else samples


LABEL_INPUTS: dict[str, type[LabelInput]] = {
    "channel": LabelChannel,
    "pattern": LabelPattern,
    "overlay": LabelOverlay,
}
