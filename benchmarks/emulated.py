"""Layouts in as many processes as wanted, on however few cores: blocks wait where they would compute.

The library's own stages and replicas, and PyTorch's own pipelines, run with real messages; only the blocks'
work is emulated, by waiting as long as it is said to take for so many images.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from end_to_end_ranks import PipelinedBackprop
from scaling_rank import seconds_of
from simulation import BlockTimes
from trifecta import LocalNetwork, get_method
from trifecta.parallel.plan import Layout
from trifecta.parallel.processes import Processes, joined
from trifecta.parallel.stage import StageLearner
from trifecta.schedules import Schedule

IMAGES, CLASSES = 64, 10
WARM_UP = 2
FLOAT = 4


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """A layout to try.

    Attributes:
        name: in the report.
        layout: replicas and stages; for backprop the stages alone count.
        schedule: of local windows; None for backprop.
        pipeline: ``gpipe`` or ``1f1b``, for backprop.
        micro_batches: of a pipeline.
        blocks: seconds of each block's forward pass for a batch; its backward pass takes twice as long.
        features: that each block passes on, for an image.
        steps: that are timed.
    """

    name: str
    layout: Layout
    schedule: Schedule | None = None
    pipeline: str = ""
    micro_batches: int = 4
    blocks: tuple[float, ...]
    features: int
    steps: int

    def times(self) -> list[BlockTimes]:
        """What the simulator is told."""
        return [
            BlockTimes(
                forward=seconds,
                backward=2 * seconds,
                local=3 * seconds,
                update=0.0,
                sends=IMAGES * self.features * FLOAT,
                gradients=self.features * (1 + CLASSES) * FLOAT,
            )
            for seconds in self.blocks
        ]


class _Waiting(torch.autograd.Function):
    """The identity, which takes its time forward and backward."""

    @staticmethod
    def forward(ctx, x: Tensor, seconds: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.seconds = seconds
        time.sleep(seconds * len(x) / IMAGES)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        time.sleep(2 * ctx.seconds * len(gradients[0]) / IMAGES)
        return gradients[0], None


class EmulatedBlock(nn.Module):
    """Scales each feature, and waits."""

    def __init__(self, features: int, seconds: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, features))
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        """(N, F) → (N, F)."""
        waited: Tensor = _Waiting.apply(x * self.scale, self.seconds)  # type: ignore[no-untyped-call]
        return waited


def measure(emulation: Emulation) -> float:
    """Seconds of a process for all timed steps."""
    torch.set_num_threads(1)
    with joined(torch.device("cpu")):
        step, finish = _trainer(emulation)
        images, labels = torch.randn(IMAGES, emulation.features), torch.arange(IMAGES) % CLASSES
        for _ in range(WARM_UP):
            step(images, labels)
        finish()
        return seconds_of(emulation.steps, partial(step, images, labels), finish, images.device)


def _trainer(emulation: Emulation) -> tuple[Any, Any]:
    method = get_method("backprop")
    if emulation.schedule is not None:
        method = replace(get_method("mono-forward"), schedule=emulation.schedule)
    torch.manual_seed(0)
    blocks = [EmulatedBlock(emulation.features, seconds) for seconds in emulation.blocks]
    network = LocalNetwork(blocks, method, sample_shape=(emulation.features,), num_classes=CLASSES)
    if emulation.pipeline:
        pipelined = PipelinedBackprop(
            network,
            "fp32",
            schedule=emulation.pipeline,
            micro_batches=emulation.micro_batches,
            costs=emulation.blocks,
        )
        return pipelined.step, lambda: None
    learner = Processes(emulation.layout).learner(network, total_steps=WARM_UP + emulation.steps)
    assert isinstance(learner, StageLearner)
    return learner.step, learner.finish
