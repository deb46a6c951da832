"""How a method's labels or pairs enter a given first block."""

from typing import NamedTuple

import torch
from torch import nn

from trifecta.inputs.added import EmbedsLabel, LabelAdded, LabelEmbedding, token_embedding
from trifecta.inputs.image_pairs import ImagePairs
from trifecta.inputs.labels import LABEL_INPUTS, LabelInput
from trifecta.nn.drawing import undisturbed
from trifecta.nn.shapes import SampleShape


class Entrance(NamedTuple):
    """What stands before the blocks, one of the first two at most.

    Attributes:
        label_input: shows labels that are tried.
        image_pairs: makes pairs of samples.
        front: takes the first block's place where a label enters inside it.
    """

    label_input: LabelInput | None = None
    image_pairs: ImagePairs | None = None
    front: nn.Module | None = None


def entrance(
    kind: type[nn.Module] | None,
    block: nn.Module,
    *,
    sample_shape: SampleShape,
    num_classes: int,
    integer: bool = False,
) -> Entrance:
    """Build what ``kind`` puts before ``block``, the first one.

    A label enters as ``kind`` says where the block takes a sample of that shape. Where it does not, it was
    made for samples as they are, and the label is added to them.

    Raises:
        ValueError: integer tokens, which cannot be mixed, or which no module of the block embeds.
    """
    if kind is None:
        return Entrance()
    if issubclass(kind, ImagePairs):
        if integer:
            raise ValueError(
                "pairs mix two samples, and integer tokens cannot be mixed: use a method without pairs of "
                "samples, such as superfecta or trifecta"
            )
        return Entrance(image_pairs=kind())
    assert issubclass(kind, LabelInput)
    if integer:
        return _embedded(block, sample_shape, num_classes)
    label_input = kind(sample_shape, num_classes)
    is_ours = kind in LABEL_INPUTS.values()
    if is_ours and not _takes(block, label_input.input_shape(sample_shape, num_classes)):
        return Entrance(LabelAdded(sample_shape, num_classes))
    return Entrance(label_input)


def _embedded(block: nn.Module, sample_shape: SampleShape, num_classes: int) -> Entrance:
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
    return Entrance(label_input, front=EmbedsLabel(block, embedding, label_input))


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
