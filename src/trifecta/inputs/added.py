"""Labels for a network of one's own, whose modules expect samples as they are.

Shapes: B samples (B, …) float, or integer tokens (B, T); ``labels`` (B,) int64; K classes.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trifecta.inputs.labels import LabelInput
from trifecta.nn.shapes import SampleShape

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
