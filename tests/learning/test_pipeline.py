"""Blocks that learn at the same time: exactly what they learn one after another."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from threading import Event, get_ident

import pytest
import torch
from torch import Tensor

from matrix import FEW, SCHEDULES, methods
from trifecta.learner import Learner, LocalStep
from trifecta.methods import Method, get_method
from trifecta.network import LocalNetwork, build_network
from trifecta.pipeline import Losses, Pipeline
from trifecta.schedules import LAYER_WISE, OVERLAPPING, Schedule

pytestmark = pytest.mark.usefixtures("fused_windows")
SHAPE, STEPS, BLOCKS = (1, 8, 8), 4, 6


def network_of(method: Method) -> LocalNetwork:
    return build_network(method, "small", sample_shape=SHAPE, num_classes=3, width=0.05)


def learner_of(network: LocalNetwork, precision: str = "fp32") -> Learner:
    generator = torch.Generator().manual_seed(4)
    return Learner(network, generator=generator, total_steps=STEPS, precision=precision)


def batches(count: int = STEPS) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(2)
    for _ in range(count):
        yield torch.randn(6, *SHAPE, generator=draw), torch.randint(3, (6,), generator=draw)


def assert_equal(losses: list[Losses], expected: list[Losses]) -> None:
    assert len(losses) == len(expected)
    for ours, theirs in zip(losses, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None) == (b is None)
            assert a is None or b is None or torch.equal(a, b)


def assert_exact(method: Method, *, workers: int = 3, precision: str = "fp32") -> None:
    """Losses, weights, statistics and moments after a run, beside those of one block at a time."""
    torch.manual_seed(0)
    network = network_of(method)
    serial, parallel = (learner_of(copy.deepcopy(network), precision) for _ in range(2))
    before = torch.get_num_threads()
    # As many as each worker has, because more of them add numbers up in another order.
    torch.set_num_threads(max(1, before // workers))
    try:
        expected = [serial.step(images, labels) for images, labels in batches()]
    finally:
        torch.set_num_threads(before)
    assert_equal(list(Pipeline(parallel, workers).steps(batches())), expected)
    assert parallel.steps == serial.steps == STEPS
    state = parallel.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in serial.network.state_dict().items())
    for owner, optimizer in serial.optimizers.items():
        ours = parallel.optimizers[owner].state_dict()
        theirs = optimizer.state_dict()
        assert ours["param_groups"] == theirs["param_groups"]
        for index, moments in theirs["state"].items():
            assert all(torch.equal(ours["state"][index][name], moments[name]) for name in moments)


@pytest.mark.parametrize("name", methods(quick=FEW))
def test_every_method_learns_what_it_learns_one_block_at_a_time(name: str) -> None:
    assert_exact(get_method(name))


@pytest.mark.parametrize("ownership", ["weight", pytest.param("objective", marks=pytest.mark.slow)])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_every_schedule_is_exact(schedule: Schedule, ownership: str) -> None:
    base = get_method("trifecta")
    optimizer = replace(base.optimizer, ownership=ownership)
    assert_exact(replace(base, schedule=schedule, readout="last", optimizer=optimizer))


@pytest.mark.parametrize("schedule", [LAYER_WISE, OVERLAPPING], ids=str)
def test_freezing_is_exact(schedule: Schedule) -> None:
    base = get_method("superfecta")
    assert_exact(replace(base, schedule=schedule, optimizer=replace(base.optimizer, freeze_from=0.3)))


def test_hard_negatives_are_exact() -> None:
    assert_exact(replace(get_method("trifecta"), negatives="hard"))


def test_mixed_precision_is_exact() -> None:
    assert_exact(get_method("superfecta"), precision="bf16")


@pytest.mark.parametrize("workers", [1, 8])
def test_any_number_of_threads_is_exact(workers: int) -> None:
    assert_exact(get_method("superfecta"), workers=workers)


@pytest.mark.parametrize("name", ["superfecta", "trifecta", "class-groups"])
def test_a_block_learns_from_the_next_batch_while_a_later_one_is_behind(name: str) -> None:
    learner = learner_of(network_of(get_method(name)))
    learn, is_ahead = learner.learn, Event()
    waited: list[bool] = []

    def recorded(step: LocalStep) -> None:
        if step.number == 0 and step.windows_done == len(step.windows) - 1:
            waited.append(is_ahead.wait(timeout=20))
        learn(step)
        if step.number == 1:
            is_ahead.set()

    learner.learn = recorded  # type: ignore[method-assign]
    assert len(list(Pipeline(learner, 2).steps(batches()))) == STEPS
    assert waited == [True]


@pytest.mark.parametrize(
    ("method", "windows"),
    [
        (get_method("rec-lra"), BLOCKS),
        (get_method("trifecta"), 1),
        (replace(get_method("trifecta"), negatives="hard"), 3),
    ],
    ids=["network's error", "label's picture, learnt with the first block", "hard negatives"],
)
def test_a_step_waits_for_the_weights_that_its_input_depends_on(method: Method, windows: int) -> None:
    learner = learner_of(network_of(method))
    begin, begun = learner.begin, list[LocalStep]()
    done: list[int] = []

    def recorded(images: Tensor, labels: Tensor) -> LocalStep:
        done.extend(step.windows_done for step in begun[-1:])
        begun.append(begin(images, labels))
        return begun[-1]

    learner.begin = recorded  # type: ignore[method-assign]
    assert len(list(Pipeline(learner, 2).steps(batches()))) == STEPS
    assert min(done) >= windows


@pytest.mark.parametrize(("name", "windows"), [("superfecta", 0), ("trifecta", 1)])
def test_a_step_begins_as_soon_as_its_input_is_known(name: str, windows: int) -> None:
    """At once, or when the first block has learned, and with it the label's picture."""
    learner = learner_of(network_of(replace(get_method(name), schedule=LAYER_WISE, readout="last")))
    begin, learn, has_begun = learner.begin, learner.learn, Event()
    waited: list[bool] = []

    def begun(images: Tensor, labels: Tensor) -> LocalStep:
        step = begin(images, labels)
        if step.number == 1:
            has_begun.set()
        return step

    def recorded(step: LocalStep) -> None:
        if step.number == 0 and step.windows_done == windows:
            waited.append(has_begun.wait(timeout=20))
        learn(step)

    learner.begin, learner.learn = begun, recorded  # type: ignore[method-assign]
    assert len(list(Pipeline(learner, 2).steps(batches(2)))) == 2
    assert waited == [True]


