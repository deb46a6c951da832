"""A network of a few weights: what it takes, what each block scores, and what it refuses."""

import copy
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import Tensor, nn

from trifecta import Blocks, CrossEntropy, Head, LocalNetwork, Method, Schedule, build_network, get_method
from trifecta.inputs import LabelAdded, LabelChannel, LabelEmbedding
from trifecta.losses.head import Site
from trifecta.nn.blocks import ResidualBlock
from trifecta.nn.cutting import BlockOutput, features_of
from trifecta.readout import Shortlist
from trifecta.schedules import END_TO_END

IMAGES = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1, 0])


def blocks_of(size: int = 4, count: int = 3) -> list[nn.Module]:
    sizes = [size, *[4] * (count - 1)]
    return [nn.Sequential(nn.Linear(size, 4), nn.BatchNorm1d(4), nn.ReLU()) for size in sizes]


def network_of(method: str | Method = "mono-forward", classes: int = 3, **changes: Any) -> LocalNetwork:
    torch.manual_seed(0)
    chosen = replace(get_method(method) if isinstance(method, str) else method, **changes)
    size = chosen.input_shape((4,), classes)[0]
    return LocalNetwork(blocks_of(size), chosen, sample_shape=(4,), num_classes=classes)


def plain_scores(network: LocalNetwork, x: Tensor) -> list[Tensor]:
    scores = []
    for k, block in enumerate(network.blocks.eval()):
        x = block(x)
        scores.append(network.head(k).scores(x))
    return scores


def test_every_block_scores_every_class() -> None:
    network = network_of()
    expected = plain_scores(network, IMAGES)
    network.train()
    with torch.no_grad():
        scores = network.block_scores(IMAGES)
        assert network.training
        for found, own in zip(scores, expected, strict=True):
            torch.testing.assert_close(found, own)
        torch.testing.assert_close(network.fused_scores(IMAGES), expected[-1])
        network.readout_blocks = (0, 2)
        network.temperature.fill_(2.0)
        torch.testing.assert_close(network(IMAGES), (expected[0] + expected[2]) / 2)
        assert not network.eval().training
        network(IMAGES)
        assert not network.training
        assert not any(module.training for module in network.modules())
    for k in range(3):
        x = IMAGES
        for block in network.blocks[: k + 1]:
            x = block(x)
        torch.testing.assert_close(network.embeddings(IMAGES, k), x)


def test_a_network_whose_labels_enter_tries_every_label() -> None:
    network = network_of("trifecta", schedule=Schedule(size=2), readout="last").eval()
    assert network.scored_blocks == (1, 2)
    found = network.block_scores(IMAGES)
    assert found[0] is None
    for label in range(3):
        x = network.labelled(IMAGES, torch.full((5,), label))
        for k, block in enumerate(network.blocks):
            x, scores = block(x), found[k]
            if scores is not None:
                torch.testing.assert_close(scores[:, label], network.head(k).scores(x))
    predicted = network.fused_scores(IMAGES).argmax(1)
    x = network.labelled(IMAGES, predicted)
    torch.testing.assert_close(network.embeddings(IMAGES, 1), network.blocks[1](network.blocks[0](x)))


def test_pairs_predict_by_their_positives_in_every_block() -> None:
    network = network_of("scff", readout="last").eval()
    pairs = network.image_pairs
    assert pairs is not None
    assert network.renews_pairs
    expected: list[tuple[Tensor, Any]] = []
    x = pairs.neutral(IMAGES)
    for k in range(3):
        features, passed = network.pass_block(k, x if k == 0 else expected[-1][1])
        expected.append((features, passed))
        # What a block receives is made of what the one before passed on.
        own = network._halves[k][0](x)
        torch.testing.assert_close(features, own)
        x = pairs.neutral(passed)
    for k, scores in enumerate(network.block_scores(IMAGES)):
        torch.testing.assert_close(scores, network.head(k).scores(expected[k][0]))
    # Blocks of this package are passed without modules of their own.
    size: dict[str, Any] = {"sample_shape": (4,), "num_classes": 3, "width": 0.02}
    ours = build_network(get_method("scff"), "mlp", **size).eval()
    passed = pairs.neutral(IMAGES)
    for k, scores in enumerate(ours.block_scores(IMAGES)):
        features, passed = ours.pass_block(k, passed)
        assert scores is not None
        torch.testing.assert_close(scores, ours.head(k).scores(features))
    torch.testing.assert_close(network.embeddings(IMAGES, 2), expected[2][0])
    offsets = torch.tensor([1, 2, 3])
    x = torch.cat([IMAGES, IMAGES + 1])
    found, _ = network.pass_block(2, x, offsets)
    torch.testing.assert_close(found, network._halves[2][0](pairs.pairs_at(IMAGES, torch.tensor([3]))))
    found, _ = network.pass_block(0, x, offsets)
    torch.testing.assert_close(found, network._halves[0][0](x))


