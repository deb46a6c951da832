"""Every method trains every kind of network, or refuses it when it is built."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from matrix import crossed, methods
from trifecta import (
    METHODS,
    Blocks,
    Callback,
    Learner,
    LocalNetwork,
    RunConfig,
    Trainer,
    build_network,
    from_module,
    get_method,
    load,
    resume,
    train,
)
from trifecta.inputs import LabelAdded, LabelChannel, LabelEmbedding
from trifecta.nn.cutting import map_tensors
from trifecta.nn.drawing import seed_from
from trifecta.pipeline import Pipeline
from trifecta.training import Interrupted
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
        learner = Learner(network, generator=torch.Generator().manual_seed(0), kernels=fused)
        window = learner._next_windows()[0]
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
def test_the_layout_of_features_is_found(
    blocks: Callable[[], list[nn.Module]], shape: tuple[int, ...], layouts: tuple[str, ...]
) -> None:
    network = LocalNetwork(blocks(), get_method("pred"), sample_shape=shape, num_classes=CLASSES)
    assert network.layouts == layouts


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
    text = (torch.arange(400).unsqueeze(1) + torch.arange(7)) % 7
    data = (text[:, :-1], text[:, 1:])
    config = RunConfig(method=get_method(method), epochs=7, batch_size=10)
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


class Drops(nn.Module):
    """Drops out by a function; which none of its modules tells."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.linear(x).relu(), 0.5, self.training)


class Skipped(Drops):
    """Is skipped for half of the batches, as Python draws."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x).relu()
        return y * 0.5 if self.training and random.random() < 0.5 else y


class Recomputed(Drops):
    """Draws again in the backward pass what it drew in the forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(super().forward, x, use_reentrant=False)
        return y


class NumPyNoise(Drops):
    """Adds noise that NumPy draws."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        noise = np.random.normal(size=y.shape)
        return (y + torch.from_numpy(noise).to(y) if self.training else y).relu()


def with_layer(layer: nn.Module) -> Callable[[int], nn.Module]:
    return lambda inputs: nn.Sequential(nn.Linear(inputs, 8), layer)


DRAWING: dict[str, Callable[[int], nn.Module]] = {
    "dropout": with_layer(nn.Dropout(0.5)),
    "alpha dropout": with_layer(nn.AlphaDropout(0.5)),
    "rrelu": with_layer(nn.RReLU()),
    "function": Drops,
    "python": Skipped,
    "numpy": NumPyNoise,
    "recomputed": Recomputed,
}
TABLE = (floats(5), LABELS)


def drawing_network(kind: str, method: str = "superfecta") -> LocalNetwork:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(5, 5), nn.ReLU()), DRAWING[kind](5), DRAWING[kind](8)]
    return LocalNetwork(blocks, get_method(method), sample_shape=(5,), num_classes=CLASSES)


def after_steps(
    network: LocalNetwork, *, seed: int = 3, count: int = 4, workers: int = 0, global_seed: int = 0
) -> dict[str, Tensor]:
    """The network's state when it has learnt a few times."""
    torch.manual_seed(global_seed)
    random.seed(global_seed)
    learner = Learner(network, generator=torch.Generator().manual_seed(seed))
    batches = [TABLE] * count
    if workers:
        list(Pipeline(learner, workers).steps(batches))
    else:
        for samples, labels in batches:
            learner.step(samples, labels)
    return dict(network.state_dict())


def are_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("kind", DRAWING)
def test_what_blocks_of_ones_own_draw_follows_from_the_runs_seed(kind: str) -> None:
    expected = after_steps(drawing_network(kind))
    assert drawing_network(kind).draws == {1, 2}
    assert are_equal(after_steps(drawing_network(kind), global_seed=1), expected)
    assert not are_equal(after_steps(drawing_network(kind), seed=4), expected)
    # Windows that draw at the same time do not disturb each other.
    assert are_equal(after_steps(drawing_network(kind), workers=3, global_seed=2), expected)


@pytest.mark.parametrize("kind", ["dropout", "function", "recomputed"])
@pytest.mark.parametrize("method", ["trifecta", "backprop"])
def test_it_does_in_windows_of_several_blocks_too(method: str, kind: str) -> None:
    expected = after_steps(drawing_network(kind, method))
    assert are_equal(after_steps(drawing_network(kind, method), global_seed=1), expected)


def test_every_step_and_every_block_draws_for_itself_and_leaves_the_shared_generators_alone() -> None:
    kept: list[Tensor] = []

    class Noted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                kept.append(torch.rand(4))
            return x

    blocks = [nn.Sequential(nn.Linear(5, 5), Noted()) for _ in range(2)]
    network = LocalNetwork(blocks, get_method("mono-forward"), sample_shape=(5,), num_classes=CLASSES)
    learner = Learner(network, generator=torch.Generator().manual_seed(0))
    kept.clear()
    states = torch.get_rng_state(), random.getstate()
    for _ in range(3):
        learner.step(*TABLE)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert len({tuple(drawn.tolist()) for drawn in kept}) == len(kept) == 6
    # Without a seed, PyTorch's own numbers go on.
    Learner(network).step(*TABLE)
    assert not torch.equal(torch.get_rng_state(), states[0])