def test_an_error_of_a_block_reaches_the_caller_and_stops_what_would_follow() -> None:
    learner = learner_of(network_of(get_method("superfecta")))
    learn, calls = learner.learn, 0

    def failing(step: LocalStep) -> None:
        nonlocal calls
        calls += 1
        if step.number == 2 and step.windows_done == 3:
            raise ArithmeticError("block 3")
        learn(step)

    learner.learn = failing  # type: ignore[method-assign]
    losses: list[Losses] = []
    with pytest.raises(ArithmeticError, match="block 3"):
        losses.extend(Pipeline(learner, 2).steps(batches(50)))
    assert len(losses) == 2
    assert calls < 50 * BLOCKS
    assert learner.steps < 50


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    steps = Pipeline(learner_of(network_of(get_method("superfecta"))), 2).steps(batches())
    next(steps)
    steps.close()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("threads", "workers", "share"), [(6, 2, 3), (5, 2, 2), (1, 2, 1)])
def test_threads_are_shared_out_among_workers(
    threads: int, workers: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(network_of(get_method("superfecta")))
    learn, begin, seen = learner.learn, learner.begin, list[int]()
    told, set_threads = dict[int, int](), torch.set_num_threads

    def tell(count: int) -> None:
        told[get_ident()] = count
        set_threads(count)

    def begun(images: Tensor, labels: Tensor) -> LocalStep:
        seen.append(told[get_ident()])
        return begin(images, labels)

    def recorded(step: LocalStep) -> None:
        seen.append(told[get_ident()])
        learn(step)

    learner.begin, learner.learn = begun, recorded  # type: ignore[method-assign]
    before = torch.get_num_threads()
    set_threads(threads)
    monkeypatch.setattr(torch, "set_num_threads", tell)
    try:
        assert len(list(Pipeline(learner, workers).steps(batches(2)))) == 2
        assert torch.get_num_threads() == threads
    finally:
        set_threads(before)
    assert set(seen) == {share}


def test_as_many_batches_as_workers_and_one_are_under_way() -> None:
    learner = learner_of(network_of(get_method("superfecta")))
    assert [Pipeline(learner, 3, depth=depth).depth for depth in (None, 1, 7)] == [4, 1, 7]
    given = batches()
    next(Pipeline(learner, 1).steps(given))
    # A third was drawn, and waited for the first.
    assert len(list(given)) == STEPS - 3


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="a pipeline has 1 worker or more"):
        Pipeline(learner_of(network_of(get_method("superfecta"))), 0)
