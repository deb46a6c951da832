"""Auxiliary networks of later blocks' shapes."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta import LocalNetwork, RunConfig, get_method
from trifecta.losses import AugmentedAuxiliary, AuxiliaryCrossEntropy, Combined, Similarity, Site
from trifecta.losses.classifiers import ResidualLayer, blocks_ahead
from trifecta.losses.head import build_head
from trifecta.network import build_network
from trifecta.training import from_plain, to_plain

MAPS = [(4, 8, 8), (6, 8, 8), (8, 4, 4), (10, 2, 2)]


def weights_of(head: nn.Module) -> list[Tensor]:
    """Of convolutions and linear layers, in order."""
    return [parameter for parameter in head.parameters() if parameter.ndim > 1]


def bias_of(head: nn.Module) -> Tensor:
    """Of the classifier."""
    return list(head.parameters())[-1]


@pytest.mark.parametrize(
    ("block", "depth", "expected"),
    [
        # What the authors' code picks of the 16 parts of its ResNet-32.
        (0, 2, [8, 15]),
        (1, 2, [8, 15]),
        (4, 2, [10, 15]),
        (0, 3, [5, 10, 15]),
        (13, 2, [14, 15]),
        (14, 2, [15]),
        (15, 2, []),
    ],
)
def test_blocks_ahead_are_evenly_spaced_as_in_the_authors_code(
    block: int, depth: int, expected: list[int]
) -> None:
    assert blocks_ahead(block, 16, depth) == expected


def test_a_layer_has_the_channels_of_a_later_block_and_halves_maps_where_channels_grow() -> None:
    head = AugmentedAuxiliary().head_at(Site(0, MAPS, 3))
    seen: list[tuple[int, ...]] = []
    for layer in head.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(lambda _, inputs, output: seen.append(tuple(inputs[0].shape[1:])))
    head.scores(torch.rand(2, *MAPS[0]))
    # Of blocks 2 and 3, then the classifier.
    assert seen == [(4, 4, 4), (8, 2, 2), (10,)]
    assert [tuple(weight.shape[:2]) for weight in weights_of(head)] == [(8, 4), (10, 8), (3, 10)]


def test_scores_are_those_of_convolutions_under_batch_normalisation_and_of_averages() -> None:
    head = AugmentedAuxiliary(smoothing=0.1).head_at(Site(1, MAPS, 3)).double()
    features = torch.rand(5, *MAPS[1], dtype=torch.float64)
    labels = torch.arange(5) % 3
    weights = weights_of(head)
    x = features
    for weight in weights[:2]:
        x = F.conv2d(F.max_pool2d(x, 2), weight, padding=1)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        x = torch.relu((x - mean) / (variance + 1e-5).sqrt())
    expected = F.linear(x.mean((2, 3)), weights[2], bias_of(head))
    torch.testing.assert_close(head.scores(features), expected)
    log_p = expected.log_softmax(1)
    target = F.one_hot(labels, 3) * 0.9 + 0.1 / 3
    torch.testing.assert_close(head.loss(features, labels), -(target * log_p).sum(1).mean())


def test_the_last_block_has_a_linear_classifier_of_averages() -> None:
    head = AugmentedAuxiliary().head_at(Site(3, MAPS, 3))
    (weight,) = weights_of(head)
    x = torch.rand(2, *MAPS[3])
    torch.testing.assert_close(head.scores(x), F.linear(x.mean((2, 3)), weight, bias_of(head)))


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(7,), (5,), (4,)], [(5, 7), (4, 5), (2, 4)]),
        # Fully connected blocks behind maps: averages come first.
        ([(6, 4, 4), (5,), (4,)], [(5, 6), (4, 5), (2, 4)]),
        # Channels that become fewer leave maps as they are, and so do maps of one position.
        ([(6, 4, 4), (5, 8, 8), (4, 8, 8)], [(5, 6), (4, 5), (2, 4)]),
        ([(4, 1, 8), (5, 1, 4), (6, 1, 2)], [(5, 4), (6, 5), (2, 6)]),
        # Blocks that keep another number of positions are taken as fully connected ones.
        ([(4, 4, 4), (5, 16), (6, 16)], [(5, 4), (6, 5), (2, 6)]),
    ],
)
def test_other_blocks(shapes: list[tuple[int, ...]], expected: list[tuple[int, int]]) -> None:
    head = AugmentedAuxiliary(depth=2).head_at(Site(0, shapes, 2))
    assert [tuple(weight.shape[:2]) for weight in weights_of(head)] == expected
    assert head.scores(torch.rand(3, *shapes[0])).shape == (3, 2)


def strides_of(head: nn.Module) -> list[int]:
    layers = [layer.residual[0] for layer in head.modules() if isinstance(layer, ResidualLayer)]
    return [layer.stride[0] for layer in layers if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        # What the authors' code does: a halving for each doubling, one a layer, the rest later.
        ((16, 16, 32, 64), [1, 2, 2]),
        ((16, 64, 64, 64), [2, 2, 1]),
        ((16, 16, 128, 128), [1, 2, 2]),
        ((16, 24, 47, 90), [1, 1, 1]),
        ((32, 16, 32, 8), [1, 2, 1]),
    ],
)
def test_residual_layers_halve_maps_once_for_every_doubling(
    channels: tuple[int, ...], expected: list[int]
) -> None:
    shapes = [(count, 8, 8) for count in channels]
    head = AugmentedAuxiliary(depth=3).head_at(Site(0, shapes, 2, residual=[1, 2, 3]))
    assert strides_of(head) == expected
    layers = [layer for layer in head.modules() if isinstance(layer, ResidualLayer)]
    sizes = [len(layer.shortcut) > 0 for layer in layers]
    changes = [a != b for a, b in pairwise(channels)]
    assert sizes == [stride > 1 or change for stride, change in zip(expected, changes, strict=True)]
    assert head.scores(torch.rand(3, *shapes[0])).shape == (3, 2)


def test_a_residual_layer_of_odd_maps_and_of_signals() -> None:
    layer = ResidualLayer(3, 5, 1, stride=2).double()
    x = torch.rand(4, 3, 7, dtype=torch.float64)
    first, second, beside = (weight for weight in layer.parameters() if weight.ndim == 3)

    def normalised(y: Tensor) -> Tensor:
        return F.batch_norm(y, None, None, training=True)

    y = normalised(F.conv1d(F.relu(normalised(F.conv1d(x, first, stride=2, padding=1))), second, padding=1))
    expected = F.relu(y + normalised(F.conv1d(x, beside, stride=2)))
    torch.testing.assert_close(layer(x), expected)


def test_one_residual_layer_has_normalised_averages() -> None:
    head = AugmentedAuxiliary(depth=1).head_at(Site(0, MAPS, 3, residual=[3]))
    norm = head.get_submodule("network")[-2]  # type: ignore[index]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.num_features == 10
    for plain in (
        AugmentedAuxiliary(depth=1).head_at(Site(0, MAPS, 3)),
        AugmentedAuxiliary().head_at(Site(2, MAPS, 3, [3])),
    ):
        assert not any(isinstance(module, nn.BatchNorm1d) for module in plain.modules())


def test_a_residual_network_has_residual_layers() -> None:
    network = build_network(
        get_method("auglocal"), "resnet", sample_shape=(3, 8, 8), num_classes=3, width=1 / 16
    )
    # Of 9 blocks, whose channels double at 3, 5 and 7.
    strides = [strides_of(network.head(k)) for k in network.scored_blocks]
    assert strides == [*[[2, 2]] * 5, [1, 2], [2, 1], [1], []]


def seen_by(head: AugmentedAuxiliary, shapes: list[tuple[int, ...]]) -> list[int]:
    """The first side of the maps that each convolution of a head on the first block sees."""
    built, seen = head.head_at(Site(0, shapes, 3)), []
    for layer in built.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].shape[2]))
    built.scores(torch.rand(2, *shapes[0]))
    return seen


@pytest.mark.parametrize(
    ("channels", "side", "expected"),
    [
        ((4, 4, 5, 5), 8, [8, 4, 4]),
        ((2, 4, 8, 16), 8, [4, 2, 1]),
        ((2, 4, 8, 16), 5, [2, 1, 1]),
        ((2, 4, 8, 16), 3, [1, 1, 1]),
        ((2, 9, 3, 4), 12, [6, 6, 3]),
    ],
)
def test_maps_are_halved_once_where_channels_grow_down_to_one_position(
    channels: tuple[int, ...], side: int, expected: list[int]
) -> None:
    assert seen_by(AugmentedAuxiliary(depth=3), [(count, side, side) for count in channels]) == expected


def test_layers_have_no_bias_under_their_norms() -> None:
    linear = AugmentedAuxiliary(depth=1).head_at(Site(0, [(7,), (5,)], 2))
    assert [tuple(p.shape) for p in linear.parameters()] == [(5, 7), (5,), (5,), (2, 5), (2,)]
    maps = AugmentedAuxiliary(depth=1).head_at(Site(0, [(7, 2, 2), (5, 2, 2)], 2))
    assert [tuple(p.shape) for p in maps.parameters()] == [(5, 7, 3, 3), (5,), (5,), (2, 5), (2,)]


def test_a_network_gives_every_block_the_shapes_of_those_behind_it() -> None:
    network: LocalNetwork = build_network(
        get_method("auglocal"), "small", sample_shape=(3, 8, 8), num_classes=3, width=0.125
    )
    channels = [shape[0] for shape in network.feature_shapes]
    for k in network.scored_blocks:
        outputs = [len(weight) for weight in weights_of(network.head(k))]
        assert outputs == [*(channels[ahead] for ahead in blocks_ahead(k, 6, 2)), 3]


def test_a_combination_passes_the_shapes_on() -> None:
    combined = Combined(scoring=AugmentedAuxiliary(depth=1), terms=(Similarity(),))
    head = build_head(combined, Site(0, MAPS, 3))
    scores: Tensor = head.scores(torch.rand(2, *MAPS[0]))
    assert scores.shape == (2, 3)
    assert (10, 4, 3, 3) in {tuple(weight.shape) for weight in weights_of(head)}


def test_a_depth_is_at_least_1() -> None:
    with pytest.raises(ValueError, match="depth"):
        AugmentedAuxiliary(depth=0)


def test_the_settings_of_earlier_runs_name_it_later_layers() -> None:
    config = RunConfig(method=get_method("auglocal"))
    plain = to_plain(config)
    assert plain["method"]["objective"]["kind"] == "augmented-auxiliary"
    plain["method"]["objective"]["kind"] = "later-layers"
    assert from_plain(plain) == config


def test_later_units_that_grow_are_linear_layers() -> None:
    head = AugmentedAuxiliary(depth=2).head_at(Site(0, [(4, 4, 4), (5, 16), (7,)], 2))
    assert [tuple(weight.shape) for weight in weights_of(head)] == [(5, 4), (7, 5), (2, 7)]


def test_a_residual_layer_that_halves_has_a_shortcut_of_its_own() -> None:
    layer = ResidualLayer(3, 3, 2, stride=2)
    assert [tuple(weight.shape) for weight in weights_of(layer)] == [(3, 3, 3, 3)] * 2 + [(3, 3, 1, 1)]
    assert len(list(ResidualLayer(3, 3, 2, stride=1).shortcut)) == 0
    assert layer(torch.rand(2, 3, 4, 4)).shape == (2, 3, 2, 2)


def test_a_convolutional_head_is_two_convolutions_averages_and_a_classifier() -> None:
    head = AuxiliaryCrossEntropy().head((3, 4, 4), 2).double().eval()
    x = torch.rand(5, 3, 4, 4, dtype=torch.float64)
    first, second, classifier = weights_of(head)
    # Running statistics are 0 and 1 before the first step.
    shrunk = (1 + 1e-5) ** -0.5
    y = F.relu(F.conv2d(F.relu(F.conv2d(x, first, padding=1) * shrunk), second, padding=1) * shrunk)
    averages = F.adaptive_avg_pool2d(y, 2) * shrunk
    torch.testing.assert_close(head.scores(x), F.linear(averages.flatten(1), classifier, bias_of(head)))
