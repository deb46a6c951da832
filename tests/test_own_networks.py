"""Every method trains every kind of network, or refuses it when it is built."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from matrix import crossed, methods
from trifecta import METHODS, Blocks, Learner, LocalNetwork, RunConfig, from_module, get_method, load, train
from trifecta.inputs.added import LabelAdded, LabelEmbedding
from trifecta.inputs.labels import LabelChannel
from trifecta.nn.carried import map_tensors
from users_networks import CLASSES, GPT, Attention, Skips, ViT, columns, signals, volumes

BATCH = 12


def tokens() -> Tensor:
    return torch.randint(0, 10, (BATCH, 6), generator=torch.Generator().manual_seed(0))


def floats(*shape: int) -> Tensor:
    return torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(0))


NETWORKS: dict[str, tuple[Callable[[], Blocks], Tensor]] = {
    "vit": (lambda: from_module(ViT()), floats(3, 8, 8)),
    "gpt": (lambda: from_module(GPT()), tokens()),
    "skips": (lambda: from_module(Skips(), ["first", "second", "third"]), floats(3, 8, 8)),
    "volumes": (lambda: from_module(volumes()), floats(1, 4, 4, 4)),
    "signals": (lambda: from_module(signals()), floats(2, 8)),
    "columns": (lambda: from_module(columns()), floats(5)),
    "token blocks": (lambda: Blocks([Attention(8), Attention(8)]), floats(6, 8)),
}
LABELS = torch.arange(BATCH) % CLASSES
# Pairs of samples are mixed, which tokens cannot be, and made anew of what a block passes on.
REFUSED = {("scff", "gpt"), ("masked-mix", "gpt"), ("scff", "skips")}


def network_of(method: str, name: str) -> LocalNetwork:
    make, samples = NETWORKS[name]
    torch.manual_seed(0)
    return LocalNetwork(
        make(),
        get_method(method),
        sample_shape=samples.shape[1:],
        num_classes=CLASSES,
        integer=samples.dtype == torch.int64,
    )


@pytest.mark.parametrize(("method", "name"), crossed(METHODS, list(NETWORKS)))
def test_every_method_trains_every_network(method: str, name: str) -> None:
    samples = NETWORKS[name][1]
    if (method, name) in REFUSED:
        with pytest.raises(ValueError, match="use "):
            network_of(method, name)
        return
    network = network_of(method, name)
    before = [p.detach().clone() for p in network.blocks.parameters()]
    learner = Learner(network, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        losses = [loss for loss in learner.step(samples, LABELS) if loss is not None]
        assert all(loss.isfinite() for loss in losses)
    moved = [not torch.equal(a, b) for a, b in zip(before, network.blocks.parameters(), strict=True)]
    # Keys of an attention have a bias that no softmax notices, and an unread last output has no gradient.
    assert sum(moved) > 0.6 * len(moved)
    assert network(samples).shape == (BATCH, CLASSES)


@pytest.mark.parametrize(
    ("method", "name"),
    crossed([name for name in METHODS if get_method(name).locality == "strict"], list(NETWORKS)),
)
def test_nothing_crosses_a_block_of_a_strict_method(method: str, name: str) -> None:
    if (method, name) in REFUSED:
        return
    network, samples = network_of(method, name), NETWORKS[name][1]
    learner = Learner(network, generator=torch.Generator().manual_seed(0))
    step = learner.begin(samples, LABELS)
    while not step.is_done:
        learner.learn(step)
        with_graph: list[Tensor] = []
        map_tensors(lambda x, found=with_graph: found.append(x) if x.requires_grad else x, step.x)  # type: ignore[misc]
        assert not with_graph


def test_a_label_enters_as_the_first_block_allows() -> None:
    assert isinstance(network_of("trifecta", "vit").label_input, LabelAdded)
    assert isinstance(network_of("trifecta", "gpt").label_input, LabelEmbedding)
    # One more token is as good as any.
    assert isinstance(network_of("trifecta", "token blocks").label_input, LabelChannel)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_label_that_is_tried_changes_the_answer(name: str) -> None:
    network, samples = network_of("trifecta", name).eval(), NETWORKS[name][1]
    scores = network(samples)
    assert not torch.allclose(scores, scores[:, :1].expand_as(scores))
    # By hand, one label after another.
    for label in range(CLASSES):
        x: Any = network.labelled(samples, torch.full((BATCH,), label))
        for k in range(len(network.blocks)):
            features, x = network.pass_block(k, x)
        assert torch.allclose(network.head(k).scores(features), scores[:, label], atol=1e-5)


def test_the_label_learns_where_it_is_added_before_blocks_of_ours() -> None:
    """A fused window, which leaves out gradients of what is constant, must not leave out this one."""
    base = get_method("trifecta")
    from trifecta.nn import conv_block

    blocks = [conv_block((3, 8, 8), 8, first=True), conv_block((8, 8, 8), 8)]
    network = LocalNetwork(blocks, base, sample_shape=(3, 8, 8), num_classes=CLASSES)
    assert isinstance(network.label_input, LabelAdded)
    before = network.label_input.pictures.detach().clone()
    images = floats(3, 8, 8)
    losses = []
    for fused in (False, True):
        learner = Learner(network, generator=torch.Generator().manual_seed(0), fused=fused)
        window = learner._windows()[0]
        x = network.labelled(torch.cat([images, images]), torch.cat([LABELS, (LABELS + 1) % CLASSES]))
        loss, _ = learner.window_loss(window, x, LABELS)
        losses.append(torch.autograd.grad(loss, network.label_input.pictures)[0])
    assert torch.allclose(losses[0], losses[1], atol=1e-6)
    learner.step(images, LABELS)
    assert not torch.equal(network.label_input.pictures, before)


class Turned(nn.Module):
    """Gives tokens back with their features in front."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x).transpose(1, 2)
        return y