class StopsAtStepFive(Callback):
    def on_step_end(self, trainer: Trainer) -> None:
        trainer.stop_requested = trainer.learner.steps == 5


def test_a_run_with_dropout_of_ones_own_resumes_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def blocks() -> list[nn.Module]:
        torch.manual_seed(0)
        return [DRAWING["function"](5), DRAWING["dropout"](8)]

    data = (floats(5).repeat(4, 1), LABELS.repeat(4))
    config = RunConfig(method=get_method("superfecta"), epochs=3, batch_size=8)
    whole = train(config, data=data, network=blocks())
    with pytest.raises(Interrupted):
        train(config, data=data, network=blocks(), out=tmp_path / "run", callbacks=[StopsAtStepFive()])
    torch.manual_seed(5)
    resumed = resume(tmp_path / "run", data=data, network=blocks())
    assert resumed.trainer.learner.steps == whole.trainer.learner.steps == 12
    assert are_equal(dict(resumed.network.state_dict()), dict(whole.network.state_dict()))


def test_seeds_of_drawing_blocks_are_those_of_earlier_runs() -> None:
    assert [seed_from(numbers) for numbers in ([3, 1], [3], [3, 0])] == [660097638, 3771322783, 3122985055]


def test_networks_of_the_library_draw_from_generators_of_their_own() -> None:
    method = replace(get_method("superfecta"), dropout=0.5)
    network = build_network(method, "mlp", sample_shape=(5,), num_classes=CLASSES, width=0.01)
    assert network.draws == frozenset()


class InPlace(nn.Module):
    """Rectifies its input where that stands."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.relu_())
        return y


class Copied(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.relu())
        return y


@pytest.mark.parametrize("method", ["superfecta", "trifecta", "deep-supervision", "backprop"])
def test_a_block_that_writes_into_its_input_writes_into_nobody_elses(method: str) -> None:
    states = []
    for kind in (InPlace, Copied):
        torch.manual_seed(0)
        network = LocalNetwork([kind(), kind()], get_method(method), sample_shape=(5,), num_classes=CLASSES)
        samples = floats(5)
        learner = Learner(network, generator=torch.Generator().manual_seed(0))
        losses = [learner.step(samples, LABELS) for _ in range(2)][-1]
        assert torch.equal(samples, floats(5))
        network(samples)
        assert torch.equal(samples, floats(5))
        states.append((network.state_dict(), losses))
    assert are_equal(states[0][0], states[1][0])


@pytest.mark.parametrize("weights", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", methods(["superfecta", "trifecta", "predsim"], quick=("trifecta",)))
def test_samples_of_another_precision_are_taken_in_that_of_the_blocks(
    method: str, weights: torch.dtype, samples: torch.dtype
) -> None:
    blocks = columns().to(weights)
    network = LocalNetwork([*blocks], get_method(method), sample_shape=(5,), num_classes=CLASSES)
    assert {p.dtype for p in network.parameters()} == {weights}
    losses = Learner(network).step(floats(5).to(samples), LABELS)
    assert all(loss.dtype == weights for loss in losses if loss is not None)
    assert network(floats(5).to(samples)).dtype == weights
    config = RunConfig(method=get_method(method), epochs=1, batch_size=4)
    train(
        config,
        data=(floats(5).repeat(3, 1).to(samples), LABELS.repeat(3)),
        network=[*columns().to(weights)],
    )


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_refused(precision: torch.dtype) -> None:
    blocks = [nn.Linear(5, 5), nn.Linear(5, 5).to(precision)]
    with pytest.raises(ValueError, match=f"block 1 has some in {precision}; give it as float32"):
        LocalNetwork(blocks, get_method("superfecta"), sample_shape=(5,), num_classes=CLASSES)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu())
        return y


class Masked(nn.Module):
    """Multiplies by a mask that others have too."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) * self.mask
        return y


def masked() -> list[nn.Module]:
    mask = torch.ones(5)
    return [Masked(mask), Masked(mask)]


PECULIAR: dict[str, Callable[[], list[nn.Module]]] = {
    "tied within a block": lambda: [Tied(), nn.Linear(5, 5)],
    "shared buffers": masked,
    "lazy": lambda: [nn.Sequential(nn.LazyLinear(6), nn.ReLU()), nn.LazyLinear(7)],
    "spectral norm": lambda: [spectral_norm(nn.Linear(5, 5)), orthogonal(nn.Linear(5, 5))],
    "weight norm": lambda: [weight_norm(nn.Linear(5, 5))],
    "cumulative statistics": lambda: [nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5, momentum=None))],
    "no statistics": lambda: [nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5, track_running_stats=False))],
    "no weights at all": lambda: [nn.Identity(), nn.Tanh()],
}


@pytest.mark.parametrize("kind", PECULIAR)
def test_peculiar_blocks_train_and_are_loaded_as_they_were_left(kind: str, tmp_path: Path) -> None:
    data = (floats(5).repeat(4, 1), LABELS.repeat(4))
    config = RunConfig(method=get_method("superfecta"), epochs=1, batch_size=8)
    run = train(config, data=data, network=PECULIAR[kind](), out=tmp_path / "run")
    model = load(tmp_path / "run", network=PECULIAR[kind]())
    expected = run.network.eval()(data[0][:6])
    assert torch.allclose(model.scores(data[0][:6]), expected, atol=1e-5)