def test_maps_are_averaged_over_their_positions() -> None:
    blocks = [nn.Conv2d(1, 3, 3)]
    network = LocalNetwork(blocks, get_method("mono-forward"), sample_shape=(1, 5, 6), num_classes=2)
    images = torch.randn(2, 1, 5, 6)
    torch.testing.assert_close(network.embeddings(images, 0), blocks[0](images).mean((2, 3)))
    signal = nn.Conv1d(1, 3, 3)
    network = LocalNetwork([signal], get_method("mono-forward"), sample_shape=(1, 5), num_classes=2)
    torch.testing.assert_close(
        network.embeddings(images[:, :, 0, :5], 0), signal(images[:, :, 0, :5]).mean(2)
    )


@pytest.mark.parametrize(("classes", "most"), [(3, 255), (100, 200), (200, 200), (300, 300)])
def test_a_prediction_holds_few_samples_at_a_time(classes: int, most: int) -> None:
    network = network_of("trifecta", classes=classes)
    seen: list[int] = []
    network.blocks[0].register_forward_hook(lambda module, args, output: seen.append(len(output)))
    images = torch.randn(100, 4)
    assert network.fused_scores(images, every_label=True).shape == (100, classes)
    assert (max(seen), sum(seen)) == (most, 100 * classes)


def test_a_compiled_network_learns_by_its_own_losses() -> None:
    network = network_of()
    expected = [network.loss(k, IMAGES, LABELS) for k in range(3)]
    torch._dynamo.config.recompile_limit = 8
    assert network.is_compiled is False
    network.compile(disable=True)
    assert network.is_compiled
    assert torch._dynamo.config.recompile_limit == 4 * 3
    torch.testing.assert_close([network.loss(k, IMAGES, LABELS) for k in range(3)], expected)
    features, passed = network.train().pass_block(1, IMAGES)
    assert torch.equal(features, passed)
    copied = copy.deepcopy(network)
    network.requires_grad_(False)
    for parameter in network.parameters():
        parameter.zero_()
    torch.testing.assert_close([copied.loss(k, IMAGES, LABELS) for k in range(3)], expected)


def test_only_training_passes_through_the_compiler() -> None:
    network = network_of()
    network.compile(backend="eager")
    # A pass through a compiled module fails here, as nothing has been compiled yet.
    with torch.compiler.set_stance("fail_on_recompile"):
        network.eval().pass_block(1, IMAGES)
        network.block_scores(IMAGES)
        network.train()
        with pytest.raises(RuntimeError, match="compile"):
            network.pass_block(1, IMAGES)
        with pytest.raises(RuntimeError, match="compile"):
            network.loss(1, IMAGES, LABELS)
        network.compile(disable=True)
        network.pass_block(1, IMAGES)
        network.loss(1, IMAGES, LABELS)


def test_an_embedding_passes_its_blocks_once() -> None:
    network, passed = network_of(), list[int]()
    for k, block in enumerate(network.blocks):
        block.register_forward_hook(lambda module, args, output, k=k: passed.append(k))
    network.embeddings(IMAGES, 1)
    assert passed == [0, 1]


