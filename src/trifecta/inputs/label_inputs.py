"""Label inputs, and the wrong labels of negatives.

Shapes: B samples, such as images (B, C, H, W) or rows of a table (B, F); ``labels`` (B,) int64; K classes.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.inputs.image_pairs import ImagePairs
from trifecta.nn.drawing import undisturbed
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


# Of what a label adds: a quarter of a normalised sample's own deviation.
_DEVIATION = 0.25


class LabelAdded(LabelInput):
    """The label's own picture, added to the sample: ``x + pictures[label]``, a number per class and entry.

    It changes no shape. For a first layer that is linear in its input it is a label channel whose weights
    are shared with the sample's. The pictures are trained with the first block. Source: ours.
    """

    is_additive = True
    name: ClassVar[str] = "added"

    def __init__(self, sample_shape: SampleShape, num_classes: int) -> None:
        super().__init__(sample_shape, num_classes)
        self.pictures = nn.Parameter(_DEVIATION * torch.randn(num_classes, *sample_shape))

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """(B, …), (B,) → (B, …)."""
        return samples + self.pictures[labels].to(samples.dtype)

    def base(self, samples: Tensor) -> Tensor:
        """The samples."""
        return samples

    def maps(self, samples: Tensor) -> Tensor:
        """(K, …), the pictures."""
        return self.pictures.to(samples.dtype)


class LabelEmbedding(LabelInput):
    """The label's own embedding, added to that of every token: for networks that embed integer tokens.

    A labelled sample is its tokens and, last, its label, (T + 1,); :class:`EmbedsLabel` takes them apart.
    The embeddings are trained with the first block. Source: ours; as segment embeddings are added in BERT
    (Devlin et al. 2019, arXiv 1810.04805).

    Args:
        sample_shape: (T,).
        num_classes: K.
        width: of a token's embedding.
    """

    name: ClassVar[str] = "embedding"

    def __init__(self, sample_shape: SampleShape, num_classes: int, *, width: int) -> None:
        super().__init__(sample_shape, num_classes)
        self.embeddings = nn.Embedding(num_classes, width)
        nn.init.normal_(self.embeddings.weight, std=_DEVIATION)

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """(B, T), (B,) → (B, T + 1)."""
        return torch.cat([samples, labels.unsqueeze(1)], dim=1)


class EmbedsLabel(nn.Module):
    """A block whose embedding of tokens is joined by that of the label.

    Args:
        block: the block, which is called with the tokens alone.
        embedding: its module that embeds them.
        label: has the labels' embeddings.
    """

    def __init__(self, block: nn.Module, embedding: nn.Module, label: LabelEmbedding) -> None:
        super().__init__()
        self.block, self.embedding, self.label = block, embedding, label

    def forward(self, labelled: Tensor) -> Any:
        """(B, T + 1) → what the block returns for tokens (B, T)."""
        tokens, labels = labelled[:, :-1], labelled[:, -1]
        added = self.label.embeddings(labels).unsqueeze(1)
        handle = self.embedding.register_forward_hook(lambda module, args, output: output + added)
        try:
            return self.block(tokens)
        finally:
            handle.remove()


def token_embedding(block: nn.Module, tokens: Tensor) -> nn.Embedding | None:
    """Find the module of ``block`` that embeds the samples themselves, by passing ``tokens`` (B, T)."""
    found: list[nn.Embedding] = []

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        assert isinstance(module, nn.Embedding)
        if args and isinstance(args[0], Tensor) and args[0].shape == tokens.shape:
            found.append(module)

    handles = [m.register_forward_hook(note) for m in block.modules() if isinstance(m, nn.Embedding)]
    try:
        block(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


class NetworkInput(NamedTuple):
    """Modules in front of the blocks, one of the first two at most.

    Attributes:
        label_input: shows labels that are tried.
        image_pairs: makes pairs of samples.
        first_block: replaces the first block where a label enters inside it.
    """

    label_input: LabelInput | None = None
    image_pairs: ImagePairs | None = None
    first_block: nn.Module | None = None


def build_input(
    kind: type[nn.Module] | None,
    block: nn.Module,
    *,
    sample_shape: SampleShape,
    num_classes: int,
    integer: bool = False,
) -> NetworkInput:
    """Build the label input or the image pairs of class ``kind`` for ``block``, the first one.

    A label enters as ``kind`` says where the block takes a sample of that shape. Otherwise the block was
    made for samples as they are, and the label is added to them.

    Raises:
        ValueError: integer tokens, which cannot be mixed, or which no module of the block embeds.
    """
    if kind is None:
        return NetworkInput()
    if issubclass(kind, ImagePairs):
        if integer:
            raise ValueError(
                "pairs mix two samples, and integer tokens cannot be mixed: use a method without pairs of "
                "samples, such as superfecta or trifecta"
            )
        return NetworkInput(image_pairs=kind())
    assert issubclass(kind, LabelInput)
    if integer:
        return _embedded(block, sample_shape, num_classes)
    label_input = kind(sample_shape, num_classes)
    is_ours = kind in LABEL_INPUTS.values()
    if is_ours and not _takes(block, label_input.input_shape(sample_shape, num_classes)):
        return NetworkInput(LabelAdded(sample_shape, num_classes))
    return NetworkInput(label_input)


def _embedded(block: nn.Module, sample_shape: SampleShape, num_classes: int) -> NetworkInput:
    embedding = None
    if len(sample_shape) == 1:
        embedding = token_embedding(block, torch.zeros(2, *sample_shape, dtype=torch.int64))
    if embedding is None:
        raise ValueError(
            "a label joins integer tokens (N, T) where the first block embeds them by an nn.Embedding: "
            f"received tokens (N, {', '.join(map(str, sample_shape))}) and a block without one; use a "
            "method that tries no labels, such as superfecta"
        )
    label_input = LabelEmbedding(sample_shape, num_classes, width=embedding.embedding_dim)
    return NetworkInput(label_input, first_block=EmbedsLabel(block, embedding, label_input))


@torch.no_grad()
def _takes(block: nn.Module, shape: SampleShape) -> bool:
    """Whether ``block`` takes two samples of a shape."""
    some = next((p for p in block.parameters() if p.is_floating_point()), torch.empty(0))
    with undisturbed(block):
        try:
            block.eval()(torch.zeros(2, *shape, dtype=some.dtype, device=some.device))
        except Exception:  # whatever a module raises for an input that is not its own
            return False
    return True
