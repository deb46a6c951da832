"""How a label enters a network, and the wrong labels of negatives.

Shapes: B samples, such as images (B, C, H, W) or rows of a table (B, F); ``labels`` (B,) int64; K classes.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.inputs.image_pairs import ImagePairs
from trifecta.nn.drawing import preserved_state
from trifecta.nn.shapes import SampleShape


def wrong_labels(labels: Tensor, num_classes: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw a wrong label for each sample, uniformly, (B,) → (B,).

    ``(label + offset) mod K`` with the offset uniform in 1 … K−1.
    """
    offset = torch.randint(
        1, num_classes, labels.shape, generator=generator, device=labels.device, dtype=labels.dtype
    )
    return (labels + offset) % num_classes


def hard_labels(labels: Tensor, scores: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a wrong label for each sample, with the network's belief in it, (B,), (B, K) → (B,).

    The probability is ``softmax(scores / spread)`` over the wrong classes, where the spread is the standard
    deviation of a sample's scores. Source: Hinton 2022, section 3.3; the temperature is ours.
    """
    spread = scores.std(1, keepdim=True).clamp(min=1e-6)
    own = F.one_hot(labels, scores.shape[1]).bool()
    chances = (scores / spread).masked_fill(own, -torch.inf).softmax(1)
    return torch.multinomial(chances, 1, generator=generator).squeeze(1)


class LabelInput(nn.Module, ABC):
    """Shows a label to the network.

    Inherit from it and give the class to ``Method(label_input=…)``.

    Attributes:
        extra_channels: number of channels that it adds to a sample.
        keeps_sample: whether the sample's own channels come first and unchanged, so that no trainable
            parameter is in front of them.
        is_additive: whether ``forward(samples, labels) = base(samples) + maps(samples)[labels]``. A
            prediction, which tries all labels, then computes the first block's response once per sample.
            It needs ``base``, and ``maps`` unless that is the labelled zeros.
    """

    extra_channels: ClassVar[int] = 0
    keeps_sample: ClassVar[bool] = False
    is_additive: ClassVar[bool] = False

    def __init__(self, sample_shape: SampleShape, num_classes: int) -> None:
        super().__init__()
        self.sample_shape, self.num_classes = tuple(sample_shape), num_classes

    @classmethod
    def input_shape(cls, sample_shape: SampleShape, num_classes: int) -> SampleShape:
        """Return the shape of a labelled sample."""
        return sample_shape[0] + cls.extra_channels, *sample_shape[1:]

    @abstractmethod
    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Return labelled samples, (B, C, …), (B,) → (B, C', …)."""

    def base(self, samples: Tensor) -> Tensor:
        """Return what does not depend on the label, (B, C, …) → (B, C', …). Called if ``is_additive``."""
        raise NotImplementedError(f"{type(self).__name__} is not additive")

    def maps(self, samples: Tensor) -> Tensor:
        """Return what each label adds to such samples, (K, C', …): labelled zeros."""
        blank = samples.new_zeros(self.num_classes, *samples.shape[1:])
        return self.forward(blank, torch.arange(self.num_classes, device=samples.device))


class LabelChannel(LabelInput):
    """One more input channel with the label's own picture, a number per class and position.

    A table has no positions: it gets as many columns again, (F,) → (2F,), a number per class and column.
    The pictures are trained with the first block. Source: Dooms et al. 2023, for images.
    """

    extra_channels = 1
    keeps_sample = True
    is_additive = True
    is_learned: ClassVar[bool] = True

    def __init__(self, sample_shape: SampleShape, num_classes: int) -> None:
        super().__init__(sample_shape, num_classes)
        self.picture_shape = _picture_shape(self.sample_shape)
        self.pictures = nn.Embedding(num_classes, math.prod(self.picture_shape))
        self.pictures.requires_grad_(self.is_learned)

    @classmethod
    def input_shape(cls, sample_shape: SampleShape, num_classes: int) -> SampleShape:
        """Return the shape of a labelled sample, (C, …) → (C + 1, …), (F,) → (2F,)."""
        return sample_shape[0] + _picture_shape(sample_shape)[0], *sample_shape[1:]

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Return samples and the pictures of their labels."""
        pictures = self.pictures(labels).view(-1, *self.picture_shape)
        return torch.cat([samples, pictures.to(samples.dtype)], dim=1)

    def base(self, samples: Tensor) -> Tensor:
        """Return samples with a channel of zeros."""
        return torch.cat([samples, samples.new_zeros(len(samples), *self.picture_shape)], dim=1)


def _picture_shape(sample_shape: SampleShape) -> SampleShape:
    return sample_shape if len(sample_shape) == 1 else (1, *sample_shape[1:])


class LabelPattern(LabelChannel):
    """A label channel whose pictures stay as they are drawn."""

    is_learned = False


class LabelOverlay(LabelInput):
    """The label written over the sample's first K positions: see :func:`overlay`.

    A table has no positions to spare, so K columns come before its own, (F,) → (K + F,).
    """

    is_additive = True

    def __init__(self, sample_shape: SampleShape, num_classes: int) -> None:
        super().__init__(sample_shape, num_classes)
        if len(sample_shape) > 1 and num_classes > math.prod(sample_shape[1:]):
            raise ValueError(
                f"an overlaid label needs a position per class: {num_classes} classes do not fit into "
                f"{'×'.join(map(str, sample_shape[1:]))}; use label_input='channel'"
            )

    @classmethod
    def input_shape(cls, sample_shape: SampleShape, num_classes: int) -> SampleShape:
        """Return the shape of a labelled sample, (C, …) → (C, …), (F,) → (K + F,)."""
        return sample_shape if len(sample_shape) > 1 else (num_classes + sample_shape[0],)

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Return samples with the codes of their labels."""
        return overlay(self._with_room(samples), labels, self.num_classes)

    def base(self, samples: Tensor) -> Tensor:
        """Return samples whose first K positions are 0."""
        none = samples.new_zeros(len(samples), dtype=torch.int64)
        return overlay(self._with_room(samples), none, self.num_classes, value=0.0)

    def _with_room(self, samples: Tensor) -> Tensor:
        """Put K columns before a table's own, (B, F) → (B, K + F)."""
        return F.pad(samples, (self.num_classes, 0)) if samples.ndim == 2 else samples


def overlay(images: Tensor, labels: Tensor, num_classes: int, *, value: float = 1.0) -> Tensor:
    """Write the label over the first K positions of every channel, (B, C, …), (B,) → (B, C, …).

    Position ``label`` becomes ``value``, the K−1 others 0. Source: Hinton 2022, section 3.3.
    """
    code = F.one_hot(labels, num_classes).to(images.dtype) * value
    pixels = images.flatten(2) if images.ndim > 2 else images.unsqueeze(1)
    code = code.unsqueeze(1).expand(-1, pixels.shape[1], -1)
    return torch.cat([code, pixels[:, :, num_classes:]], dim=2).view(images.shape)


LABEL_INPUTS: dict[str, type[LabelInput]] = {
    "channel": LabelChannel,
    "pattern": LabelPattern,
    "overlay": LabelOverlay,
}

# Initial deviation of what a label adds: a quarter of a normalised sample's.
_DEVIATION = 0.25


class LabelAdded(LabelInput):
    """The label's own picture, added to the sample: ``x + pictures[label]``, a number per class and entry.

    It keeps the shape. In front of a linear layer it is a label channel that shares the sample's weights.
    The pictures are trained with the first block. Source: ours.
    """

    is_additive = True
    name: ClassVar[str] = "added"

    def __init__(self, sample_shape: SampleShape, num_classes: int) -> None:
        super().__init__(sample_shape, num_classes)
        self.pictures = nn.Parameter(_DEVIATION * torch.randn(num_classes, *sample_shape))

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Return the sums of samples and the pictures of their labels."""
        return samples + self.pictures[labels].to(samples.dtype)

    def base(self, samples: Tensor) -> Tensor:
        """Return the samples."""
        return samples


class LabelEmbedding(LabelInput):
    """The label's own embedding, added to that of every token: for networks that embed integer tokens.

    A labelled sample is its tokens and then its label, (T + 1,); :class:`EmbedsLabel` separates them. The
    embeddings, of ``width`` numbers, are trained with the first block. Source: ours, like the segment
    embeddings of BERT (Devlin et al. 2019, arXiv 1810.04805).
    """

    name: ClassVar[str] = "embedding"

    def __init__(self, sample_shape: SampleShape, num_classes: int, *, width: int) -> None:
        super().__init__(sample_shape, num_classes)
        self.embeddings = nn.Embedding(num_classes, width)
        nn.init.normal_(self.embeddings.weight, std=_DEVIATION)

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Return labelled samples, (B, T), (B,) → (B, T + 1)."""
        return torch.cat([samples, labels.unsqueeze(1)], dim=1)


class EmbedsLabel(nn.Module):
    """A block that adds the label's embedding to the output of its own module ``embedding``."""

    def __init__(self, block: nn.Module, embedding: nn.Module, label: LabelEmbedding) -> None:
        super().__init__()
        self.block, self.embedding, self.label = block, embedding, label

    def forward(self, labelled: Tensor) -> Any:
        """Return the block's output for labelled tokens, (B, T + 1)."""
        added = self.label.embeddings(labelled[:, -1]).unsqueeze(1)
        handle = self.embedding.register_forward_hook(lambda module, args, output: output + added)
        try:
            return self.block(labelled[:, :-1])
        finally:
            handle.remove()


def token_embedding(block: nn.Module, tokens: Tensor) -> nn.Embedding | None:
    """Return the module of ``block`` that embeds the samples themselves, found by passing tokens (B, T)."""
    found: list[nn.Embedding] = []

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        assert isinstance(module, nn.Embedding)
        if args and args[0].shape == tokens.shape:
            found.append(module)

    handles = [m.register_forward_hook(note) for m in block.modules() if isinstance(m, nn.Embedding)]
    try:
        block(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def build_input(
    kind: type[nn.Module] | None,
    block: nn.Module,
    *,
    sample_shape: SampleShape,
    num_classes: int,
    integer: bool = False,
) -> tuple[LabelInput | None, ImagePairs | None, nn.Module | None]:
    """Return the label input or the image pairs of class ``kind`` for the first block.

    A label input of this package is replaced by :class:`LabelAdded` if the block does not take its shape,
    and by :class:`LabelEmbedding` for integer tokens. The third module then replaces the first block.

    Raises:
        ValueError: pairs of integer tokens, or tokens that no module of the block embeds.
    """
    if kind is None:
        return None, None, None
    if issubclass(kind, ImagePairs):
        if integer:
            raise ValueError(
                "pairs mix two samples, and integer tokens cannot be mixed: use a method without pairs of "
                "samples, such as superfecta or trifecta"
            )
        return None, kind(), None
    assert issubclass(kind, LabelInput)
    if not integer:
        label_input = kind(sample_shape, num_classes)
        is_ours = kind in LABEL_INPUTS.values()
        if is_ours and not _accepts(block, label_input.input_shape(sample_shape, num_classes)):
            label_input = LabelAdded(sample_shape, num_classes)
        return label_input, None, None
    embedding = None
    if len(sample_shape) == 1:
        embedding = token_embedding(block, torch.zeros(2, *sample_shape, dtype=torch.int64))
    if embedding is None:
        raise ValueError(
            "a label joins integer tokens (N, T) where the first block embeds them by an nn.Embedding: "
            f"received tokens (N, {', '.join(map(str, sample_shape))}) and a block without one; use a "
            "method that tries no labels, such as superfecta"
        )
    embedded = LabelEmbedding(sample_shape, num_classes, width=embedding.embedding_dim)
    return embedded, None, EmbedsLabel(block, embedding, embedded)


@torch.no_grad()
def _accepts(block: nn.Module, shape: SampleShape) -> bool:
    """Return whether ``block`` accepts two samples of a shape."""
    some = next((p for p in block.parameters() if p.is_floating_point()), torch.empty(0))
    with preserved_state(block):
        try:
            block.eval()(torch.zeros(2, *shape, dtype=some.dtype, device=some.device))
        except Exception:  # whatever a module raises for an input that is not its own
            return False
    return True