def test_the_input_of_a_prediction_is_labelled_or_a_positive_or_the_sample() -> None:
    labelled, pairs, plain = (network_of(method) for method in ("trifecta", "scff", "mono-forward"))
    assert torch.equal(labelled.prediction_input(IMAGES, LABELS), labelled.labelled(IMAGES, LABELS))
    assert pairs.image_pairs is not None
    assert torch.equal(pairs.prediction_input(IMAGES, LABELS), pairs.image_pairs.neutral(IMAGES))
    assert plain.prediction_input(IMAGES, LABELS) is IMAGES
    with pytest.raises(AssertionError, match=r"^no label enters$"):
        plain.labelled(IMAGES, LABELS)


def test_a_loss_is_its_heads() -> None:
    network = network_of()
    x = IMAGES
    for k in range(3):
        features, x = network.pass_block(k, x)
        assert torch.equal(network.loss(k, features, LABELS), network.head(k).loss(features, LABELS))


def names_of(network: LocalNetwork, parameters: list[nn.Parameter]) -> list[str]:
    names = {id(p): name for name, p in network.named_parameters()}
    return [names[id(p)] for p in parameters]


def test_a_block_owns_its_weights_its_heads_and_the_first_its_labels() -> None:
    network = network_of("trifecta")
    parts = ("0.weight", "0.bias", "1.weight", "1.bias")
    label = "label_input.pictures.weight"
    assert names_of(network, network.label_parameters()) == [label]
    assert names_of(network, network.own_parameters(0)) == [*(f"blocks.0.{part}" for part in parts), label]
    assert names_of(network, network.own_parameters(1)) == [f"blocks.1.{part}" for part in parts]
    network.blocks[1][0].requires_grad_(False)  # type: ignore[index]
    assert names_of(network, network.own_parameters(1)) == ["blocks.1.1.weight", "blocks.1.1.bias"]
    network = network_of(schedule=END_TO_END, readout="last")
    assert network.label_parameters() == []
    assert len(network.own_parameters(1)) == 4
    assert [name for name in names_of(network, network.own_parameters(2)) if "_heads.2." in name]


@pytest.mark.parametrize(
    ("method", "learns", "channels"),
    [
        ("mono-forward", True, 4),
        ("trifecta", True, 4),
        ("ff", True, 4),
        ("added", True, 0),
        ("added", False, 4),
    ],
)
def test_samples_with_nothing_to_learn_before_them_are_constant(
    method: str, learns: bool, channels: int
) -> None:
    if method == "added":
        network = LocalNetwork(blocks_of(), get_method("trifecta"), sample_shape=(4,), num_classes=3)
        assert isinstance(network.label_input, LabelAdded)
        assert network.label_name == "added"
        network.label_input.requires_grad_(learns)
    else:
        network = network_of(method)
    assert network.constant_channels == channels


def test_a_label_input_has_a_name() -> None:
    assert network_of("trifecta").label_name == "channel"
    assert network_of("mono-forward").label_name == "none"
    assert isinstance(network_of("trifecta").label_input, LabelChannel)


def test_classes_are_weighed_by_every_head() -> None:
    network, weights = network_of(), torch.tensor([1.0, 2.0, 3.0])
    network.weigh_classes(weights)
    assert all(network.head(k).class_weights is weights for k in range(3))
    network.weigh_classes(None)
    assert all(network.head(k).class_weights is None for k in range(3))


