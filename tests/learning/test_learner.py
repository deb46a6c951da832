"""The learner: what crosses a block, what a step changes, and when memory is freed."""

import copy
import re
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from matrix import SCHEDULES, crossed, methods
from trifecta import (
    METHODS,
    Learner,
    LocalNetwork,
    OptimizerConfig,
    Schedule,
    Window,
    build_network,
    get_method,
)
from trifecta.learner import training_input
from trifecta.schedules import END_TO_END, LAYER_WISE, OVERLAPPING

by_kernels_and_by_graph = pytest.mark.usefixtures("window_of_any_size")
SHAPE, CLASSES = (1, 8, 8), 3


def network_of(method: str, schedule: Schedule, *, ownership: str = "weight") -> LocalNetwork:
    base = get_method(method)
    varied = replace(
        base,
        schedule=schedule,
        readout="last",
        optimizer=replace(base.optimizer, ownership=ownership),
    )
    return build_network(varied, "small", sample_shape=SHAPE, num_classes=CLASSES, width=0.05)


def batch(size: int = 12) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(size, *SHAPE, generator=draw), torch.arange(size) % CLASSES


def learner_of(network: LocalNetwork) -> Learner:
    return Learner(network, generator=torch.Generator().manual_seed(4))


def with_another_last_block(network: LocalNetwork) -> LocalNetwork:
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in changed.blocks[5].parameters():
            parameter.uniform_(-1, 1)
    return changed


def inside(network: LocalNetwork, window: Window) -> set[str]:
    """Names of the parameters that a window may train: its blocks', its head's, its label's."""
    prefixes = [f"blocks.{k}." for k in range(window.first, window.last + 1)]
    prefixes.append(f"_heads.{window.last}.")
    if window.first == 0:
        prefixes.append("label_input.")
    return {n for n, p in network.named_parameters() if n.startswith(tuple(prefixes)) and p.requires_grad}


@by_kernels_and_by_graph
@pytest.mark.parametrize(("method", "schedule"), crossed(METHODS, SCHEDULES))
def test_a_windows_loss_has_no_gradient_outside_it(method: str, schedule: Schedule) -> None:
    network = network_of(method, schedule)
    learner, (images, labels) = learner_of(network), batch()
    for step in range(3):
        x = learner.begin(images, labels).x
        for window in schedule.windows(step, len(network.blocks)):
            network.zero_grad(set_to_none=True)
            loss, x = learner.window_loss(window, x, labels)
            torch.autograd.backward(loss)
            trained = {n for n, p in network.named_parameters() if p.grad is not None}
            assert trained == inside(network, window)
            x = x.detach()


def uses_feedback(method: str) -> bool:
    return get_method(method).locality == "feedback"


@by_kernels_and_by_graph
@pytest.mark.parametrize(
    ("method", "schedule"), crossed([name for name in METHODS if not uses_feedback(name)], SCHEDULES[:-1])
)
@pytest.mark.parametrize("step", [0, 1])
def test_replacing_a_later_block_changes_no_update_of_an_earlier_one(
    method: str, schedule: Schedule, step: int
) -> None:
    """Within a step nothing before the window of block 5 notices it.

    (Over several steps overlapping windows hand news back block by block, as they are meant to.)
    """
    network = network_of(method, schedule)
    changed = with_another_last_block(network)
    before_it = min([w.first for w in schedule.windows(step, 6) if w.last == 5], default=5)
    assert before_it > 0
    for each in (network, changed):
        learner = learner_of(each)
        learner.steps = step
        learner.step(*batch())
    for k in range(before_it):
        for a, b in zip(network.own_parameters(k), changed.own_parameters(k), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("method", "schedule"),
    [("backprop", END_TO_END), *((method, LAYER_WISE) for method in METHODS if uses_feedback(method))],
)
def test_what_does_cross_blocks_is_noticed(method: str, schedule: Schedule) -> None:
    """The proof above can fail: with one window over the network, or feedback, every block notices."""
    network = network_of(method, schedule)
    changed = with_another_last_block(network)
    for each in (network, changed):
        learner_of(each).step(*batch())
    assert not torch.equal(
        network.get_parameter("blocks.0.weights.weight"), changed.get_parameter("blocks.0.weights.weight")
    )


