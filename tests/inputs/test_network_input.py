"""What stands before a first block: what the method asks for, or what the block can take."""

import re

import pytest
import torch
from torch import Tensor, nn

from trifecta.inputs import (
    ImagePairs,
    LabelAdded,
    LabelChannel,
    LabelInput,
    LabelOverlay,
    MaskedMix,
    build_input,
)


class Own(LabelInput):
    """A label input of a user's own."""

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """The samples."""
        return samples


class OwnPairs(ImagePairs):
    """Pairs of a user's own."""

    def pairs(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Each twice."""
        return torch.cat([images, images])

    def neutral(self, images: Tensor) -> Tensor:
        """The images."""
        return images


def test_a_label_is_added_where_the_block_takes_samples_as_they_are() -> None:
    shape = (3, 8, 8)
    taken, _, _ = build_input(LabelChannel, nn.Conv2d(4, 2, 3), sample_shape=shape, num_classes=5)
    assert isinstance(taken, LabelChannel)
    added, _, _ = build_input(LabelChannel, nn.Conv2d(3, 2, 3), sample_shape=shape, num_classes=5)
    assert isinstance(added, LabelAdded)
    assert added.num_classes == 5
    assert added.pictures.shape == (5, *shape)
    columns, _, _ = build_input(LabelOverlay, nn.Linear(8, 2), sample_shape=(3,), num_classes=5)
    assert isinstance(columns, LabelOverlay)


def test_an_input_of_ones_own_is_taken_at_its_word() -> None:
    taken, _, _ = build_input(Own, nn.Conv2d(9, 2, 3), sample_shape=(3, 8, 8), num_classes=5)
    assert isinstance(taken, Own)


def test_pairs_are_of_samples_that_can_be_mixed() -> None:
    _, pairs, _ = build_input(MaskedMix, nn.Conv2d(3, 2, 3), sample_shape=(3, 8, 8), num_classes=5)
    assert isinstance(pairs, MaskedMix)
    message = (
        "pairs mix two samples, and integer tokens cannot be mixed: use a method without pairs of samples, "
        "such as superfecta or trifecta"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build_input(MaskedMix, nn.Identity(), sample_shape=(8,), num_classes=5, integer=True)
    assert build_input(None, nn.Identity(), sample_shape=(8,), num_classes=5) == (None, None, None)


def test_what_an_input_of_ones_own_lacks_is_said_by_its_name() -> None:
    own = Own((3,), 5)
    with pytest.raises(NotImplementedError, match=r"^Own is not additive$"):
        own.base(torch.zeros(2, 3))
    with pytest.raises(NotImplementedError, match=r"^OwnPairs makes no new pairs at a block$"):
        OwnPairs().pairs_at(torch.zeros(2, 3), torch.tensor([1]))