def test_a_shortlist_is_kept_where_labels_are_tried() -> None:
    network = network_of("trifecta", classes=5)
    assert network.shortlist is None
    network.keep_labels(2)
    assert network.shortlist == Shortlist(labels=2, after=0)
    network.keep_labels(0)
    assert network.shortlist is None
    message = (
        "a shortlist needs a method that tries labels, and blocks that pass on features alone: use no "
        "shortlist for method mono-forward with these blocks"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        network_of().keep_labels(2)
    with pytest.raises(ValueError, match="keeps 1 … 4 of 5 labels, or 0 for all: received 5"):
        network.keep_labels(5)
    assert network_of("trifecta", classes=21).shortlist == Shortlist(labels=20, after=0)
    network.keep_labels(2)
    short, exact = network.block_scores(IMAGES), network.block_scores(IMAGES, every_label=True)
    assert torch.equal(short[0], exact[0])  # type: ignore[arg-type]
    assert short[2] is not None
    assert short[2].isfinite().sum(1).tolist() == [2] * 5
    assert exact[2] is not None
    assert exact[2].isfinite().all()
    assert torch.equal(short[2][short[2].isfinite()], exact[2][short[2].isfinite()])


def test_samples_are_taken_in_the_precision_of_the_blocks() -> None:
    network = network_of()
    assert (network.dtype, network.device) == (torch.float32, torch.device("cpu"))
    assert network.as_samples(IMAGES) is IMAGES
    assert network.as_samples(IMAGES.double()).dtype == torch.float32
    assert network.as_samples(LABELS) is LABELS
    wide = LocalNetwork(
        [block.double() for block in blocks_of()], get_method("pred"), sample_shape=(4,), num_classes=3
    )
    assert wide.dtype == wide.temperature.dtype == wide.as_samples(IMAGES).dtype == torch.float64
    assert {p.dtype for p in wide.parameters()} == {torch.float64}
    bare = LocalNetwork([nn.Tanh()], get_method("mono-forward"), sample_shape=(4,), num_classes=3)
    assert bare.dtype == torch.float32
    tokens = LocalNetwork(
        [nn.Sequential(nn.Embedding(9, 4), nn.Flatten())],
        get_method("mono-forward"),
        sample_shape=(5,),
        num_classes=3,
        integer=True,
    )
    assert tokens.as_samples(IMAGES.double()).dtype == torch.float64


def test_the_first_two_samples_are_passed_in_evaluation_mode_without_a_trace() -> None:
    seen: list[tuple[bool, torch.Size, bool]] = []

    class Noted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(8, 4), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training, x.shape, bool(x[:, :4].any())))
            y: Tensor = self.norm(self.linear(x))
            return y

    block = Noted().eval()
    network = LocalNetwork([block], get_method("trifecta"), sample_shape=(4,), num_classes=3)
    # Whether it takes labelled samples; its layout; whether it draws.
    assert seen[1:] == [(False, torch.Size([2, 8]), False), (True, torch.Size([2, 8]), True)]
    assert not block.training
    assert not network.blocks[0].get_buffer("norm.running_mean").any()
    assert network.feature_shapes == ((4,),)
    assert network.label_shape == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 1}, "a classifier needs at least 2 classes: received 1"),
        ({"blocks": []}, "a network needs at least one block: received none"),
        (
            {"blocks": [shared := nn.Linear(4, 4), nn.Tanh(), shared]},
            "blocks must not share parameters: blocks 0 and 2 do; put what they share into one block, or "
            "give each a copy",
        ),
        (
            {"blocks": [nn.Linear(4, 4), nn.Linear(4, 4).half()]},
            "weights learn in float32 or float64: block 1 has some in torch.float16; give it as float32, "
            "and precision bf16 to compute in half precision",
        ),
        ({"method": "ff"}, "method is a Method: received 'ff'; get_method(name) makes one"),
    ],
)
def test_what_makes_no_network_is_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"blocks": blocks_of(), "method": get_method("pred"), "num_classes": 3}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LocalNetwork(**{**given, **change}, sample_shape=(4,))


def test_frozen_weights_may_be_in_half_precision() -> None:
    blocks = [nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))]
    blocks[1].register_parameter("unused", nn.Parameter(torch.zeros(2).half(), requires_grad=False))
    LocalNetwork(blocks, get_method("pred"), sample_shape=(4,), num_classes=3)


def builder(give: Callable[..., Any]) -> Callable[..., Any]:
    def own_network(input_shape: tuple[int, ...], *, width: float = 1.0, style: Any = None) -> Any:
        return give(input_shape, width, style)

    return own_network


def weights_of(network: LocalNetwork) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters())


