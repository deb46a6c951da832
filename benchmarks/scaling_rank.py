"""One process of a row of the scaling benchmark: it builds its part, trains, and says what that took."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from end_to_end_ranks import PipelinedBackprop, ReplicatedBackprop
from trifecta._utils.devices import peak_memory_bytes, synchronize
from trifecta.bench import SavedBytes, Setting
from trifecta.method import Method
from trifecta.parallel.plan import Layout
from trifecta.parallel.processes import Processes, joined
from trifecta.parallel.stage import StageLearner

# Both parities of an overlapping schedule.
WARM_UP = 2
LAYOUTS = {"layers", "data"}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the processes of a row are to do.

    Attributes:
        setting: network, batch, precision.
        method: that trains it.
        how: ``one``, ``layers`` or ``data``; for backprop also a schedule of pipelines or ``ddp``.
        ranks: processes.
        micro_batches: of a pipelined batch.
        steps: that are timed.
    """

    setting: Setting
    method: Method
    how: str
    ranks: int
    micro_batches: int
    steps: int


def measure(order: Order) -> dict[str, float]:
    """Train, together with the other processes of the row.

    Returns:
        ``seconds`` of all timed steps, the same in all processes but for what a barrier takes;
        ``resident_bytes`` above those of a process that has built nothing; by count ``model_bytes``,
        weights and optimizer states, and ``saved_bytes``, most that graphs held at a time.
    """
    torch.set_num_threads(1)
    device = order.setting.torch_device
    with joined(device):
        before = peak_memory_bytes(device)
        images, labels = order.setting.batch()
        step, finish, parts = _trainer(order)
        with SavedBytes() as saved:
            for _ in range(WARM_UP):
                step(images, labels)
            finish()
        return {
            "seconds": seconds_of(order.steps, partial(step, images, labels), finish, device),
            "resident_bytes": peak_memory_bytes(device) - before,
            "model_bytes": _bytes(parts),
            "saved_bytes": saved.most,
        }


def seconds_of(
    steps: int, step: Callable[[], object], finish: Callable[[], object], device: torch.device
) -> float:
    """Seconds in which all processes of a row have taken and finished so many steps."""
    dist.barrier()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    finish()
    synchronize(device)
    dist.barrier()
    return time.perf_counter() - began


Step = Callable[[Tensor, Tensor], object]


def _trainer(order: Order) -> tuple[Step, Callable[[], None], Any]:
    """Return a step, what finishes all steps so far, and what holds network and optimizers."""
    network, precision = order.setting.build(order.method), order.setting.precision
    if order.how == "ddp":
        replicated = ReplicatedBackprop(network, precision)
        return replicated.step, _nothing, replicated
    if order.how not in LAYOUTS | {"one"}:
        pipelined = PipelinedBackprop(
            network, precision, schedule=order.how, micro_batches=order.micro_batches
        )
        return pipelined.step, _nothing, pipelined
    options = {
        "generator": torch.Generator(order.setting.torch_device).manual_seed(0),
        "precision": precision,
        "total_steps": WARM_UP + order.steps,
    }
    if order.how == "one":
        # The plain graph for backprop, as its rivals have it; kernels for local windows where faster.
        kernels = False if not order.method.schedule.size else None
        learner = Processes().learner(network, kernels=kernels, **options)
        return learner.step, _nothing, learner
    layout = Layout(**{order.how: order.ranks})
    learner = Processes(layout).learner(network, **options)
    assert isinstance(learner, StageLearner)
    return learner.step, learner.finish, learner


def _nothing() -> None:
    """Finish what is finished."""


def _bytes(parts: Any) -> int:
    """Bytes of the weights that this process trains, and of their optimizers' states."""
    held = {id(p): p for o in parts.optimizers.values() for g in o.param_groups for p in g["params"]}
    states = [
        value
        for optimizer in parts.optimizers.values()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    return sum(t.numel() * t.element_size() for t in [*held.values(), *states])
