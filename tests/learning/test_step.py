"""One step, on networks of a few weights: input, windows, skipped updates, owners, rates, state."""

import copy
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trifecta import Learner, LocalNetwork, Method, OptimizerConfig, Schedule, Window, get_method
from trifecta._utils.devices import autocast, resolved_precision
from trifecta.inputs import draw_offsets, hard_labels, wrong_labels
from trifecta.learner import build_optimizers, training_input
from trifecta.nn.blocks import Dropout
from trifecta.schedules import DEEPLY_SUPERVISED, END_TO_END, LAYER_WISE, OVERLAPPING

IMAGES = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])
K, BLOCKS = 3, 3


def seeded(seed: int = 4) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network_of(method: str | Method = "mono-forward", **changes: Any) -> LocalNetwork:
    torch.manual_seed(0)
    chosen = replace(get_method(method) if isinstance(method, str) else method, **changes)
    size = chosen.input_shape((4,), K)[0]
    blocks = [
        nn.Sequential(nn.Linear(size if k == 0 else 4, 4), nn.BatchNorm1d(4), nn.ReLU())
        for k in range(BLOCKS)
    ]
    return LocalNetwork(blocks, chosen, sample_shape=(4,), num_classes=K)


def learner_of(method: str | Method = "mono-forward", *, options: Any = None, **changes: Any) -> Learner:
    return Learner(network_of(method, **changes), generator=seeded(), **(options or {}))


def test_a_learner_begins_at_step_0_in_float32_and_skips_nothing() -> None:
    learner = Learner(network_of())
    assert (learner.steps, learner.skipped, learner.on_nan) == (0, set(), "stop")
    assert (learner.precision, learner.asked_precision) == ("fp32", "fp32")
    options = (learner.generator, learner.kernels, learner.total_steps, learner.steps_per_epoch)
    assert options == (None, None, None, None)
    half = Learner(network_of(), precision="bf16")
    assert (half.precision, half.asked_precision) == ("bf16", "bf16")
    assert Learner(network_of(), precision="auto").precision == resolved_precision("auto", half.device)
    with pytest.raises(ValueError, match="received 'fp16'"):
        Learner(network_of(), precision="fp16")


