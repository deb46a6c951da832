"""Counted work: by hand for small networks, and at the batch size of the run for every method."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from matrix import methods
from reference.work import training_multiply_adds
from trifecta.counts import (
    WorkCounter,
    _kinds_of_steps,
    block_costs,
    counts,
    step_multiply_adds,
    trial_batch,
)
from trifecta.learner import Learner
from trifecta.losses import CrossEntropy
from trifecta.methods import Method, backprop, get_method
from trifecta.network import LocalNetwork, build_network
from trifecta.optim import OptimizerConfig
from trifecta.schedules import END_TO_END, LAYER_WISE, OVERLAPPING, Schedule

CLASSES, PIXELS, BATCH = 3, 36, 10
OUT = (4, 5, 6)


def network_of(method: Method, *, normalize: bool = False, blocks: int = 3) -> LocalNetwork:
    """3×3 convolutions on 6×6 grey images: OUT channels."""
    sizes = [method.input_shape((1, 6, 6), 3)[0], *OUT]
    modules = [
        nn.Sequential(
            *([nn.BatchNorm2d(sizes[k])] if normalize else []),
            nn.Conv2d(sizes[k], sizes[k + 1], 3, padding=1, bias=False),
            nn.ReLU(),
        )
        for k in range(blocks)
    ]
    return LocalNetwork(modules, method, sample_shape=(1, 6, 6), num_classes=CLASSES)


def forward_work(in_channels: int = 1) -> list[int]:
    sizes = [in_channels, *OUT]
    return [9 * a * b * PIXELS for a, b in zip(sizes, OUT, strict=False)]


def classifiers(schedule: Schedule, objective: CrossEntropy | None = None) -> Method:
    return replace(backprop.method(), schedule=schedule, objective=objective or CrossEntropy())


def test_one_block_and_a_linear_classifier() -> None:
    """Each product once forward, once for its weight, once for its input, but nobody wants the images'."""
    network = network_of(classifiers(LAYER_WISE), blocks=1)
    assert step_multiply_adds(network, batch_size=BATCH) == 2 * forward_work()[0] + 3 * OUT[0] * CLASSES


def test_the_gain_of_a_norm_needs_the_gradient_under_it() -> None:
    network = network_of(classifiers(LAYER_WISE), normalize=True, blocks=1)
    assert step_multiply_adds(network, batch_size=BATCH) == 3 * forward_work()[0] + 3 * OUT[0] * CLASSES


@pytest.mark.parametrize("schedule", [LAYER_WISE, OVERLAPPING, END_TO_END], ids=str)
def test_fused_windows_need_no_such_gradient_and_reach_the_bound(schedule: Schedule) -> None:
    network = build_network(
        classifiers(schedule), "small", sample_shape=(1, 16, 16), num_classes=CLASSES, width=0.05
    )
    heads = step_multiply_adds(network, batch_size=BATCH, kernels=True) - training_multiply_adds(network)
    channels = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    # How often a head but the last learns.
    share = {LAYER_WISE: 1, OVERLAPPING: 0.5, END_TO_END: 0}[schedule]
    assert heads == 3 * CLASSES * (share * sum(channels[:-1]) + channels[-1])


def test_what_schedules_save() -> None:
    first, second, third = forward_work()
    heads = [3 * channels * CLASSES for channels in OUT]
    expected = {
        LAYER_WISE: 2 * (first + second + third) + sum(heads),
        END_TO_END: 2 * first + 3 * (second + third) + heads[2],
        # Windows (0,1)(2) and (0)(1,2): the last head always, the others in turns.
        OVERLAPPING: 2 * first + 2.5 * (second + third) + heads[0] / 2 + heads[1] / 2 + heads[2],
    }
    for schedule, work in expected.items():
        assert step_multiply_adds(network_of(classifiers(schedule)), batch_size=BATCH) == work


def test_pairs_pass_twice_and_a_learned_label_wants_the_gradient_of_the_input() -> None:
    first, second, third = forward_work(in_channels=2)
    network = network_of(get_method("trifecta"))
    assert step_multiply_adds(network, batch_size=BATCH) == 2 * (3 * first + 2.5 * (second + third))


def test_heads_with_a_hidden_layer_of_patches() -> None:
    method = classifiers(END_TO_END, CrossEntropy(pool=2, hidden=7))
    plain = step_multiply_adds(network_of(classifiers(END_TO_END)), batch_size=BATCH)
    heads = 3 * (4 * OUT[2] * 7 + 7 * CLASSES) - 3 * OUT[2] * CLASSES
    assert step_multiply_adds(network_of(method), batch_size=BATCH) == plain + heads


