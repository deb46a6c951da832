"""Recorded steps: what they compute, and when one is recorded anew. A CPU stands in for a GPU's graphs."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trifecta import Learner, LocalNetwork, Method, OptimizerConfig, get_method
from trifecta.cuda_graphs import WARM_UP, CudaGraphLearner, fastest_learner
from trifecta.losses import Combined, CrossEntropy, SupervisedContrastive
from trifecta.methods import superfecta
from trifecta.nn import conv_block
from trifecta.recipes import fast_superfecta
from trifecta.schedules import Schedule

SHAPE, CLASSES, EPOCH, EPOCHS = (1, 4, 4), 3, 8, 3
STEPS = EPOCH * EPOCHS
THREES = fast_superfecta(Schedule(size=3, overlapping=True))


class Simulated(CudaGraphLearner):
    """Replays a step by calling it again, on the memory that was recorded."""

    def _beside(self, images: Tensor, labels: Tensor) -> list[Tensor | None]:
        return Learner.step(self, images, labels)

    def _capture(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        losses, recorded = torch.zeros(len(self._next_windows()), dtype=torch.float64), self.steps

        def replay() -> None:
            # All that Python decides in a step is as it was when that was recorded.
            number, self.steps, self._is_recording = self.steps, recorded, True
            losses.copy_(step())
            self.steps, self._is_recording = number, False

        # Python runs while a step is recorded, and counts it.
        self.steps += 1
        return replay, losses


class Unrecordable(Simulated):
    """Breaks off a recording as CUDA does, with the generator moved on and gradients without values."""

    def _capture(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        assert self.generator is not None
        torch.rand(3, generator=self.generator)
        for parameter in self.network.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


def network_of(method: Method) -> LocalNetwork:
    """Four blocks in double precision, as rounding errors grow from step to step."""
    torch.manual_seed(0)
    shapes = [method.input_shape(SHAPE, CLASSES), *[(6, 4, 4)] * 3]
    style = method.block_style(CLASSES)
    blocks = [conv_block(shape, 6, style, first=k == 0) for k, shape in enumerate(shapes)]
    return LocalNetwork(blocks, method, sample_shape=SHAPE, num_classes=CLASSES).double()


def learner_of(kind: type[Learner], network: LocalNetwork) -> Learner:
    return kind(
        copy.deepcopy(network),
        generator=torch.Generator().manual_seed(4),
        total_steps=STEPS,
        steps_per_epoch=EPOCH,
    )


def simulated(network: LocalNetwork) -> Simulated:
    learner = learner_of(Simulated, network)
    assert isinstance(learner, Simulated)
    return learner


def batches(count: int = STEPS) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(2)
    for _ in range(count):
        images = torch.randn(12, *SHAPE, generator=draw, dtype=torch.float64)
        yield images, torch.randint(CLASSES, (12,), generator=draw)


def assert_as_a_learner(recorded: Learner, method: Method) -> None:
    plain = learner_of(Learner, network_of(method))
    for batch in batches():
        expected, losses = plain.step(*batch), recorded.step(*batch)
        for loss, other in zip(losses, expected, strict=True):
            assert (loss is None) == (other is None)
            if loss is not None and other is not None:
                torch.testing.assert_close(loss, other, rtol=1e-5, atol=1e-5)
    values, others = (learner.network.state_dict() for learner in (recorded, plain))
    for name, value in values.items():
        torch.testing.assert_close(value, others[name], rtol=1e-5, atol=1e-5, msg=name)
    assert recorded.steps == plain.steps


# The windows of a schedule that alternate are recorded apart.
METHODS: dict[str, tuple[Method, int]] = {
    "superfecta": (get_method("superfecta"), 1),
    "trifecta": (get_method("trifecta"), 2),
    "tierce": (get_method("tierce"), 2),
    "threes": (THREES, 3),
}


@pytest.mark.parametrize(("method", "recordings"), METHODS.values(), ids=METHODS)
def test_recorded_steps_are_those_of_a_learner(method: Method, recordings: int) -> None:
    recorded = simulated(network_of(method))
    assert_as_a_learner(recorded, method)
    assert recorded.recordings == recordings


def test_a_step_of_other_frozen_blocks_is_recorded_anew() -> None:
    base = superfecta.method()
    method = replace(base, optimizer=replace(base.optimizer, freeze_from=0.2))
    recorded = simulated(network_of(method))
    assert_as_a_learner(recorded, method)
    assert recorded.recordings > 1
    assert len(recorded._recorded) == 1


def test_heads_that_follow_epochs_are_recorded_in_each() -> None:
    objective = Combined(scoring=CrossEntropy(), terms=(SupervisedContrastive(weight=0.5),))
    method = replace(superfecta.method(), objective=objective)
    recorded = simulated(network_of(method))
    assert_as_a_learner(recorded, method)
    assert recorded.recordings >= EPOCHS


def test_a_step_that_cannot_be_recorded_is_taken_as_it_is() -> None:
    method = get_method("trifecta")
    recorded = learner_of(Unrecordable, network_of(method))
    with pytest.warns(UserWarning, match="one by one: operation not permitted when stream is capturing$"):
        assert_as_a_learner(recorded, method)
    assert isinstance(recorded, CudaGraphLearner)
    assert recorded.recordings == 0


def test_a_run_goes_on_from_its_state() -> None:
    whole, first = (simulated(network_of(THREES)) for _ in range(2))
    half = STEPS // 2 + WARM_UP
    for batch in batches(half):
        first.step(*batch)
    assert first.recordings
    second = simulated(first.network)
    second.load_state_dict(first.state_dict())
    for number, batch in enumerate(batches()):
        whole.step(*batch)
        if number >= half:
            second.step(*batch)
    for name, value in second.network.state_dict().items():
        torch.testing.assert_close(value, whole.network.state_dict()[name], msg=name)


def test_a_learner_takes_up_what_recorded_steps_left_and_the_other_way_round() -> None:
    network = network_of(THREES)
    plain, recorded = learner_of(Learner, network), simulated(network)
    for batch in batches():
        plain.step(*batch)
        recorded.step(*batch)
    assert recorded._recorded
    state = recorded.state_dict()
    groups = [group for optimizer in state["optimizers"].values() for group in optimizer["param_groups"]]
    assert all(type(group["lr"]) is float and group["capturable"] is False for group in groups)
    recorded.load_state_dict(plain.state_dict())
    # A recording points to the state that was replaced.
    assert not recorded._recorded
    plain.load_state_dict(state)
    batch = next(batches(1))
    for loss, other in zip(plain.step(*batch), recorded.step(*batch), strict=True):
        torch.testing.assert_close(loss, other, rtol=1e-5, atol=1e-5)


def test_an_assigned_learning_rate_is_taken_over() -> None:
    base = superfecta.method()
    method = replace(base, optimizer=replace(base.optimizer, decay="constant"))
    recorded = simulated(network_of(method))
    for batch in batches(WARM_UP + 1):
        recorded.step(*batch)
    for optimizer in recorded.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    before = [p.detach().clone() for p in recorded.network.parameters()]
    recorded.step(*next(batches(1)))
    for parameter, value in zip(recorded.network.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, value, rtol=0, atol=0)
    rates = [group["lr"] for optimizer in recorded.optimizers.values() for group in optimizer.param_groups]
    assert all(isinstance(rate, Tensor) for rate in rates)


def test_a_loss_stays_what_it_was() -> None:
    recorded = simulated(network_of(superfecta.method()))
    losses = [recorded.step(*batch)[0] for batch in batches()]
    assert len({float(loss) for loss in losses if loss is not None}) == STEPS


def test_a_cpu_has_no_graphs() -> None:
    assert type(fastest_learner(network_of(superfecta.method()))) is Learner


class OwnAdam(torch.optim.Adam):
    """May do anything in Python."""


class OwnConvolution(nn.Conv2d):
    """Likewise."""


def with_optimizer(algorithm: str | type[torch.optim.Optimizer]) -> Method:
    return replace(superfecta.method(), optimizer=OptimizerConfig(algorithm=algorithm))


@pytest.mark.parametrize(
    ("method", "options", "is_taken"),
    [
        (superfecta.method(), {}, True),
        (with_optimizer("adam"), {}, True),
        (with_optimizer(OwnAdam), {}, False),
        (superfecta.method(), {"on_nan": "skip"}, False),
        (superfecta.method(), {"step_optimizer": lambda optimizer: optimizer.step()}, False),
        (get_method("hcl-ff"), {}, False),
    ],
    ids=["superfecta", "adam", "own optimizer", "on_nan", "step_optimizer", "dropout"],
)
def test_a_gpu_records_what_a_replay_can_do(
    method: Method, options: dict[str, Any], is_taken: bool
) -> None:
    learner = Learner(network_of(method), **options)
    assert not CudaGraphLearner.takes(learner)
    learner.device = torch.device("cuda")
    assert CudaGraphLearner.takes(learner) == is_taken


def test_a_block_of_your_own_is_not_recorded() -> None:
    network = network_of(superfecta.method())
    network.blocks[1].add_module("own", OwnConvolution(2, 2, 1))
    learner = Learner(network)
    learner.device = torch.device("cuda")
    assert not CudaGraphLearner.takes(learner)