def test_a_network_that_cannot_learn_is_refused() -> None:
    network = network_of("class-groups", objective=get_method("class-groups").objective, readout="last")
    message = (
        "nothing can learn: all blocks are frozen, and the heads of the method have no weights; "
        "let a block learn (requires_grad), or use a method with classifiers, such as superfecta"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Learner(network.requires_grad_(False))


def labelled(network: LocalNetwork, wrong: Tensor, rows: slice = slice(None)) -> Tensor:
    images = torch.cat([IMAGES[rows], IMAGES[rows]])
    return network.labelled(images, torch.cat([LABELS[rows], wrong[rows]]))


class Half(Learner):
    """Learns from the first half of every batch."""

    def _rows(self, images: int) -> slice:
        return slice(images // 2)


@pytest.mark.parametrize("negatives", ["uniform", "hard"])
def test_positives_come_before_negatives_which_are_drawn_for_the_whole_batch(negatives: str) -> None:
    network = network_of("trifecta", negatives=negatives)
    draw = seeded()
    if negatives == "hard":
        with torch.no_grad():
            wrong = hard_labels(LABELS, copy.deepcopy(network).eval().fused_scores(IMAGES), draw)
    else:
        wrong = wrong_labels(LABELS, K, draw)
    for kind, rows in ((Learner, slice(None)), (Half, slice(3))):
        step = kind(network, generator=seeded()).begin(IMAGES, LABELS)
        assert torch.equal(step.x, labelled(network, wrong, rows))
        assert torch.equal(step.labels, LABELS[rows])
        assert step.offsets is None
    assert torch.equal(training_input(network, IMAGES, LABELS, seeded()), labelled(network, wrong))


def test_pairs_of_images_are_drawn_for_the_whole_batch_and_again_for_every_block() -> None:
    network, draw = network_of("scff"), seeded()
    assert network.image_pairs is not None
    positives, negatives = network.image_pairs.pairs(IMAGES, draw).chunk(2)
    for kind, rows, count in ((Learner, slice(None), 6), (Half, slice(3), 3)):
        step = kind(network, generator=seeded()).begin(IMAGES, LABELS)
        assert torch.equal(step.x, torch.cat([positives[rows], negatives[rows]]))
        state = draw.get_state()
        assert step.offsets is not None
        assert torch.equal(step.offsets, draw_offsets(BLOCKS, count, draw, torch.device("cpu")))
        draw.set_state(state)
    assert torch.equal(training_input(network_of(), IMAGES, LABELS, None, slice(2)), IMAGES[:2])


def test_every_block_receives_its_own_pairs_while_it_learns() -> None:
    learner = learner_of("scff")
    step = learner.begin(IMAGES, LABELS)
    received: list[Tensor] = []
    for block in learner.network.blocks:
        next(block.children()).register_forward_pre_hook(lambda module, args: received.append(args[0]))
    for _ in range(BLOCKS):
        passed = step.x
        learner.learn(step)
        if len(received) > 1:
            assert learner.network.image_pairs is not None
            assert step.offsets is not None
            k = len(received) - 1
            pairs = learner.network.image_pairs.pairs_at(passed[:6], step.offsets[k : k + 1])
            assert torch.equal(received[-1], pairs)
    with pytest.warns(
        UserWarning, match="^a batch of one has no other image for a negative: nothing is learned from it$"
    ):
        learner.begin(IMAGES[:1], LABELS[:1])
    # A warning would be an error.
    learner.begin(IMAGES[:2], LABELS[:2])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_networks_error_reaches_every_head_for_the_images_that_are_learnt_from(precision: str) -> None:
    network = network_of("rec-lra")
    with autocast(precision, network.device):
        scores = copy.deepcopy(network).eval().fused_scores(IMAGES).float()
    error = scores.softmax(1) - nn.functional.one_hot(LABELS, K)
    received: list[Tensor] = []
    for block in network.scored_blocks:
        network.head(block).receive = received.append  # type: ignore[method-assign, assignment]
    for kind, rows in ((Learner, slice(None)), (Half, slice(3))):
        kind(network, precision=precision).begin(IMAGES, LABELS)
        assert len(received) == BLOCKS
        for each in received:
            torch.testing.assert_close(each, error[rows])
        received.clear()


EVEN, ODD = [(0, 1), (2, 2)], [(0, 0), (1, 2)]


@pytest.mark.parametrize(
    ("schedule", "options", "expected"),
    [
        (LAYER_WISE, {}, [[(0, 0), (1, 1), (2, 2)]] * 5),
        (OVERLAPPING, {}, [EVEN, ODD, EVEN, ODD, EVEN]),
        # The third step is the first of an epoch.
        (
            replace(OVERLAPPING, restarts=True),
            {"steps_per_epoch": 3},
            [EVEN, ODD, EVEN, EVEN, ODD],
        ),
        (
            OVERLAPPING,
            {"steps_per_epoch": 3},
            [[(0, 1), (2, 2)], [(0, 0), (1, 2)]] * 2 + [[(0, 1), (2, 2)]],
        ),
        (END_TO_END, {}, [[(0, 2)]] * 5),
    ],
)
def test_windows_follow_the_schedule(
    schedule: Schedule, options: dict[str, int], expected: list[list[tuple[int, int]]]
) -> None:
    learner = learner_of(schedule=schedule, readout="last", options=options)
    for number, windows in enumerate(expected):
        step = learner.begin(IMAGES, LABELS)
        assert (step.number, step.windows, step.windows_done) == (number, windows, 0)
        assert (step.progress, step.losses) == (0.0, [None] * BLOCKS)
    assert learner.steps == 5


def means(network: LocalNetwork) -> list[bool]:
    """Whether each block's running mean has moved."""
    return [bool(block.get_buffer("1.running_mean").any()) for block in network.blocks]


def moved(network: LocalNetwork, before: LocalNetwork) -> list[bool]:
    pairs = zip(network.blocks, before.blocks, strict=True)
    return [not torch.equal(a.get_parameter("0.weight"), b.get_parameter("0.weight")) for a, b in pairs]


def test_frozen_blocks_are_passed_and_those_behind_them_learn() -> None:
    config = OptimizerConfig(freeze_from=0.2, learning_rate=0.5)
    learner = learner_of(schedule=OVERLAPPING, optimizer=config, options={"total_steps": 10})
    # Blocks learn for 0.2, 0.6 and 1 of the run.
    learner.steps = 4
    before = copy.deepcopy(learner.network)
    step = learner.begin(IMAGES, LABELS)
    assert (step.progress, step.windows) == (0.4, [(1, 1), (2, 2)])
    while not step.is_done:
        learner.learn(step)
    assert [loss is not None for loss in step.losses] == [False, True, True]
    assert moved(learner.network, before) == [False, True, True]
    assert means(learner.network) == [True] * 3
    rates = [learner.optimizers[k].param_groups[0]["lr"] for k in range(BLOCKS)]
    expected = [config.rate(0.4, end=end) for end in (0.6, 1.0)]
    assert rates == pytest.approx([0.5, *expected])


def test_blocks_that_idle_at_the_end_are_passed() -> None:
    schedule = replace(OVERLAPPING, trains_remainder=False)
    learner = learner_of(schedule=schedule, readout="last")
    before = copy.deepcopy(learner.network)
    losses = learner.step(IMAGES, LABELS)
    assert [loss is not None for loss in losses] == [False, True, False]
    assert moved(learner.network, before) == [True, True, False]
    assert means(learner.network) == [True] * 3
    # Once: a second pass would have moved it further.
    x = IMAGES
    for block in before.blocks.train():
        x = block(x)
    for block, other in zip(learner.network.blocks, before.blocks, strict=True):
        assert int(block.get_buffer("1.num_batches_tracked")) == 1
        assert torch.allclose(block.get_buffer("1.running_mean"), other.get_buffer("1.running_mean"))


@pytest.mark.parametrize("bad", range(BLOCKS))
def test_a_window_whose_loss_is_no_number_is_skipped_and_all_others_learn(bad: int) -> None:
    learner = learner_of(options={"on_nan": "skip"})
    head = learner.network.head(bad)
    loss = head.loss
    head.loss = lambda features, labels: loss(features, labels) * torch.nan  # type: ignore[method-assign]
    learner.steps = 7
    before = copy.deepcopy(learner.network)
    losses = learner.step(IMAGES, LABELS)
    assert [loss is None for loss in losses] == [k == bad for k in range(BLOCKS)]
    assert learner.skipped == {7}
    assert means(learner.network) == moved(learner.network, before) == [k != bad for k in range(BLOCKS)]
    assert not learner.optimizers[bad].state
    assert all(p.grad is None for p in learner.network.parameters())


def test_a_window_is_not_skipped_where_the_caller_looks_at_the_losses() -> None:
    learner = learner_of()
    losses = learner.step(IMAGES * torch.inf, LABELS)
    assert all(loss is not None and not loss.isfinite() and not loss.requires_grad for loss in losses)
    assert learner.skipped == set()


def test_a_pass_that_leaves_no_numbers_in_statistics_is_undone_where_windows_are_skipped() -> None:
    config = OptimizerConfig(freeze_from=0.2)
    for on_nan, kept in (("skip", True), ("stop", False)):
        options = {"total_steps": 10, "on_nan": on_nan}
        learner = learner_of(optimizer=config, options=options)
        learner.steps = 4
        learner.step(IMAGES * torch.inf, LABELS)
        assert bool(learner.network.blocks[0].get_buffer("1.running_mean").isfinite().all()) == kept
        learner.steps = 4
        learner.step(IMAGES, LABELS)
        assert bool(learner.network.blocks[0].get_buffer("1.running_mean").any())


def owned(network: LocalNetwork, held: range = range(BLOCKS)) -> dict[int, list[str]]:
    names = {id(p): name for name, p in network.named_parameters()}
    return {
        owner: [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
        for owner, optimizer in build_optimizers(network, held).items()
    }


def block(k: int) -> list[str]:
    return [f"blocks.{k}.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")]


LABEL = "label_input.pictures.weight"


def test_weights_are_owned_by_their_block_or_by_every_objective_that_reaches_them() -> None:
    own = replace(get_method("trifecta"), schedule=OVERLAPPING, readout="last")
    by_weight = network_of(own, optimizer=OptimizerConfig(ownership="weight"))
    assert owned(by_weight) == {0: [*block(0), LABEL], 1: block(1), 2: block(2)}
    assert owned(by_weight, range(1, 3)) == {1: block(1), 2: block(2)}
    by_objective = network_of(own, optimizer=OptimizerConfig(ownership="objective"))
    assert owned(by_objective) == {
        0: [*block(0), LABEL],
        1: [*block(0), *block(1)],
        2: [*block(1), *block(2)],
    }
    assert owned(by_objective, range(1, 2)) == {1: block(1), 2: block(1)}
    whole = network_of(own, schedule=END_TO_END, optimizer=OptimizerConfig(ownership="objective"))
    assert owned(whole) == {2: [*block(0), LABEL, *block(1), *block(2)]}
    frozen = network_of("class-groups", readout="last")
    frozen.blocks[1].requires_grad_(False)
    assert owned(frozen) == {0: block(0), 2: block(2)}


def test_muon_orthogonalises_the_matrices_of_blocks_alone() -> None:
    network = network_of("superfecta", readout="last")
    names = {id(p): name for name, p in network.named_parameters()}
    optimizer = build_optimizers(network, range(BLOCKS))[1]
    hidden = [
        [names[id(p)] for p in group["params"]]
        for group in optimizer.param_groups
        if group["orthogonalized"]
    ]
    assert hidden == [["blocks.1.0.weight"]]


@pytest.mark.parametrize("ownership", ["weight", "objective"])
def test_the_optimizers_of_a_window_step_once_and_its_gradients_are_dropped(ownership: str) -> None:
    stepped: list[torch.optim.Optimizer] = []
    own = replace(get_method("trifecta"), schedule=OVERLAPPING, readout="last")
    learner = learner_of(
        own, optimizer=OptimizerConfig(ownership=ownership), options={"step_optimizer": stepped.append}
    )
    expected = {"weight": [[0, 1, 2], [0, 1, 2]], "objective": [[1, 2], [0, 2]]}[ownership]
    for owners in expected:
        step = learner.begin(IMAGES, LABELS)
        while not step.is_done:
            learner.learn(step)
            assert all(p.grad is None for p in learner.network.parameters())
        assert stepped == [learner.optimizers[owner] for owner in owners]
        stepped.clear()


def test_heads_learn_their_epoch_before_their_window() -> None:
    for options, expected in (
        ({"steps_per_epoch": 2, "total_steps": 7}, [(0, 3), (0, 3), (1, 3), (1, 3)]),
        ({"steps_per_epoch": 2}, [(0, 1), (0, 1), (1, 2), (1, 2)]),
        ({"total_steps": 6}, [(0, 1)] * 4),
    ):
        learner = learner_of(schedule=DEEPLY_SUPERVISED, readout="last", options=options)
        told: list[tuple[int, ...]] = []
        for k in range(BLOCKS):
            learner.network.head(k).set_epoch = lambda *epoch, told=told: told.append(epoch)  # type: ignore[method-assign]
        for _ in expected:
            learner.step(IMAGES, LABELS)
        assert told == [epoch for epoch in expected for _ in range(BLOCKS)]


def test_a_block_that_no_gradient_reaches_is_named_once() -> None:
    learner = learner_of()
    learner.network.blocks[1].register_forward_hook(lambda module, args, output: output.detach())
    message = (
        "block 1 has weights to learn, and its loss reaches none of them: is there a detach() or no_grad() "
        "in it?"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as seen:
        learner.step(IMAGES, LABELS)
    assert len(seen) == 1
    learner.step(IMAGES, LABELS)


def test_a_batch_of_one_is_announced_once() -> None:
    learner = learner_of()
    message = (
        "a batch of one has no statistics: batch normalisation uses its running ones there, as "
        "normalization running does everywhere; a DataLoader leaves a last batch of one out with "
        "drop_last=True"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as seen:
        learner.step(IMAGES[:1], LABELS[:1])
    assert len(seen) == 1
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        learner.step(IMAGES[:1], LABELS[:1])
        learner.step(IMAGES[:2], LABELS[:2])
    assert not others


def test_masks_are_drawn_by_seed_step_block_and_place() -> None:
    class Noted(Dropout):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(None if self.generator is None else self.generator.initial_seed())
            return super().forward(x)

    seen: list[int | None] = []
    blocks = [nn.Sequential(nn.Linear(4, 4), Noted(0.5), Noted(0.5)) for _ in range(2)]
    network = LocalNetwork(blocks, get_method("mono-forward"), sample_shape=(4,), num_classes=K)
    found = []
    for generator in (seeded(), seeded(), seeded(5)):
        seen.clear()
        learner = Learner(network, generator=generator)
        for _ in range(2):
            learner.step(IMAGES, LABELS)
        found.append([*seen])
    assert found[0] == found[1]
    assert len({*found[0], *found[2]}) == 16
    seen.clear()
    Learner(network).step(IMAGES, LABELS)
    assert seen == [None] * 4


def test_a_state_holds_what_the_next_step_depends_on() -> None:
    learner, other = learner_of("trifecta", options={"on_nan": "skip"}), learner_of("trifecta")
    for _ in range(2):
        learner.step(IMAGES, LABELS)
    learner.skipped = {1, 0}
    state = learner.state_dict()
    assert [*state] == ["steps", "skipped", "optimizers", "generator", "device", "precision"]
    assert (state["steps"], state["skipped"], state["device"], state["precision"]) == (
        2,
        [0, 1],
        "cpu",
        "fp32",
    )
    assert learner.generator is not None
    assert torch.equal(state["generator"], learner.generator.get_state())
    other.network.load_state_dict(learner.network.state_dict())
    other.load_state_dict(copy.deepcopy(state))
    assert (other.steps, other.skipped) == (2, {0, 1})
    a, b = learner.step(IMAGES, LABELS), other.step(IMAGES, LABELS)
    assert all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))  # type: ignore[arg-type]
    for p, q in zip(learner.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(p, q)


def test_random_numbers_go_on_on_a_device_of_the_same_kind_alone() -> None:
    state = learner_of().state_dict()
    for taken, own, warned in ((seeded(9), "cpu", False), (seeded(9), "cuda", True), (None, "cuda", False)):
        learner = Learner(network_of(), generator=taken)
        message = (
            "random numbers of cuda do not continue on cpu: the run goes on, with other wrong labels and "
            "augmentation than it would have had"
        )
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            learner.load_state_dict({**state, "device": own})
        assert [str(each.message) for each in seen] == [message] * warned
        if taken is not None:
            assert torch.equal(taken.get_state(), (seeded(9) if warned else seeded()).get_state())
    learner = learner_of()
    learner.load_state_dict({**state, "generator": None})
    assert learner.generator is not None
    assert torch.equal(learner.generator.get_state(), seeded().get_state())


def test_a_warning_of_another_device_names_the_callers_line() -> None:
    learner = learner_of()
    with pytest.warns(UserWarning, match="do not continue on cpu") as seen:
        learner.load_state_dict({**learner.state_dict(), "device": "cuda"})
    assert seen[0].filename == __file__


def test_a_window_is_of_blocks() -> None:
    assert [*Window(1, 3).blocks] == [1, 2, 3]


def gradients(method: str, windows: Sequence[Window]) -> list[set[str]]:
    """The parameters that the loss of each window reaches."""
    learner, found = learner_of(method), []
    step = learner.begin(IMAGES, LABELS)
    x = step.x
    for window in windows:
        learner.network.zero_grad()
        loss, x = learner.window_loss(window, x, step.labels, step.offsets)
        torch.autograd.backward(loss)
        x = x.detach()
        found.append({name for name, p in learner.network.named_parameters() if p.grad is not None})
    return found


def test_a_loss_reaches_its_window_its_head_and_its_label() -> None:
    heads = [f"_heads.{k}." for k in range(BLOCKS)]
    first, rest = gradients("mono-forward", [Window(0, 0), Window(1, 2)])
    assert {name for name in first if not name.startswith(heads[0])} == {*block(0)}
    assert {name for name in rest if not name.startswith(heads[2])} == {*block(1), *block(2)}
    first, rest = gradients("trifecta", [Window(0, 0), Window(1, 2)])
    assert (first, rest) == ({*block(0), LABEL}, {*block(1), *block(2)})