class Mixer(nn.Module):
    """A linear map of tokens and one of features: both sizes are fixed."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.tokens, self.features = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.features(self.tokens(x.transpose(1, 2)).transpose(1, 2))
        return y


@pytest.mark.parametrize(
    ("blocks", "shape", "layouts"),
    [
        (lambda: [nn.Conv2d(3, 8, 3, padding=1)], (3, 8, 8), ("first",)),
        (lambda: [nn.Conv1d(8, 8, 3, padding=1)], (8, 8), ("first",)),
        (lambda: [Attention(8), Attention(8)], (6, 8), ("last", "last")),
        (lambda: [Attention(8), Turned(Attention(8))], (6, 8), ("last", "first")),
        # As many tokens as features: what tells is that a block takes more tokens, and not more features.
        (lambda: [Attention(8), Attention(8)], (8, 8), ("last", "last")),
        (lambda: [Attention(8), Turned(Attention(8))], (8, 8), ("last", "first")),
        (lambda: from_module(ViT(size=16, width=16, has_class_token=False)), (3, 16, 16), ("last", "last")),
    ],
)
def test_it_is_found_where_features_stand(
    blocks: Callable[[], list[nn.Module]], shape: tuple[int, ...], layouts: tuple[str, ...]
) -> None:
    network = LocalNetwork(blocks(), get_method("pred"), sample_shape=shape, num_classes=CLASSES)
    assert network.layouts == layouts


def test_where_features_stand_is_declared_where_it_cannot_be_found() -> None:
    settings = {"sample_shape": (8, 8), "num_classes": CLASSES}
    with pytest.raises(ValueError, match="does not tell where its features stand"):
        LocalNetwork([Mixer(8)], get_method("pred"), **settings)  # type: ignore[arg-type]
    for channels in ("first", "last"):
        blocks = Blocks([Mixer(8)], channels=channels)
        network = LocalNetwork(blocks, get_method("pred"), **settings)  # type: ignore[arg-type]
        assert network.layouts == (channels,)
    with pytest.raises(ValueError, match="channels are first or last"):
        LocalNetwork([Mixer(8)], get_method("pred"), channels="middle", **settings)  # type: ignore[arg-type]


class Flipped(nn.Module):
    """Puts the sequence in front, or back."""

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        return (x[0] if isinstance(x, tuple) else x).transpose(0, 1)


def test_an_attention_that_takes_the_batch_for_a_sequence_is_refused() -> None:
    for layer in (nn.TransformerEncoderLayer(8, 2, 16), nn.GRU(8, 8)):
        with pytest.raises(ValueError, match="batch_first=True"):
            LocalNetwork([layer], get_method("pred"), sample_shape=(6, 8), num_classes=CLASSES)
        right = nn.Sequential(Flipped(), layer, Flipped())
        LocalNetwork([right], get_method("pred"), sample_shape=(6, 8), num_classes=CLASSES)


def test_blocks_that_do_not_fit_are_named() -> None:
    blocks = [nn.Conv2d(3, 8, 3), nn.Conv2d(7, 8, 3)]
    with pytest.raises(ValueError, match=r"block 1 does not take a batch \(N, 8, 6, 6\)"):
        LocalNetwork(blocks, get_method("pred"), sample_shape=(3, 8, 8), num_classes=CLASSES)
    with pytest.raises(ValueError, match=r"block 0 does not take a batch \(N, 5\)"):
        LocalNetwork(blocks, get_method("trifecta"), sample_shape=(5,), num_classes=CLASSES)


def test_methods_without_a_loss_at_every_position_say_which_have_one() -> None:
    with pytest.raises(ValueError, match="use superfecta"):
        get_method("trifecta").at_positions()
    assert get_method("backprop").at_positions().objective.per_position


@pytest.mark.parametrize(
    "method",
    methods(["superfecta", "mono-forward", "deep-supervision", "backprop"], quick=("superfecta",)),
)
def test_a_text_is_learnt_token_by_token_saved_and_loaded(method: str, tmp_path: Path) -> None:
    text = (torch.arange(1500).unsqueeze(1) + torch.arange(7)) % 7
    data = (text[:, :-1], text[:, 1:])
    config = RunConfig(method=get_method(method), epochs=5, batch_size=20)
    torch.manual_seed(0)
    run = train(config, data=data, network=from_module(GPT()), out=tmp_path / "run")
    assert run.test_accuracy > 0.9
    model = load(tmp_path / "run", network=from_module(GPT()))
    assert torch.equal(model.scores(data[0][:5]).argmax(1), data[1][:5])


@pytest.mark.parametrize("method", methods(["superfecta", "trifecta", "ff"], quick=()))
def test_a_table_needs_no_network_of_ones_own(method: str) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    table = torch.randn(300, 5, generator=draw) + 2 * torch.eye(5)[labels]
    config = RunConfig(method=get_method(method), network="mlp", width=0.02, epochs=20, batch_size=20)
    assert train(config, data=(table, labels)).test_accuracy > 0.65
