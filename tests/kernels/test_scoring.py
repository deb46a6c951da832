"""Prediction with all labels at once against one plain pass per label."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from matrix import methods
from trifecta import build_network, get_method
from trifecta import network as prediction
from trifecta._utils import devices as chunks
from trifecta.inputs import LABEL_INPUTS
from trifecta.kernels.block import FusedBlock, infer_block
from trifecta.learner import training_input
from trifecta.network import LocalNetwork
from trifecta.readout import Shortlist

SHAPE, CLASSES = (2, 9, 8), 5


def network_of(method: str, network: str, label_input: str | None, normalization: str) -> LocalNetwork:
    varied = replace(get_method(method), normalization=normalization, readout="last")
    if label_input is not None:
        varied = replace(varied, label_input=label_input)
    built = build_network(varied, network, sample_shape=SHAPE, num_classes=CLASSES, width=0.04).double()
    for module in built.modules():
        for name in ("weight", "bias", "running_mean", "running_var"):
            values = getattr(module, name, None)
            if isinstance(values, Tensor) and values.ndim == 1:
                torch.nn.init.uniform_(values, 0.2, 1)
    return built.eval()


def one_label_at_a_time(network: LocalNetwork, images: Tensor) -> list[Tensor]:
    """L × (B, K), by the modules themselves."""
    by_label = []
    for label in range(CLASSES):
        x = network.labelled(images, torch.full((len(images),), label))
        scores = []
        for k, block in enumerate(network.blocks):
            x = block(x)
            scores.append(network.head(k).scores(x))
        by_label.append(torch.stack(scores))
    return list(torch.stack(by_label, dim=2))


# Before any training, running statistics are as good as none.
@pytest.mark.parametrize(
    ("network", "label_input", "normalization"),
    [
        *[("small", label_input, "batch") for label_input in LABEL_INPUTS],
        *[("small", "channel", normalization) for normalization in ("layer", "length", "none")],
        *[("mlp", "channel", normalization) for normalization in ("batch", "length")],
    ],
)
def test_all_labels_at_once_score_as_each_alone(
    network: str, label_input: str, normalization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "LABELLED_SAMPLES", 2 * CLASSES + 1)
    monkeypatch.setattr(chunks, "_CPU_BYTES", 8 * 5 * 72 * 7)
    built = network_of("trifecta", network, label_input, normalization)
    images = torch.randn(5, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        expected, found = one_label_at_a_time(built, images), built.block_scores(images)
    assert len({tuple(scores.argmax(1).tolist()) for scores in expected}) > 1
    for block, scores in zip(found, expected, strict=True):
        torch.testing.assert_close(block, scores)


@pytest.mark.parametrize("method", methods())
def test_without_a_graph_the_scores_are_those_of_the_graph(method: str) -> None:
    normalization = str(get_method(method).normalization)
    built = network_of(method, "small", None, normalization)
    for parameter in built.head(5).parameters():
        # A classifier may start at zero.
        torch.nn.init.normal_(parameter)
    images = torch.randn(5, *SHAPE, dtype=torch.float64, requires_grad=True)
    with_graph = built(images)
    with torch.no_grad():
        torch.testing.assert_close(built(images), with_graph)
    assert torch.autograd.grad(with_graph.sum(), images)[0].any()


def test_memory_of_a_pass_is_bounded_by_samples_not_by_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    built = network_of("trifecta", "small", "channel", "batch")

    def watched(layers: FusedBlock, x: Tensor) -> object:
        seen.append(len(x))
        return infer_block(layers, x)

    monkeypatch.setattr(prediction, "LABELLED_SAMPLES", 4 * CLASSES)
    monkeypatch.setattr(prediction, "infer_block", watched)
    with torch.no_grad():
        built(torch.randn(11, *SHAPE, dtype=torch.float64))
    assert max(seen) == 4 * CLASSES
    assert sum(seen) == 5 * 11 * CLASSES


def test_no_images_have_no_scores() -> None:
    with torch.no_grad():
        scores = network_of("trifecta", "small", "channel", "batch")(torch.empty(0, *SHAPE).double())
    assert scores.shape == (0, CLASSES)


def test_a_shortlist_scores_its_labels_exactly_and_drops_the_rest() -> None:
    network = network_of("trifecta", "small", "channel", "batch")
    images = torch.randn(6, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        exact = [scores for scores in network.block_scores(images) if scores is not None]
        network.keep_labels(2)
        short = [scores for scores in network.block_scores(images) if scores is not None]
    assert network.shortlist == Shortlist(labels=2, after=1)
    best = exact[1].topk(2, dim=1).indices
    kept = torch.zeros(6, CLASSES, dtype=torch.bool).scatter(1, best, True)
    for block, (expected, found) in enumerate(zip(exact, short, strict=True)):
        if block <= 1:
            torch.testing.assert_close(found, expected)
        else:
            torch.testing.assert_close(found[kept], expected[kept])
            assert bool((found[~kept] == float("-inf")).all())


@pytest.mark.parametrize(
    ("method", "readout", "labels", "message"),
    [
        ("trifecta", "last", -1, "keeps 1 … 4 of 5 labels"),
        ("trifecta", "last", 5, "keeps 1 … 4 of 5 labels"),
        ("trifecta", "0,1", 2, "behind block 1, and the read-out ends at block 1: use no shortlist"),
        ("backprop", "last", 2, "needs a method that tries labels"),
    ],
)
def test_a_shortlist_that_makes_no_sense_is_refused(
    method: str, readout: str, labels: int, message: str
) -> None:
    varied = replace(get_method(method), readout=readout)
    network = build_network(varied, "small", sample_shape=SHAPE, num_classes=CLASSES, width=0.04)
    with pytest.raises(ValueError, match=message):
        network.keep_labels(labels)


def network_of_classes(count: int, method: str = "trifecta", readout: str = "last") -> LocalNetwork:
    varied = replace(get_method(method), readout=readout)
    return build_network(varied, "small", sample_shape=SHAPE, num_classes=count, width=0.04)


def test_many_labels_are_cut_short_unless_all_are_asked_for() -> None:
    network = network_of_classes(30)
    assert network.shortlist == Shortlist(labels=20, after=1)
    images = torch.randn(3, *SHAPE)
    assert network(images).isfinite().sum(1).tolist() == [20, 20, 20]
    exact = network.fused_scores(images, every_label=True)
    assert exact.isfinite().all()
    network.keep_labels(0)
    assert torch.equal(network(images), exact)


@pytest.mark.parametrize(
    ("classes", "method", "readout"),
    [(20, "trifecta", "last"), (30, "trifecta", "0,1"), (30, "pred", "last")],
)
def test_there_is_no_shortlist_where_there_is_no_need_or_no_room(
    classes: int, method: str, readout: str
) -> None:
    assert network_of_classes(classes, method, readout).shortlist is None


def test_a_shortlist_is_by_what_the_read_out_has_so_far() -> None:
    images = torch.randn(5, *SHAPE)
    network = network_of_classes(30, readout="0,1,4")
    exact = network.block_scores(images, every_label=True)
    first, second = exact[:2]
    assert first is not None
    assert second is not None
    best = (first + second).topk(20, dim=1).indices.sort(1).values
    assert torch.equal(network(images).isfinite().nonzero()[:, 1].view(5, 20), best)


def test_hard_negatives_are_drawn_from_every_label() -> None:
    images, labels = torch.randn(4, *SHAPE), torch.arange(4)
    drawn = []
    for kept in (20, 0):
        network = network_of_classes(30)
        network.method = replace(network.method, negatives="hard")
        network.keep_labels(kept)
        drawn.append(training_input(network, images, labels, torch.Generator().manual_seed(0)))
    assert torch.equal(*drawn)
