"""Auxiliary networks of later blocks' shapes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta import LocalNetwork, get_method
from trifecta.building import build_network
from trifecta.losses import Combined, LaterLayers, Similarity
from trifecta.losses.head import head_at
from trifecta.losses.later_layers import blocks_ahead

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


def test_a_layer_has_the_channels_of_a_later_block_and_sees_the_positions_that_it_receives() -> None:
    head = LaterLayers().head_at(0, MAPS, 3)
    seen: list[tuple[int, ...]] = []
    for layer in head.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(lambda _, inputs, output: seen.append(tuple(inputs[0].shape[1:])))
    head.scores(torch.rand(2, *MAPS[0]))
    # Blocks 2, which receives 8×8 positions, and 3, which receives 4×4; then the classifier.
    assert seen == [(4, 8, 8), (8, 4, 4), (10,)]
    assert [tuple(weight.shape[:2]) for weight in weights_of(head)] == [(8, 4), (10, 8), (3, 10)]


def test_scores_are_those_of_convolutions_under_batch_normalisation_and_of_averages() -> None:
    head = LaterLayers(smoothing=0.1).head_at(1, MAPS, 3).double()
    features = torch.rand(5, *MAPS[1], dtype=torch.float64)
    labels = torch.arange(5) % 3
    weights = weights_of(head)
    x = features
    for weight, size in zip(weights[:2], (8, 4), strict=True):
        x = F.conv2d(F.adaptive_max_pool2d(x, size), weight, padding=1)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        x = torch.relu((x - mean) / (variance + 1e-5).sqrt())
    expected = F.linear(x.mean((2, 3)), weights[2], bias_of(head))
    torch.testing.assert_close(head.scores(features), expected)
    log_p = expected.log_softmax(1)
    target = F.one_hot(labels, 3) * 0.9 + 0.1 / 3
    torch.testing.assert_close(head.loss(features, labels), -(target * log_p).sum(1).mean())


def test_the_last_block_has_a_linear_classifier_of_averages() -> None:
    head = LaterLayers().head_at(3, MAPS, 3)
    (weight,) = weights_of(head)
    x = torch.rand(2, *MAPS[3])
    torch.testing.assert_close(head.scores(x), F.linear(x.mean((2, 3)), weight, bias_of(head)))


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(7,), (5,), (4,)], [(5, 7), (4, 5), (2, 4)]),
        # Fully connected blocks behind maps: averages come first.
        ([(6, 4, 4), (5,), (4,)], [(5, 6), (4, 5), (2, 4)]),
        # Maps that grow again are not made larger.
        ([(6, 4, 4), (5, 8, 8), (4, 8, 8)], [(5, 6), (4, 5), (2, 4)]),
    ],
)
def test_other_blocks(shapes: list[tuple[int, ...]], expected: list[tuple[int, int]]) -> None:
    head = LaterLayers(depth=2).head_at(0, shapes, 2)
    assert [tuple(weight.shape[:2]) for weight in weights_of(head)] == expected
    assert head.scores(torch.rand(3, *shapes[0])).shape == (3, 2)


def test_a_network_gives_every_block_the_shapes_of_those_behind_it() -> None:
    network: LocalNetwork = build_network(
        get_method("auglocal"), "small", sample_shape=(3, 8, 8), num_classes=3, width=0.125
    )
    channels = [shape[0] for shape in network.feature_shapes]
    for k in network.scored_blocks:
        outputs = [len(weight) for weight in weights_of(network.head(k))]
        assert outputs == [*(channels[ahead] for ahead in blocks_ahead(k, 6, 2)), 3]


def test_a_combination_passes_the_shapes_on() -> None:
    combined = Combined(scoring=LaterLayers(depth=1), terms=(Similarity(),))
    head = head_at(combined, 0, MAPS, 3)
    scores: Tensor = head.scores(torch.rand(2, *MAPS[0]))
    assert scores.shape == (2, 3)
    assert (10, 4, 3, 3) in {tuple(weight.shape) for weight in weights_of(head)}


def test_a_depth_is_at_least_1() -> None:
    with pytest.raises(ValueError, match="depth"):
        LaterLayers(depth=0)