class Held:
    """Stands in a graph for a saved tensor, and is gone when the graph lets go of it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@by_kernels_and_by_graph
@pytest.mark.parametrize("method", methods())
def test_a_windows_graph_is_freed_before_the_next_window_runs(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(method, LAYER_WISE)
    learner = learner_of(network)
    held: weakref.WeakSet[Held] = weakref.WeakSet()
    leftovers: list[int] = []
    kept: list[int] = []

    def pack(tensor: Tensor) -> Held:
        holder = Held(tensor.detach())
        held.add(holder)
        return holder

    original = learner.window_loss

    def counted(window: Window, x: Tensor, labels: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
        leftovers.append(len(held))
        found = original(window, x, labels, offsets)
        kept.append(len(held))
        return found

    monkeypatch.setattr(learner, "window_loss", counted)
    with saved_tensors_hooks(pack, lambda holder: holder.tensor):
        learner.step(*batch())
    assert len(leftovers) == 6
    assert min(kept) > 0
    assert leftovers[1:] == [0] * 5


@pytest.mark.parametrize("method", methods())
def test_an_evaluation_forward_changes_nothing(method: str) -> None:
    network = network_of(method, get_method(method).schedule).eval()
    before = copy.deepcopy(network.state_dict())
    images, _ = batch()
    first, again = network(images), network(images)
    assert torch.equal(first, again)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_predictions_do_not_depend_on_the_rest_of_the_batch() -> None:
    network = network_of("trifecta", OVERLAPPING).double().eval()
    images = batch()[0].double()
    alone = torch.cat([network(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(network(images), alone)


@by_kernels_and_by_graph
@pytest.mark.parametrize("ownership", ["weight", "objective"])
def test_both_ownerships_train_every_weight(ownership: str) -> None:
    network = network_of("trifecta", OVERLAPPING, ownership=ownership)
    before = copy.deepcopy(dict(network.named_parameters()))
    learner = learner_of(network)
    for _ in range(2):
        learner.step(*batch())
    for name, parameter in network.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@by_kernels_and_by_graph
def test_bfloat16_agrees_with_float64_within_its_error() -> None:
    exact, half = network_of("trifecta", OVERLAPPING).double(), network_of("trifecta", OVERLAPPING)
    images, labels = batch(48)
    expected = learner_of(exact).step(images.double(), labels)
    received = Learner(half, generator=torch.Generator().manual_seed(4), precision="bf16").step(
        images, labels
    )
    for a, b in zip(expected, received, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(b.double(), a, rtol=2**-6, atol=2**-7)


@pytest.mark.parametrize(
    ("decay", "total_steps", "expected"),
    [
        ("cosine", 4, [2e-3, 1.7071068e-3, 1e-3, 0.2928932e-3]),
        ("cosine", None, [2e-3] * 4),
        ("constant", 4, [2e-3] * 4),
    ],
)
def test_a_cosine_rate_ends_at_zero_where_the_end_is_known(
    decay: str, total_steps: int | None, expected: list[float]
) -> None:
    base = get_method("backprop")
    method = replace(base, optimizer=replace(base.optimizer, decay=decay, learning_rate=2e-3))
    network = build_network(method, "small", sample_shape=SHAPE, num_classes=CLASSES, width=0.05)
    learner = Learner(network, total_steps=total_steps)
    rates = []
    for _ in range(4):
        learner.step(*batch())
        rates.append(learner.optimizers[0].param_groups[0]["lr"])
    assert rates == pytest.approx(expected)
    assert OptimizerConfig(decay="cosine").rate(1.0) == pytest.approx(0, abs=1e-12)


def test_deep_supervision_is_the_sum_of_the_losses_of_all_blocks() -> None:
    network = build_network(
        get_method("deep-supervision"), "small", sample_shape=SHAPE, num_classes=CLASSES, width=0.05
    )
    learner, (images, labels) = learner_of(network), batch()
    loss, _ = learner.window_loss(Window(0, 5), images, labels)
    x, losses = images, []
    for k, block in enumerate(network.blocks):
        x = block(x)
        losses.append(network.head(k).loss(x, labels))
    torch.testing.assert_close(loss, torch.stack(losses).sum())
    gradients = torch.autograd.grad(loss, [p for p in network.parameters() if p.requires_grad])
    assert all(gradient.any() for gradient in gradients)


def test_hard_negatives_are_what_the_network_believes_and_leave_its_statistics_alone() -> None:
    method = replace(get_method("trifecta"), negatives="hard")
    network = build_network(method, "small", sample_shape=SHAPE, num_classes=CLASSES, width=0.05)
    learner, (images, labels) = learner_of(network), batch()
    before = copy.deepcopy(network.state_dict())
    x = training_input(learner.network, images, labels, learner.generator)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.label_input is not None
    positive, negative = x.chunk(2)
    assert torch.equal(positive, network.labelled(images, labels))
    shown = [network.labelled(images, torch.full_like(labels, k)) for k in range(CLASSES)]
    carried = torch.stack([(negative == one).flatten(1).all(1) for one in shown], 1).float().argmax(1)
    assert (carried != labels).all()


def test_a_learner_without_a_generator_is_saved_and_restored() -> None:
    learner = Learner(network_of("superfecta", LAYER_WISE))
    learner.step(*batch())
    for generator in (None, torch.Generator().manual_seed(9)):
        other = Learner(network_of("superfecta", LAYER_WISE), generator=generator)
        other.load_state_dict(copy.deepcopy(learner.state_dict()))
        assert other.steps == 1
    drawn = Learner(network_of("superfecta", LAYER_WISE), generator=torch.Generator().manual_seed(9))
    Learner(network_of("superfecta", LAYER_WISE)).load_state_dict(drawn.state_dict())


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            torch.zeros(4, 3, 8, 8),
            torch.zeros(4, dtype=torch.int64),
            "images must be float (B, 1, 8, 8): received torch.float32 (4, 3, 8, 8)",
        ),
        (
            torch.zeros(4, 1, 8, 8, dtype=torch.uint8),
            torch.zeros(4, dtype=torch.int64),
            "images must be float (B, 1, 8, 8): received torch.uint8 (4, 1, 8, 8)",
        ),
        (
            torch.zeros(4, 1, 8, 8),
            torch.zeros(4),
            "labels must be int64 (4,), one per image: received torch.float32 (4,)",
        ),
        (
            torch.zeros(4, 1, 8, 8),
            torch.zeros(4, 2, dtype=torch.int64),
            "labels must be int64 (4,), one per image: received torch.int64 (4, 2)",
        ),
        (torch.zeros(4, 1, 8, 8), torch.tensor([0, 3, 1, 2]), "labels must be 0 … 2: received 0 … 3"),
        (torch.zeros(4, 1, 8, 8), torch.tensor([0, -1, 1, 2]), "labels must be 0 … 2: received -1 … 2"),
    ],
)
def test_a_batch_that_cannot_be_learnt_from_is_refused(
    images: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        learner_of(network_of("trifecta", LAYER_WISE)).step(images, labels)


def test_tokens_and_labels_of_positions_are_checked_too() -> None:
    blocks = [nn.Sequential(nn.Embedding(9, 6)), nn.Linear(6, 6)]
    method = get_method("superfecta").at_positions()
    network = LocalNetwork(blocks, method, sample_shape=(5,), num_classes=9, integer=True, channels="last")
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    for images, labels, message in (
        (tokens.float(), tokens, "images must be int64 (B, 5): received torch.float32 (2, 5)"),
        (tokens, tokens[:, 0], "labels must be int64 (2, 5), one per position: received torch.int64 (2,)"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            learner_of(network).step(images, labels)


def test_a_window_draws_its_pairs_where_it_is_given_none() -> None:
    network = build_network(
        get_method("scff"), "small", sample_shape=SHAPE, num_classes=CLASSES, width=0.05
    )
    learner, other = learner_of(network), learner_of(network)
    step = learner.begin(*batch())
    learner.learn(step)
    drawn, _ = learner.window_loss(Window(1, 1), step.x, step.labels)
    assert other.generator is not None
    other.begin(*batch())
    offsets = other._draw_offsets(12)
    given, _ = learner.window_loss(Window(1, 1), step.x, step.labels, offsets)
    torch.testing.assert_close(drawn, given)