def test_a_network_is_built_by_name_or_by_a_builder() -> None:
    method = replace(get_method("trifecta"), dropout=0.25)
    seen: list[Any] = []

    def give(*arguments: Any) -> list[nn.Module]:
        seen.append(arguments)
        return blocks_of(8)

    network = build_network(method, builder(give), sample_shape=(4,), num_classes=3, width=0.5)
    (shape, width, style) = seen[-1]
    assert (shape, width, style.dropout, style.num_classes) == ((8,), 0.5, 0.25, 3)
    assert (network.sample_shape, network.num_classes, network.method) == ((4,), 3, method)
    one, same, other = (
        build_network(method, "mlp", sample_shape=(4,), num_classes=3, channels=(5, 6, 7, 8), seed=seed)
        for seed in (0, 0, 1)
    )
    assert [shape[0] for shape in one.feature_shapes] == [5, 6, 7, 8]
    assert torch.equal(weights_of(one), weights_of(same))
    assert not torch.equal(weights_of(one), weights_of(other))
    plain = build_network(method, "mlp", sample_shape=(4,), num_classes=3)
    whole = build_network(method, "mlp", sample_shape=(4,), num_classes=3, width=1.0, seed=0)
    assert torch.equal(weights_of(plain), weights_of(whole))
    for wrong, told in ((nn.Tanh(), "iterable, but got Tanh"), ([1], "int is not a Module subclass")):
        with pytest.raises(ValueError, match=rf"^network own_network\(.*\) fails: TypeError: .*{told}"):
            build_network(method, builder(lambda *_, wrong=wrong: wrong), sample_shape=(4,), num_classes=3)


def test_a_network_that_no_memory_holds_is_refused_before_it_is_built() -> None:
    message = r"^a network of [\d,]{15,} weights would take .* use a smaller width$"
    with pytest.raises(ValueError, match=message):
        build_network(get_method("backprop"), "mlp", sample_shape=(4,), num_classes=3, width=500)


def test_blocks_are_compared_with_the_model_that_they_were_cut_from() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    for block, differs in ((model[0], False), (nn.Linear(4, 4), True)):
        with pytest.raises(ValueError, match="up to 0 it computes") if differs else nullcontext():
            blocks = Blocks([block], model=(model, ["0"]))
            LocalNetwork(blocks, get_method("pred"), sample_shape=(4,), num_classes=3)


def test_trying_blocks_draws_nothing() -> None:
    method = replace(get_method("ff"), label_input="overlay")
    blocks, before = blocks_of(method.input_shape((4,), 3)[0]), torch.get_rng_state()
    LocalNetwork(blocks, method, sample_shape=(4,), num_classes=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_old_weights_have_a_temperature_of_one() -> None:
    network = network_of()
    state = network.state_dict()
    del state["temperature"], state["offset"]
    network.temperature.fill_(3.0)
    network.offset.fill_(1.0)
    network.load_state_dict(state)
    assert network.temperature == 1
    assert network.offset.tolist() == [0, 0, 0]


def test_calibrated_scores_are_divided_and_then_moved_by_class() -> None:
    network = network_of()
    network.temperature.fill_(2.0)
    network.offset.copy_(torch.tensor([1.0, 0.0, -1.0]))
    scores = torch.tensor([[4.0, 6.0, 8.0], [0.0, 2.0, 2.0]])
    expected = torch.tensor([[3.0, 3.0, 3.0], [1.0, 1.0, 0.0]])
    assert torch.equal(network.calibrated(scores), expected)
    assert torch.equal(network.calibrated(scores.unsqueeze(2).expand(2, 3, 5))[:, :, 4], expected)


class Mixer(nn.Module):
    """Maps tokens and features, whose numbers are both fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.features = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.features(self.tokens(x.transpose(1, 2)).transpose(1, 2))
        return y


def test_layouts_are_those_of_the_blocks_unless_they_are_declared() -> None:
    def layouts(blocks: list[nn.Module] | Blocks, **options: Any) -> tuple[str, ...]:
        return LocalNetwork(
            blocks, get_method("pred"), sample_shape=(4, 4), num_classes=3, **options
        ).layouts

    assert layouts(Blocks([Mixer(), Mixer()], channels=("last", "first"))) == ("last", "first")
    assert layouts(Blocks([Mixer()], channels="last"), channels="first") == ("first",)
    assert layouts([Mixer()], channels="last") == ("last",)
    message = (
        "block 0 returns (2, 4, 4), and its layers do not tell where the channels are: "
        'give channels="first" for (N, C, …) or "last" for (N, …, C)'
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        layouts([Mixer()])
    for declared, told in (
        ("middle", "middle"),
        (["first", "last"], "['first', 'last']"),
        (["no"], "['no']"),
    ):
        message = f"channels are first or last, for all blocks or one for each of the 1: received {told}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            layouts([Mixer()], channels=declared)


class WithMask(nn.Module):
    """Passes a value on beside its features."""

    def forward(self, x: Any) -> Any:
        return BlockOutput(features_of(x), (torch.ones(2),))


def test_side_values_allow_neither_new_pairs_nor_a_shortlist() -> None:
    network = LocalNetwork([WithMask()], get_method("trifecta"), sample_shape=(4,), num_classes=30)
    assert network.has_side_values
    assert network.shortlist is None
    with pytest.raises(ValueError, match=r"^a shortlist needs .* for method trifecta with these blocks$"):
        network.keep_labels(2)
    message = (
        "method scff makes new pairs of what a block passes on, and these blocks pass on other values too: "
        "use another method, or blocks as a list"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        LocalNetwork([WithMask()], get_method("scff"), sample_shape=(4,), num_classes=3)


class Later(nn.Module):
    """Leaves out the first position."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1:]


def test_tokens_have_a_label_where_they_are_embedded_and_one_at_every_position() -> None:
    block = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 6))
    options: dict[str, Any] = {"sample_shape": (5,), "integer": True}
    network = LocalNetwork([block, nn.Linear(6, 7)], get_method("trifecta"), num_classes=3, **options)
    assert isinstance(network.label_input, LabelEmbedding)
    assert network.label_name == "embedding"
    tokens, labels = torch.arange(10).view(2, 5) % 9, torch.tensor([0, 2])
    seen, passed = network.pass_block(0, network.labelled(tokens, labels))
    added = network.label_input.embeddings(labels).unsqueeze(1)
    torch.testing.assert_close(passed, block[1](block[0](tokens) + added))
    torch.testing.assert_close(seen, passed.movedim(-1, 1))
    method = get_method("superfecta").at_positions()
    network = LocalNetwork([block, nn.Linear(6, 7)], method, num_classes=7, **options)
    assert network.feature_shapes == ((6, 5), (7, 5))
    assert network.label_shape == (5,)
    blocks = [block, nn.Linear(6, 6), nn.Sequential(Later(), nn.Linear(6, 7))]
    network = LocalNetwork(blocks, method, num_classes=7, **options)
    assert network.feature_shapes == ((6, 5), (6, 5), (7, 4))
    assert network.label_shape == (4,)


