"""How a label enters a network, the wrong labels of negatives, and pairs made of images alone.

Shapes: B samples, such as images (B, C, H, W) or rows of a table (B, F); ``labels`` (B,) int64; K classes.
"""

import math
from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.nn.drawing import preserved_state
from trifecta.nn.shapes import SampleShape

# Initial deviation of a label's picture that is added to a sample: a quarter of a normalised sample's.
_DEVIATION = 0.25
# Number of times that a random mask is blurred.
BLURS = 6


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
    """Shows a label to the network. Inherit from it, and give the class to ``Method(label_input=…)``.

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
    """One more input channel with the label's own picture, trained with the first block.

    A table gets as many columns again, (F,) → (2F,). Source: Dooms et al. 2023, for images.
    """

    extra_channels = 1
    keeps_sample = True
    is_additive = True
    is_learned: ClassVar[bool] = True

    def __init__(self, sample_shape: SampleShape, num_classes: int) -> None:
        super().__init__(sample_shape, num_classes)
        channels = self.input_shape(sample_shape, num_classes)[0] - sample_shape[0]
        self.picture_shape = channels, *sample_shape[1:]
        self.pictures = nn.Embedding(num_classes, math.prod(self.picture_shape))
        self.pictures.requires_grad_(self.is_learned)

    @classmethod
    def input_shape(cls, sample_shape: SampleShape, num_classes: int) -> SampleShape:
        """Return the shape of a labelled sample, (C, …) → (C + 1, …), (F,) → (2F,)."""
        extra = cls.extra_channels if len(sample_shape) > 1 else sample_shape[0]
        return sample_shape[0] + extra, *sample_shape[1:]

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Return samples and the pictures of their labels."""
        pictures = self.pictures(labels).view(-1, *self.picture_shape)
        return torch.cat([samples, pictures.to(samples.dtype)], dim=1)

    def base(self, samples: Tensor) -> Tensor:
        """Return samples with a channel of zeros."""
        return torch.cat([samples, samples.new_zeros(len(samples), *self.picture_shape)], dim=1)


class LabelPattern(LabelChannel):
    """A label channel whose pictures stay as they are drawn."""

    is_learned = False


class LabelOverlay(LabelInput):
    """The one-hot label in place of the first K positions of every channel. Source: Hinton 2022, 3.3.

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
        return _overlaid(samples, F.one_hot(labels, self.num_classes))

    def base(self, samples: Tensor) -> Tensor:
        """Return samples whose first K positions are 0."""
        return _overlaid(samples, samples.new_zeros(len(samples), self.num_classes))


def _overlaid(samples: Tensor, code: Tensor) -> Tensor:
    """Return samples with a code (B, K) over their first positions or before their columns."""
    code = code.to(samples.dtype)
    if samples.ndim == 2:
        return torch.cat([code, samples], dim=1)
    pixels = samples.flatten(2)
    code = code.unsqueeze(1).expand(-1, pixels.shape[1], -1)
    return torch.cat([code, pixels[:, :, code.shape[2] :]], dim=2).view(samples.shape)


class LabelAdded(LabelInput):
    """The label's own picture, trained with the first block: ``x + pictures[label]``. Source: ours."""

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

    A labelled sample is its tokens and then its label, (T + 1,); :class:`EmbedsLabel` separates them.
    Source: ours, like the segment embeddings of BERT (Devlin et al. 2019, arXiv 1810.04805).
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
        with self.embedding.register_forward_hook(lambda module, args, output: output + added):
            return self.block(labelled[:, :-1])


class ImagePairs(nn.Module, ABC):
    """Pairs of images: an image as it is or with itself, and one that is mixed with another image.

    Inherit from it, and give the class to ``Method(label_input=…)``.
    """

    #: Whether each block receives new pairs, made by :meth:`pairs_at` of the positives' output.
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
        offsets = draw_offsets(len(images), len(images), generator, images.device)
        return torch.cat([images, mask * images + (1 - mask) * _ahead(images, offsets)])

    def neutral(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images


def draw_offsets(
    count: int, images: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Draw ``count`` offsets, uniform in 1 … images − 1, (count,) int64; 0 for a single image."""
    if images == 1:
        return torch.zeros(count, dtype=torch.int64, device=device)
    return torch.randint(1, images, (count,), generator=generator, device=device)


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


LABEL_INPUTS: dict[str, type[LabelInput]] = {
    "channel": LabelChannel,
    "pattern": LabelPattern,
    "overlay": LabelOverlay,
}
IMAGE_PAIRS: dict[str, type[ImagePairs]] = {"other-image": OtherImage, "masked-mix": MaskedMix}


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
    embedding = token_embedding(block, sample_shape) if len(sample_shape) == 1 else None
    if embedding is None:
        raise ValueError(
            "a label joins integer tokens (N, T) where the first block embeds them by an nn.Embedding: "
            f"received tokens (N, {', '.join(map(str, sample_shape))}) and a block without one; use a "
            "method that tries no labels, such as superfecta"
        )
    embedded = LabelEmbedding(sample_shape, num_classes, width=embedding.embedding_dim)
    return embedded, None, EmbedsLabel(block, embedding, embedded)


def token_embedding(block: nn.Module, sample_shape: SampleShape) -> nn.Embedding | None:
    """Return the module of ``block`` that embeds the samples themselves, found by passing tokens."""
    tokens, found = torch.zeros(2, *sample_shape, dtype=torch.int64), list[nn.Embedding]()

    def note(module: Any, args: tuple[Any, ...], output: Any) -> None:
        if args and args[0].shape == tokens.shape:
            found.append(module)

    with ExitStack() as hooks:
        for module in block.modules():
            if isinstance(module, nn.Embedding):
                hooks.enter_context(module.register_forward_hook(note))
        block(tokens)
    return found[0] if found else None


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