def test_muon_costs_the_same_for_any_batch() -> None:
    adam = classifiers(LAYER_WISE)
    muon = replace(adam, optimizer=OptimizerConfig(algorithm="muon"))
    rounds = 0
    for in_channels, out_channels in zip((1, *OUT), OUT, strict=False):
        short, long = sorted((9 * in_channels, out_channels))
        # The Gram matrix and the product with it at the end; 5 squares, 4 products, 4 times 2 on the way.
        rounds += 2 * short**2 * long + (5 + 4 + 8) * short**3
    for batch_size in (1, 10, 200):
        extra = rounds / batch_size
        assert step_multiply_adds(network_of(muon), batch_size=batch_size) == pytest.approx(
            step_multiply_adds(network_of(adam), batch_size=batch_size) + extra, rel=1e-12
        )


def test_hard_negatives_and_feedback_cost_a_prediction() -> None:
    base = get_method("trifecta")
    hard = replace(base, negatives="hard")
    work = [step_multiply_adds(network_of(m), batch_size=BATCH) for m in (base, hard)]
    assert work[1] - work[0] == CLASSES * sum(forward_work(in_channels=2))
    feedback = get_method("rec-lra")
    # A prediction, for which all probes are read; the error through the feedback weights; and probes that
    # learn but give their blocks no gradient.
    probes = CLASSES * sum(OUT)
    expected = sum(forward_work()) + probes + probes + 2 * sum(forward_work()) + 2 * probes
    assert step_multiply_adds(network_of(feedback), batch_size=BATCH) == expected


def test_frozen_blocks_cost_a_forward_pass() -> None:
    first, second, third = forward_work()
    method = classifiers(LAYER_WISE)
    freezing = replace(method, optimizer=replace(method.optimizer, freeze_from=0.5))
    heads = [3 * channels * CLASSES for channels in OUT]
    steps = [
        2 * (first + second + third) + sum(heads),
        2 * (first + second + third) + sum(heads),
        first + 2 * (second + third) + heads[1] + heads[2],
        first + second + 2 * third + heads[2],
    ]
    network = network_of(freezing)
    assert step_multiply_adds(network, batch_size=BATCH, total_steps=4) == sum(steps) / 4
    assert step_multiply_adds(network, batch_size=BATCH) == steps[0]


@pytest.mark.parametrize("name", methods())
def test_small_batches_tell_the_work_of_a_large_one(name: str) -> None:
    network = build_network(get_method(name), "small", sample_shape=(1, 8, 8), num_classes=3, width=0.05)
    learner = Learner(copy.deepcopy(network), generator=torch.Generator().manual_seed(1), kernels=False)
    schedule = network.method.schedule
    cycle = schedule.size if schedule.overlapping else 1
    batch_size = 23
    with WorkCounter() as counter:
        for _ in range(cycle):
            learner.step(torch.randn(batch_size, 1, 8, 8), torch.arange(batch_size) % 3)
    direct = counter.multiply_adds / cycle / batch_size
    assert step_multiply_adds(network, batch_size=batch_size) == pytest.approx(direct, rel=1e-12)


@pytest.mark.parametrize("name", ["superfecta", "predsim", "backprop"])
def test_products_are_counted_as_pytorch_counts_them(name: str) -> None:
    network = build_network(get_method(name), "small", sample_shape=(1, 8, 8), num_classes=3, width=0.05)
    ours, theirs = WorkCounter(), FlopCounterMode(display=False)
    for counter in (ours, theirs):
        learner = Learner(copy.deepcopy(network), generator=torch.Generator().manual_seed(1), kernels=False)
        with counter:
            learner.step(torch.randn(6, 1, 8, 8), torch.arange(6) % 3)
    assert ours.multiply_adds == theirs.get_total_flops() / 2 > 0


def test_an_operator_without_overloads_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def operator(count: int, *, times: int) -> int:
        return count * times

    def formula(count: int, *, times: int, out_val: int) -> int:
        return count + times + out_val

    monkeypatch.setitem(flop_registry, operator, formula)
    counter = WorkCounter()
    assert counter.__torch_dispatch__(operator, (), (3,), {"times": 4}) == 12
    assert (counter.multiply_adds, type(counter.multiply_adds)) == (9, int)