@dataclass(frozen=True, kw_only=True)
class Inside(CrossEntropy):
    """Reads the response of a block, and drops some of it."""

    reads: ClassVar[str] = "response"

    def head(self, feature_shape: tuple[int, ...], num_classes: int) -> Head:
        head = super().head(feature_shape, num_classes)
        head.add_module("dropout", nn.Dropout())
        return head


def test_a_head_may_read_inside_a_block_and_draw() -> None:
    method = replace(get_method("mono-forward"), objective=Inside())
    network = build_network(method, "mlp", sample_shape=(4,), num_classes=3, width=0.002)
    assert network.reads == "response"
    assert network.draws == {0, 1, 2, 3}
    seen, passed = network.eval().pass_block(0, IMAGES)
    assert bool((seen < 0).any())
    assert torch.equal(passed, seen.relu())
    assert network_of().draws == frozenset()


def test_heads_know_which_blocks_are_residual() -> None:
    class Noted(CrossEntropy):
        def head_at(self, site: Site) -> Head:
            seen.append((site.block, [*site.residual]))
            return super().head(site.feature_shape, site.num_classes)

    seen: list[tuple[int, list[int]]] = []
    method = replace(get_method("mono-forward"), objective=Noted())
    blocks = [nn.Conv2d(1, 2, 3), ResidualBlock((2, 4, 4), 2)]
    LocalNetwork(blocks, method, sample_shape=(1, 6, 6), num_classes=3)
    assert seen == [(0, [1]), (1, [1])]


def test_a_whole_model_as_blocks_is_refused_with_the_way_to_cut_it() -> None:
    model = nn.Module()
    with pytest.raises(ValueError, match=r"received one Module; give a list, or from_module\(model\)"):
        LocalNetwork(cast(Any, model), get_method("superfecta"), sample_shape=(4,), num_classes=2)
