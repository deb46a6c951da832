"""A model cut into blocks computes what the model computes, and shares its weights."""

import random

import pytest
import torch
from torch import Tensor, nn

from trifecta import Blocks, LocalNetwork, from_module, get_method
from trifecta.nn.cutting import BlockOutput, features_of
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
    x: Tensor | BlockOutput = samples
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
    assert isinstance(carried, BlockOutput)
    assert [value.dtype for value in carried.side_values] == [torch.bool]
    # The last block passes its whole tuple on, and nobody reads a mask any more.
    assert second(carried).side_values == ()
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


class Between(nn.Module):
    """Does something between two layers, which every test changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.between(self.first(x)))
        return y

    def between(self, x: Tensor) -> Tensor:
        return x


class AsksForTensor(Between):
    def between(self, x: Tensor) -> Tensor:
        return self.norm(x) if isinstance(x, Tensor) else x  # type: ignore[no-any-return]


class AsksTorch(Between):
    def between(self, x: Tensor) -> Tensor:
        return self.norm(x) if torch.is_tensor(x) else x  # type: ignore[no-any-return]


class AsksForTuple(Between):
    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x[0] if isinstance(x, tuple) else x)
        return y


class AsksForType(Between):
    def between(self, x: Tensor) -> Tensor:
        return self.norm(x) if type(x) is Tensor else x


class AsksWhileItTrains(Between):
    def between(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.training and type(x) is Tensor else x


class AddsNothingYet(Between):
    def between(self, x: Tensor) -> Tensor:
        return x + self.gain * self.norm(x) if type(x) is Tensor else x


class TriesAValue(Between):
    def between(self, x: Tensor) -> Tensor:
        try:
            return x if float(x.sum()) > 1e9 else self.norm(x)
        except Exception:
            return x


class WithoutGradient(Between):
    def between(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x * 2


class Draws(Between):
    def between(self, x: Tensor) -> Tensor:
        return x * 2 if torch.rand(()) < 0.5 else x


class DrawsByPython(Between):
    def between(self, x: Tensor) -> Tensor:
        return x * 2 if random.random() < 0.5 else x


def network_of(blocks: Blocks) -> LocalNetwork:
    return LocalNetwork(blocks, get_method("superfecta"), sample_shape=(4,), num_classes=2)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (AsksForTensor, "if a value is a tensor"),
        (AsksTorch, "if a value is a tensor"),
        (Draws, "draws random numbers between its blocks"),
        (DrawsByPython, "draws random numbers between its blocks"),
    ],
)
def test_a_decision_that_a_trace_takes_once_for_all_is_refused(kind: type[Between], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        from_module(kind(), ["first", "second"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (AsksForType, "up to second it computes something else"),
        (AsksWhileItTrains, "up to second it computes something else"),
        (TriesAValue, "up to second it computes something else"),
        (
            AddsNothingYet,
            "up to second it uses norm.weight, norm.bias, gain|uses gain, norm.weight, norm.bias",
        ),
        (WithoutGradient, "has another gradient"),
    ],
)
def test_blocks_that_do_not_do_what_their_model_does_are_refused(kind: type[Between], message: str) -> None:
    blocks = from_module(kind(), ["first", "second"])
    with pytest.raises(ValueError, match=message):
        network_of(blocks)
    # Up to the first cut there is nothing to see.
    network_of(blocks[:1])


def test_a_question_that_does_not_matter_is_allowed() -> None:
    model = AsksForTuple()
    network_of(from_module(model, ["first", "second"]))
    assert len(from_module(model, ["first", "second"])[1:]) == 1


@pytest.mark.parametrize("model", [Between(), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))])
def test_a_hook_of_the_model_itself_is_noticed(model: nn.Module) -> None:
    cut = ["first", "second"] if isinstance(model, Between) else "auto"
    network_of(from_module(model, cut))
    model.register_forward_pre_hook(lambda module, args: (args[0] * 3 + 1,))
    with pytest.raises(ValueError, match="by a hook"):
        network_of(from_module(model, cut))


def test_a_comparison_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 4))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    from_module(model).compare(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model] == [True, False, True, True]
    assert all(p.grad is None for p in model.parameters())


def test_cutting_keeps_the_mode_of_every_module() -> None:
    model = Between()
    model.norm.eval()
    blocks = from_module(model, ["first", "second"])
    assert (model.training, model.norm.training) == (True, False)
    assert all(module.training for module in blocks.modules() if module is not model.norm)
    assert not any(m.training for b in from_module(model.eval(), ["first", "second"]) for m in b.modules())