def test_a_long_run_without_frozen_blocks_is_counted_by_its_cycle() -> None:
    network = network_of(classifiers(OVERLAPPING))
    assert _kinds_of_steps(network, None) == _kinds_of_steps(network, 10**12) == {0: 1, 1: 1}


@pytest.mark.parametrize("name", ["superfecta", "trifecta", "rec-lra"])
def test_counting_changes_nothing(name: str) -> None:
    network = build_network(get_method(name), "small", sample_shape=(1, 8, 8), num_classes=3, width=0.05)
    network.eval()
    before, drawn = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    step_multiply_adds(network, batch_size=BATCH)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not network.training
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(
    ("schedule", "scored"), [(LAYER_WISE, (0, 1, 2)), (OVERLAPPING, (0, 1, 2)), (END_TO_END, (2,))], ids=str
)
def test_costs_of_blocks_are_three_forward_passes_of_each_and_its_head(
    schedule: Schedule, scored: tuple[int, ...]
) -> None:
    network = network_of(classifiers(schedule))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    heads = [OUT[k] * CLASSES if k in scored else 0 for k in range(3)]
    assert block_costs(network) == [3 * (a + b) for a, b in zip(forward_work(), heads, strict=True)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(module.training for module in network.modules())


def test_costs_count_both_halves_of_a_pair() -> None:
    labelled = replace(get_method("trifecta"), schedule=LAYER_WISE, normalization="none")
    network = network_of(labelled)
    renewed = build_network(get_method("scff"), sample_shape=(1, 8, 8), num_classes=3, width=0.05)
    drawn = torch.get_rng_state()
    assert block_costs(network) == [6 * work for work in forward_work(in_channels=2)]
    assert all(cost > 0 for cost in block_costs(renewed))
    assert torch.equal(torch.get_rng_state(), drawn)


def test_parameters_of_blocks_are_all_but_the_heads() -> None:
    weights = [9 * a * b for a, b in zip((2, *OUT), OUT, strict=False)]
    pictures = CLASSES * PIXELS
    for method, blocks, heads in (
        (get_method("trifecta"), sum(weights) + pictures, 0),
        (classifiers(END_TO_END), sum(weights) - 9 * OUT[0], CLASSES * (OUT[2] + 1)),
    ):
        found = counts(network_of(method), batch_size=BATCH)
        assert (found["block_parameters"], found["parameters"]) == (blocks, blocks + heads)


def test_counts_of_one_block_and_its_head() -> None:
    assert counts(network_of(classifiers(LAYER_WISE), blocks=1), batch_size=BATCH) == {
        "parameters": 9 * OUT[0] + (OUT[0] + 1) * CLASSES,
        "block_parameters": 9 * OUT[0],
        "multiply_adds_per_image": 2 * forward_work()[0] + 3 * OUT[0] * CLASSES,
    }


@pytest.mark.parametrize("method", ["superfecta", "cwcomp"])
def test_counts_are_of_fused_windows_and_of_the_whole_run(method: str) -> None:
    network = build_network(get_method(method), sample_shape=(1, 8, 8), num_classes=3, width=0.05)
    found = counts(network, batch_size=BATCH, total_steps=2)
    assert [*found] == ["parameters", "block_parameters", "multiply_adds_per_image"]
    work = found["multiply_adds_per_image"]
    assert work == step_multiply_adds(network, batch_size=BATCH, total_steps=2, kernels=True)
    # Windows of the one are fused; blocks of the other freeze.
    if method == "superfecta":
        assert work < step_multiply_adds(network, batch_size=BATCH, total_steps=2)
    else:
        assert work < step_multiply_adds(network, batch_size=BATCH, kernels=True)


def test_a_trial_batch_fits_images_and_tokens() -> None:
    samples, labels = trial_batch(network_of(classifiers(LAYER_WISE)).double(), 4)
    assert samples.dtype == torch.float64
    assert torch.equal(
        samples, torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    )
    assert labels.tolist() == [0, 1, 2, 0]
    blocks = [nn.Sequential(nn.Embedding(9, 6)), nn.Linear(6, 6)]
    method = get_method("superfecta").at_positions()
    network = LocalNetwork(blocks, method, sample_shape=(5,), num_classes=9, integer=True, channels="last")
    samples, labels = trial_batch(network, 4)
    assert samples.dtype == torch.int64
    assert samples.tolist() == [[0] * 5] * 4
    assert labels.tolist() == [[k] * 5 for k in range(4)]
    samples, labels = trial_batch(network.to("meta"), 4)
    assert samples.device.type == labels.device.type == "meta"
