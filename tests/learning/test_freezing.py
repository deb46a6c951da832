"""Blocks that stay as they are after their share of a run."""

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from trifecta.learner import Learner
from trifecta.methods import get_method
from trifecta.network import LocalNetwork, build_network
from trifecta.optim import OptimizerConfig
from trifecta.schedules import LAYER_WISE, OVERLAPPING, Schedule

SHAPE, STEPS, BLOCKS = (3, 32, 32), 10, 6
# Block k of 6 learns for a share 0.5 + 0.1 k of 10 steps.
LAST_STEPS = (5, 6, 7, 8, 9, 10)


def network_of(schedule: Schedule, freeze_from: float, method: str = "mono-forward") -> LocalNetwork:
    frozen = replace(
        get_method(method), schedule=schedule, optimizer=OptimizerConfig(freeze_from=freeze_from)
    )
    return build_network(frozen, "small", sample_shape=SHAPE, num_classes=3, width=0.05).double()


def batches(count: int = STEPS) -> Iterable[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    for _ in range(count):
        images = torch.rand(6, *SHAPE, generator=draw, dtype=torch.float64)
        yield images, torch.randint(3, (6,), generator=draw)


def weights(network: LocalNetwork) -> list[list[Tensor]]:
    return [[p.detach().clone() for p in network.own_parameters(k)] for k in range(BLOCKS)]


@pytest.mark.parametrize("schedule", [LAYER_WISE, OVERLAPPING, Schedule(size=3)])
@pytest.mark.parametrize("method", ["mono-forward", "trifecta"])
def test_deep_supervision_learns_until_its_end_and_no_longer(schedule: Schedule, method: str) -> None:
    network = network_of(schedule, 0.5, method)
    learner = Learner(network, total_steps=STEPS)
    moved: list[list[int]] = [[] for _ in range(BLOCKS)]
    for step, (images, labels) in enumerate(batches()):
        before = weights(network)
        losses = learner.step(images, labels)
        for k, after in enumerate(weights(network)):
            if any(not torch.equal(a, b) for a, b in zip(before[k], after, strict=True)):
                moved[k].append(step)
            assert losses[k] is None or step < LAST_STEPS[k]
    assert moved == [list(range(steps)) for steps in LAST_STEPS]


def test_learning_rates_decay_to_their_own_ends() -> None:
    learner = Learner(network_of(LAYER_WISE, 0.5), total_steps=STEPS)
    for step, (images, labels) in enumerate(batches(4)):
        learner.step(images, labels)
        for k, last in enumerate(LAST_STEPS):
            rate = 3e-3 * (1 + math.cos(math.pi * step / last)) / 2
            assert learner.optimizers[k].param_groups[0]["lr"] == pytest.approx(rate)


def test_what_still_learns_gets_the_gradient_that_it_would_get_anyway() -> None:
    ours, free = network_of(OVERLAPPING, 0.5), network_of(OVERLAPPING, 1.0)
    frozen, whole = Learner(ours, total_steps=STEPS), Learner(free, total_steps=STEPS)
    # Two blocks are frozen at step 6, an even one: windows (0 1) (2 3) (4 5).
    frozen.steps = whole.steps = 6
    images, labels = next(iter(batches()))
    losses, expected = frozen.step(images, labels), whole.step(images, labels)
    assert losses[1] is None
    assert torch.equal(torch.stack([losses[3], losses[5]]), torch.stack([expected[3], expected[5]]))  # type: ignore[list-item]
    # Batch statistics go on where blocks are frozen.
    for a, b in zip(ours.blocks[:2].buffers(), free.blocks[:2].buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_freezing_needs_a_decay() -> None:
    with pytest.raises(ValueError, match="freeze_from is a share of the run above 0: received"):
        OptimizerConfig(freeze_from=0)
    with pytest.raises(ValueError, match="use cosine"):
        OptimizerConfig(freeze_from=0.5, decay="constant")
