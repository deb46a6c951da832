"""Statistics of batch normalisations, estimated where running averages lag."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from reference.statistics import slow_statistics
from trifecta import (
    Learner,
    LocalNetwork,
    Method,
    build_network,
    estimate_statistics,
    from_module,
    get_method,
)
from trifecta.inputs import draw_offsets, wrong_labels
from trifecta.learner import training_input
from trifecta.statistics import (
    ENOUGH,
    LAGGING,
    REMEMBERED,
    RunningStatistics,
    bound_variances,
    lagging_norms,
    set_statistics,
)

Batch = tuple[Tensor, Tensor]


def batches(count: int = 2, size: int = 24) -> list[Batch]:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 1, 8, 8, generator=draw) + 2, torch.arange(size) % 3) for _ in range(count)]


def trained(method: str | Method) -> LocalNetwork:
    """A network after three steps, whose running averages lag far behind."""
    chosen = get_method(method) if isinstance(method, str) else method
    network = build_network(chosen, "small", sample_shape=(1, 8, 8), num_classes=3, width=0.05, seed=0)
    learner = Learner(network, generator=torch.Generator().manual_seed(0))
    for batch in batches(3):
        learner.step(*batch)
    return network


def norms_of(network: nn.Module) -> dict[str, Tensor]:
    return {n: b for n, b in network.named_buffers() if n.endswith(("running_mean", "running_var"))}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    "method", ["superfecta", "backprop", "predsim", "mono-forward", "rec-lra", "cwcomp"]
)
def test_statistics_are_means_over_the_batches(method: str) -> None:
    network = trained(method)
    before = copy.deepcopy(norms_of(network))
    replaced = estimate_statistics(network, batches())
    assert all(torch.equal(before[name], value) for name, value in replaced.items())
    own = {n: v for n, v in norms_of(network).items() if n in replaced}
    expected = slow_statistics(network, [images for images, _ in batches()])
    # What only a loss passes predicts nothing, and keeps its own.
    assert_close({n: v for n, v in own.items() if n in expected}, expected)
    assert all(torch.equal(own[name], before[name]) for name in set(own) - set(expected))
    assert any(not torch.equal(own[name], before[name]) for name in own)
    set_statistics(network, replaced)
    assert all(torch.equal(value, before[name]) for name, value in norms_of(network).items())


def test_positives_and_negatives_share_them_as_in_training() -> None:
    network = trained("trifecta")
    draw, pairs = torch.Generator().manual_seed(0), []
    for images, labels in batches():
        wrong = wrong_labels(labels, 3, draw)
        pairs.append(network.labelled(torch.cat([images, images]), torch.cat([labels, wrong])))
    estimate_statistics(network, batches())
    assert_close(norms_of(network), slow_statistics(network, pairs))


@pytest.mark.parametrize(
    "method",
    [
        get_method("superfecta"),
        get_method("rec-lra"),
        replace(get_method("trifecta"), negatives="hard"),
        replace(get_method("scff"), normalization="batch"),
        replace(get_method("masked-mix"), normalization="batch"),
    ],
    ids=lambda method: method.name,
)
def test_nothing_else_moves(method: Method) -> None:
    network = trained(method)
    network.blocks[1].train(False)
    modes = [module.training for module in network.modules()]
    before, draws = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    replaced = estimate_statistics(network, batches())
    after = network.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == set(replaced)
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(p.grad is None for p in network.parameters())


class Fixed(nn.BatchNorm2d):
    """Keeps its statistics, whatever mode it is set to."""

    def train(self, mode: bool = True) -> "Fixed":
        return super().train(False)


def test_layers_that_are_fixed_keep_theirs() -> None:
    frozen = nn.BatchNorm2d(8)
    for parameter in frozen.parameters():
        parameter.requires_grad = False
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), Fixed(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3), frozen, nn.ReLU(),
        nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(),
        nn.Dropout(0.9), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, affine=False), nn.Flatten(),
        nn.Linear(32, 8),
    )  # fmt: skip
    network = LocalNetwork(from_module(model), get_method("predsim"), sample_shape=(1, 8, 8), num_classes=3)
    replaced = estimate_statistics(network, batches())
    own = [m for m in network.blocks.modules() if isinstance(m, nn.BatchNorm2d)]
    assert own[0].running_mean is not None
    assert own[1].running_mean is not None
    assert own[3].running_mean is not None
    assert bool((own[0].running_mean == 0).all() and (own[1].running_mean == 0).all())
    assert bool((own[3].running_mean != 0).all())
    first = copy.deepcopy(norms_of(network))
    # Dropout would draw other masks.
    estimate_statistics(network, batches())
    assert all(torch.equal(value, first[name]) for name, value in norms_of(network).items())
    assert len(replaced) >= 2


def test_running_norms_keep_theirs() -> None:
    network = trained(replace(get_method("trifecta"), normalization="running"))
    before = copy.deepcopy(network.state_dict())
    assert estimate_statistics(network, batches()) == {}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_samples_that_are_no_numbers_are_left_out() -> None:
    (images, labels), *_ = batches()
    bad = torch.cat([images, torch.full_like(images[:2], torch.nan)]), torch.cat([labels, labels[:2]])
    network = trained("superfecta")
    estimate_statistics(network, [(images, labels)])
    expected = copy.deepcopy(norms_of(network))
    estimate_statistics(network, [bad, (bad[0][-3:], bad[1][-3:])])
    assert all(torch.equal(value, expected[name]) for name, value in norms_of(network).items())
    estimate_statistics(network, [])
    assert all(torch.equal(value, expected[name]) for name, value in norms_of(network).items())


@pytest.mark.parametrize(("momentum", "steps"), [(0.1, 80), (0.5, 16), (0.01, 800), (None, 80)])
def test_averages_lag_for_as_long_as_they_hold_their_start(momentum: float | None, steps: int) -> None:
    norm = nn.Sequential(nn.BatchNorm1d(2, momentum=momentum))
    assert lagging_norms(norm, steps - 1)
    assert not lagging_norms(norm, steps)
    assert lagging_norms(norm)


def test_a_network_that_was_trained_for_long_keeps_its_running_averages() -> None:
    network = trained("superfecta")
    before = copy.deepcopy(network.state_dict())
    assert estimate_statistics(network, batches(), steps=80) == {}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def slow_average(network: LocalNetwork, given: list[Batch]) -> dict[str, Tensor]:
    """Cumulative statistics of all blocks in training mode, with inputs drawn from seed 0."""
    twin, draw = copy.deepcopy(network), torch.Generator().manual_seed(0)
    norms = [m for m in twin.modules() if isinstance(m, nn.BatchNorm2d)]
    for number, (images, labels) in enumerate(given):
        x = training_input(twin.eval(), images, labels, draw)
        offsets = draw_offsets(len(twin.blocks), len(labels), draw, x.device) if twin.renews_pairs else None
        for norm in norms:
            norm.momentum = None
            if number == 0:
                norm.reset_running_stats()
        twin.train()
        for k in range(len(twin.blocks)):
            _, x = twin.pass_block(k, x, offsets)
    return norms_of(twin)


@pytest.mark.parametrize(
    "method",
    [replace(get_method("trifecta"), negatives="hard"), replace(get_method("scff"), normalization="batch")],
    ids=lambda method: method.name,
)
def test_inputs_are_drawn_as_in_training_and_predictions_need_no_batch(method: Method) -> None:
    network = trained(method)
    expected = slow_average(network, batches(3))
    estimate_statistics(network, batches(3))
    for name, value in norms_of(network).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_statistics_are_those_of_the_precision_of_training() -> None:
    exact, half = trained("superfecta"), trained("superfecta")
    estimate_statistics(exact, batches())
    estimate_statistics(half, batches(), precision="bf16")
    for name, value in norms_of(half).items():
        torch.testing.assert_close(value, norms_of(exact)[name], rtol=0.05, atol=0.05)
    assert any(not torch.equal(value, norms_of(exact)[name]) for name, value in norms_of(half).items())


@pytest.mark.parametrize(("count", "factor", "moves"), [(2, 1.0, True), (1, 1.0, False), (24, 1e30, False)])
def test_one_sample_or_overflow_gives_no_statistics(count: int, factor: float, moves: bool) -> None:
    network = trained("superfecta")
    before = copy.deepcopy(norms_of(network))
    ((images, labels),) = batches(1)
    estimate_statistics(network, [(images[:count] * factor, labels[:count])])
    first = "blocks.0.normalize.running_var"
    assert torch.equal(network.get_buffer(first), before[first]) != moves


def test_norms_with_nothing_to_learn_lag_too_unless_they_are_frozen() -> None:
    frozen = nn.BatchNorm1d(2).requires_grad_(False)
    half = nn.BatchNorm1d(2)
    half.weight.requires_grad_(False)
    without = nn.BatchNorm1d(2, track_running_stats=False)
    network = nn.Sequential(nn.BatchNorm1d(2, affine=False), frozen, half, without, nn.LayerNorm(2))
    assert list(lagging_norms(network)) == ["0", "2"]


def test_the_first_512_samples_are_remembered() -> None:
    given = [(torch.zeros(size, 1), torch.zeros(size)) for size in (256, 255, 1, 7)]
    statistics, enough = RunningStatistics(), list[bool]()
    for batch in given:
        assert statistics.remember(batch) is batch
        enough.append(statistics.has_enough)
    assert [len(labels) for _, labels in statistics.seen] == [256, 255, 1]
    assert enough == [False, False, True, True]
    assert (LAGGING, ENOUGH, REMEMBERED) == (8.0, 2048, 512)


def test_only_single_pixels_have_a_bounded_variance() -> None:
    shapes = {"mlp": (2, 4, 4), "small": (2, 8, 8)}
    for method in ("superfecta", "trifecta"):
        for name, shape in shapes.items():
            network = build_network(get_method(method), name, sample_shape=shape, num_classes=3, width=0.05)
            norm = network.get_submodule("blocks.0.normalize")
            assert isinstance(norm.running_var, Tensor)
            variance = norm.running_var = torch.linspace(0, 2, len(norm.running_var))
            before, pixels = variance.clone(), math.prod(shape)
            replaced = bound_variances(network)
            if name == "small":
                assert replaced == {}
                assert torch.equal(variance, before)
                continue
            assert torch.equal(replaced["blocks.0.normalize.running_var"], before)
            least = before[:pixels].mean() / 10
            torch.testing.assert_close(variance[:pixels], before[:pixels].clamp(min=least))
            assert torch.equal(variance[pixels:], before[pixels:])
            set_statistics(network, replaced)
            assert torch.equal(variance, before)
    table = build_network(get_method("superfecta"), "mlp", sample_shape=(9,), num_classes=3, width=0.05)
    assert bound_variances(table) == {}
