"""A model cut into blocks computes what the model computes, and shares its weights."""

import pytest
import torch
from torch import Tensor, nn

from trifecta import Blocks, from_module
from trifecta.nn.carried import Carried, features_of
from users_networks import GPT, Attention, Skips, ViT, columns, signals, volumes

IMAGES, TOKENS = torch.randn(3, 3, 8, 8), torch.randint(0, 10, (3, 6))


def output_of(model: nn.Module, name: str, samples: Tensor) -> Tensor:
    """What the module ``name`` returns in the model's own forward pass."""
    seen: list[Tensor] = []
    module = model.get_submodule(name)
    handle = module.register_forward_hook(lambda module, args, output: seen.append(features_of(output)))
    model(samples)
    handle.remove()
    return seen[-1]


class Encoder(nn.Module):
    """PyTorch's own encoder, with a mask, between an embedding and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embedding = nn.Embedding(10, 8)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
        scores: Tensor = self.head(self.encoder(self.embedding(ids), mask).mean(1))
        return scores


CUTS = [
    (ViT(), "auto", IMAGES, ["blocks.0", "blocks.1"]),
    (ViT(), Attention, IMAGES, ["blocks.0", "blocks.1"]),
    (ViT(), ["patches", "blocks.1"], IMAGES, ["patches", "blocks.1"]),
    (GPT(), "auto", TOKENS, ["blocks.0", "blocks.1"]),
    (Encoder(), "auto", TOKENS, ["encoder.layers.0", "encoder.layers.1"]),
    (Skips(), ["first", "second", "third"], IMAGES, ["first", "second", "third"]),
    (Skips(), ["third", "first"], IMAGES, ["first", "third"]),
    (volumes(), "auto", torch.randn(3, 1, 4, 4, 4), ["2", "4"]),
    (signals(), "auto", torch.randn(3, 2, 8), ["1", "4"]),
    (columns(), "auto", torch.randn(3, 5), ["1", "3"]),
    (columns(), ["0", "2"], torch.randn(3, 5), ["0", "2"]),
]


@pytest.mark.parametrize(("model", "cut", "samples", "ends"), CUTS)
def test_every_block_computes_what_the_model_computes_up_to_its_cut(
    model: nn.Module, cut: str | type[nn.Module] | list[str], samples: Tensor, ends: list[str]
) -> None:
    model.eval()
    blocks = from_module(model, cut)
    assert len(blocks) == len(ends)
    x: Tensor | Carried = samples
    for block, end in zip(blocks, ends, strict=True):
        x = block(x)
        assert torch.allclose(features_of(x), output_of(model, end, samples), atol=1e-6)


@pytest.mark.parametrize(("model", "cut", "samples", "ends"), CUTS)
def test_blocks_share_the_models_weights_and_leave_out_what_follows_the_last_cut(
    model: nn.Module, cut: str | type[nn.Module] | list[str], samples: Tensor, ends: list[str]
) -> None:
    blocks = from_module(model, cut)
    assert not [name for name in vars(model) if "constant" in name]
    own = {id(p) for p in blocks.parameters()}
    assert own <= {id(p) for p in model.parameters()}
    head = getattr(model, "head", None)
    assert head is None or not own & {id(p) for p in head.parameters()}
    blocks.train()
    assert all(m.training for m in model.get_submodule(ends[0]).modules())
    blocks.eval()
    assert not any(m.training for m in model.get_submodule(ends[0]).modules())


def test_only_what_later_blocks_read_is_carried_on() -> None:
    first, second = from_module(GPT())
    carried = first(TOKENS)
    assert isinstance(carried, Carried)
    assert [value.dtype for value in carried.others] == [torch.bool]
    # The last block passes its whole tuple on, and nobody reads a mask any more.
    assert second(carried).others == ()
    assert isinstance(from_module(ViT())[0](IMAGES), Tensor)


class Twice(nn.Module):
    """Calls its one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.layer(x))
        return y


class Fickle(nn.Module):
    """Asks its input which way to go."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x) if x.sum() > 0 else x


class Drops(nn.Module):
    """Drops out by a function, between its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(nn.functional.dropout(self.first(x), 0.5, self.training))
        return y


@pytest.mark.parametrize(
    ("model", "cut", "message"),
    [
        (ViT(), ["bloks.0"], "did you mean blocks.0"),
        (ViT(), [], "names one module at least"),
        (ViT(), nn.LSTM, "no module of class LSTM"),
        (Twice(), ["layer"], "layer is called 2 times"),
        (Twice(), "auto", "give names of modules"),
        (Fickle(), ["first", "second"], "give the blocks themselves, in order, as a list"),
        (Drops(), ["first", "second"], "move that into a module"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    model: nn.Module, cut: str | type[nn.Module] | list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        from_module(model, cut)
    assert model.training


def test_blocks_remember_where_their_features_stand() -> None:
    assert from_module(ViT(), channels="last").channels == "last"
    assert Blocks([nn.Linear(2, 2)]).channels is None
