"""Labels that join samples of a network of one's own: what is added, to what, and where it is found."""

import pytest
import torch
from torch import Tensor, nn

from trifecta.inputs import (
    EmbedsLabel,
    LabelAdded,
    LabelChannel,
    LabelEmbedding,
    build_input,
    token_embedding,
)

LABELS = torch.tensor([2, 0])


class Tokens(nn.Module):
    """Embeds tokens, and positions beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.embedding = nn.Embedding(4, 6), nn.Embedding(9, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = self.positions(torch.arange(tokens.shape[1])) + self.positions(input=torch.tensor(0))
        embedded: Tensor = positions + self.embedding(tokens)
        return embedded


def test_a_picture_is_added_to_the_sample() -> None:
    shown = LabelAdded((3, 4), 5)
    samples = torch.randn(2, 3, 4)
    assert shown.num_classes == 5
    assert torch.equal(shown(samples, LABELS), samples + shown.pictures[LABELS])
    assert torch.equal(shown.base(samples) + shown.maps(samples)[LABELS], shown(samples, LABELS))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_sample_keeps_its_type(dtype: torch.dtype) -> None:
    shown, samples = LabelAdded((3,), 5), torch.randn(2, 3, dtype=dtype)
    assert {x.dtype for x in (shown(samples, LABELS), shown.maps(samples))} == {dtype}


def test_what_is_added_is_a_quarter_as_large_as_a_normalised_sample() -> None:
    assert LabelAdded((50, 50), 10).pictures.std().item() == pytest.approx(0.25, rel=0.05)
    embeddings = LabelEmbedding((7,), 100, width=500).embeddings.weight
    assert embeddings.std().item() == pytest.approx(0.25, rel=0.05)


def test_an_embedded_label_joins_every_token_and_nothing_else() -> None:
    block, tokens = Tokens(), torch.randint(0, 9, (2, 4))
    label_input, _, front = build_input(LabelChannel, block, sample_shape=(4,), num_classes=3, integer=True)
    assert isinstance(label_input, LabelEmbedding)
    assert isinstance(front, EmbedsLabel)
    assert label_input.num_classes == 3
    labelled = label_input(tokens, LABELS)
    assert torch.equal(labelled[:, :-1], tokens)
    added = label_input.embeddings(LABELS).unsqueeze(1)
    alone = block(tokens)
    torch.testing.assert_close(front(labelled), alone + added)
    # The block by itself is as it was.
    assert torch.equal(block(tokens), alone)


def test_the_embedding_of_the_tokens_is_found_among_others() -> None:
    block = Tokens()
    assert token_embedding(block, (4,)) is block.embedding
    assert token_embedding(nn.Identity(), (4,)) is None


def test_tokens_that_no_module_embeds_take_no_label() -> None:
    message = (
        r"^a label joins integer tokens \(N, T\) where the first block embeds them by an nn\.Embedding: "
        r"received tokens \(N, 4, 5\) and a block without one; use a method that tries no labels, such as"
    )
    with pytest.raises(ValueError, match=message):
        build_input(LabelChannel, Tokens(), sample_shape=(4, 5), num_classes=3, integer=True)
    with pytest.raises(ValueError, match=r"received tokens \(N, 4\) and a block without one"):
        build_input(LabelChannel, nn.Identity(), sample_shape=(4,), num_classes=3, integer=True)
