"""Numbers that are not finite: told at their step, or left out; and blocks that have learnt nothing."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trifecta.data import ImageData, ImageSet
from trifecta.learner import Learner
from trifecta.methods import get_method
from trifecta.network import LocalNetwork, build_network
from trifecta.pipeline import Pipeline
from trifecta.training import Callback, DivergenceError, RunConfig, Trainer, evaluate, train
from trifecta.training.run import warn_of_stuck_blocks
from trifecta.training.trainer import STEPS_UNCHECKED, LossMeter

SMALL = RunConfig(width=0.05, epochs=2, batch_size=60, precision="fp32")
NAN = float("nan")
METHODS = ("superfecta", "trifecta", "backprop", "deep-supervision")


def with_one_bad_image(data: ImageData) -> ImageData:
    """Floats, one of which is no number."""
    train = ImageSet(data.train.images.float() / 255, data.train.labels)
    train.images[7, 0, 3, 3] = NAN
    assert data.validation is not None
    validation, test = (ImageSet(s.images.float() / 255, s.labels) for s in (data.validation, data.test))
    return replace(data, train=train, validation=validation, test=test, mean=(), std=())


def network_of(method: str) -> LocalNetwork:
    return build_network(
        get_method(method), "small", sample_shape=(1, 8, 8), num_classes=3, width=0.05, seed=0
    )


def learner_of(method: str) -> Learner:
    return Learner(network_of(method), generator=torch.Generator().manual_seed(0), on_nan="skip")


def batches(count: int, *, bad: int | None = None) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    made = [(torch.randn(6, 1, 8, 8, generator=draw), torch.arange(6) % 3) for _ in range(count)]
    if bad is not None:
        made[bad][0][2, 0, 1, 1] = NAN
    return made


def state_of(learner: Learner) -> list[Tensor]:
    optimizers = learner.optimizers.values()
    moments = [v for o in optimizers for values in o.state.values() for v in values.values()]
    return [v.clone() for v in [*learner.network.state_dict().values(), *moments] if isinstance(v, Tensor)]


class Breaks(Callback):
    """Makes weights of the first block no numbers after two steps."""

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.learner.steps == 2:
            next(trainer.network.blocks[0].parameters()).data.fill_(NAN)


def test_a_loss_that_is_no_number_ends_the_run_at_its_step(stripes: ImageData) -> None:
    with pytest.raises(DivergenceError, match=r"the loss of block 0 became nan at step 3 of epoch 1; try"):
        train(SMALL, data=stripes, callbacks=[Breaks()])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_sample_that_is_no_number_is_named_before_training(stripes: ImageData, split: str) -> None:
    data = with_one_bad_image(stripes)
    splits: dict[str, Any] = {"train": data.test} | {split: data.train}
    with pytest.raises(ValueError, match=f"sample 7 of {split} has a value that is nan"):
        train(SMALL, data=replace(data, **splits))


def test_such_updates_are_skipped_where_that_is_asked_for(stripes: ImageData) -> None:
    with pytest.warns(UserWarning, match="2 of 8 steps left weights as they were"):
        run = train(replace(SMALL, on_nan="skip"), data=with_one_bad_image(stripes))
    assert run.result["skipped_steps"] == 2
    assert all(bool(tensor.isfinite().all()) for tensor in run.network.state_dict().values())
    for record in run.trainer.history:
        assert all(loss is not None for loss in record["loss"])


def test_a_run_whose_updates_are_all_skipped_has_diverged(stripes: ImageData) -> None:
    data = with_one_bad_image(stripes)
    data.train.images[:] = NAN
    with pytest.raises(DivergenceError, match="every update was skipped"):
        train(replace(SMALL, on_nan="skip"), data=data)


@pytest.mark.parametrize("method", METHODS)
def test_a_skipped_step_leaves_everything_as_it_was(method: str) -> None:
    learner = learner_of(method)
    for batch in batches(2):
        learner.step(*batch)
    before = state_of(learner)
    losses = learner.step(*batches(1, bad=0)[0])
    assert losses == [None] * len(losses)
    assert learner.skipped == {2}
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(learner), strict=True))
    assert all(p.grad is None for p in learner.network.parameters())


def test_a_gradient_that_is_no_number_is_skipped_too() -> None:
    learner = learner_of("superfecta")
    (weight, *_) = learner.network.blocks[1].parameters()
    weight.register_hook(lambda gradient: gradient * NAN)  # type: ignore[no-untyped-call]
    before = weight.detach().clone()
    losses = learner.step(*batches(1)[0])
    assert losses[1] is None
    assert losses[2] is not None
    assert torch.equal(weight, before)


def test_a_pipeline_skips_the_same_steps() -> None:
    serial, parallel = learner_of("superfecta"), learner_of("superfecta")
    given, threads = batches(6, bad=3), torch.get_num_threads()
    torch.set_num_threads(1)  # as many as each of the pipeline's workers has
    try:
        for batch in given:
            serial.step(*batch)
    finally:
        torch.set_num_threads(threads)
    list(Pipeline(parallel, 2).steps(given))
    assert serial.skipped == parallel.skipped == {3}
    assert all(torch.equal(a, b) for a, b in zip(state_of(serial), state_of(parallel), strict=True))


@pytest.mark.parametrize(("device", "late"), [("cpu", 0), ("meta", STEPS_UNCHECKED - 1)])
def test_a_loss_is_looked_at_within_so_many_steps(device: str, late: int) -> None:
    meter = LossMeter(2 * STEPS_UNCHECKED, 2, torch.device("cpu"))
    if device != "cpu":
        meter.check_every = STEPS_UNCHECKED  # what it is on a device that works ahead of Python
    loss = [torch.tensor(1.0), None]
    for step in range(STEPS_UNCHECKED):
        meter.add(step, loss)
    infinite = [torch.tensor(torch.inf), None]
    for step in range(STEPS_UNCHECKED, STEPS_UNCHECKED + late):
        meter.add(step, infinite)
    with pytest.raises(DivergenceError, match=f"block 0 became inf at step {STEPS_UNCHECKED + 1}"):
        meter.add(STEPS_UNCHECKED + late, infinite)


@pytest.mark.filterwarnings("always:block")
def test_blocks_that_have_learnt_nothing_are_named(stripes: ImageData) -> None:
    optimizer = replace(get_method("superfecta").optimizer, learning_rate=1e-9)
    untrained = replace(SMALL, epochs=1, method=replace(get_method("superfecta"), optimizer=optimizer))
    with pytest.warns(UserWarning, match=r"block \d has learnt nothing: .* its loss was 1.* and is 1"):
        train(replace(untrained, seed=1), data=stripes)


@pytest.mark.filterwarnings("error:block")
def test_a_block_whose_loss_falls_has_learnt_however_it_predicts(stripes: ImageData) -> None:
    """Stale statistics, or labels that mean nothing in the test images, are no fault of a block."""
    data = replace(stripes, test=replace(stripes.test, labels=stripes.test.labels.roll(1)))
    run = train(replace(SMALL, epochs=3, batch_size=20), data=data)
    assert run.test_accuracy < 0.1


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([1.0, 0.99], True),
        ([1.0, 0.9], False),
        ([-0.5, -0.51], True),
        ([-0.5, -0.9], False),
        ([0.7, 1.4], True),
        ([None, 0.5], True),
    ],
)
def test_a_loss_falls_or_it_does_not(
    losses: list[float | None], said: bool, stripes: ImageData, recwarn: pytest.WarningsRecorder
) -> None:
    network = network_of("superfecta")
    measured = evaluate(network, stripes.test, mean=stripes.mean, std=stripes.std)
    chance = replace(measured, block_accuracy=[1 / 3, *[None] * 5])
    first, last = losses
    history = [
        {"first_loss": [first, *[None] * 5], "loss": [first, *[None] * 5]},
        {"first_loss": [last, *[None] * 5], "loss": [last, *[None] * 5]},
    ]
    warnings.simplefilter("always")
    warn_of_stuck_blocks(history, chance)
    assert bool(recwarn.list) is said


def test_a_meter_knows_the_first_loss_of_each_block() -> None:
    meter = LossMeter(3, 3, torch.device("cpu"))
    meter.add(0, [torch.tensor(2.0), None, None])
    meter.add(1, [torch.tensor(1.0), torch.tensor(3.0), None])
    assert meter.summary() == {"loss": [1.5, 3.0, None], "first_loss": [2.0, 3.0, None]}


@pytest.mark.filterwarnings("always:block")
def test_a_dead_block_is_named(stripes: ImageData) -> None:
    network = network_of("trifecta")
    with torch.no_grad():
        for parameter in network.blocks[3].parameters():
            parameter.zero_()
    measured = evaluate(network, stripes.test, mean=stripes.mean, std=stripes.std)
    with pytest.warns(UserWarning, match=r"block 3 has learnt nothing: .* it is dead, all labels"):
        warn_of_stuck_blocks([], measured)
