"""Backprop in several processes, by PyTorch's own means: the rivals of layer-parallel local training.

``DistributedDataParallel`` for replicas; the schedules of ``torch.distributed.pipelining`` for stages, in
which a batch is split into micro-batches. Batch normalisation sees a process's images, or a micro-batch's.

Shapes: B images (B, C, H, W), labels (B,).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.nn.parallel import DistributedDataParallel

from trifecta._utils.devices import autocast, in_memory_format
from trifecta.counts import block_costs
from trifecta.learner import build_optimizers
from trifecta.network import LocalNetwork
from trifecta.parallel.plan import Layout, make_plan
from trifecta.schedules import LAYER_WISE

# Schedules of one stage a process, and of several.
SINGLE: dict[str, Callable[..., Any]] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
INTERLEAVED = "interleaved"
_STAGES_A_RANK = 2


class Stack(nn.Module):
    """A run of a network's blocks, and behind the last one its classifier, as one module."""

    def __init__(self, network: LocalNetwork, blocks: range, precision: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(network.blocks[k] for k in blocks)
        is_last = blocks.stop == len(network.blocks)
        self.head = network.head(blocks.stop - 1) if is_last else None
        self.precision = precision

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, …) → features (N, …), or scores (N, K)."""
        x = _Unpacked.apply(x)  # type: ignore[no-untyped-call]
        with autocast(self.precision, x.device):
            for block in self.blocks:
                x = block(x)
            return x.contiguous() if self.head is None else self.head.scores(x)


class _Unpacked(torch.autograd.Function):
    """A received map with its channels last, as convolutions like it; its gradient as gloo wants it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return in_memory_format(x)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return gradients[0].contiguous()


class ReplicatedBackprop:
    """Backprop on this process's share of every batch, by ``DistributedDataParallel``.

    Args:
        network: of method backprop, the same in every process.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(self, network: LocalNetwork, precision: str) -> None:
        self.network = network
        blocks = range(len(network.blocks))
        self.optimizers = build_optimizers(network, blocks)
        self.model = DistributedDataParallel(Stack(network, blocks, precision))

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Learn from a batch, of which this process sees its share."""
        rank, ranks = dist.get_rank(), dist.get_world_size()
        share = slice(rank * len(images) // ranks, (rank + 1) * len(images) // ranks)
        torch.autograd.backward(F.cross_entropy(self.model(images[share]), labels[share]))
        _update(self.optimizers)


class PipelinedBackprop:
    """Backprop on stages in processes of their own.

    Args:
        network: of method backprop, the same in every process.
        precision: ``fp32`` or ``bf16``.
        schedule: ``gpipe``, ``1f1b`` or ``interleaved``.
        micro_batches: pieces of a batch.
        costs: of the blocks, by which stages are balanced; counted where None.
    """

    def __init__(
        self,
        network: LocalNetwork,
        precision: str,
        *,
        schedule: str,
        micro_batches: int,
        costs: Sequence[float] | None = None,
    ) -> None:
        self.network = network
        rank, ranks = dist.get_rank(), dist.get_world_size()
        device = next(network.parameters()).device
        is_single = schedule in SINGLE
        count = ranks if is_single else _STAGES_A_RANK * ranks
        plan = make_plan(Layout(layers=count), costs or block_costs(network), LAYER_WISE)
        own = range(rank, count, ranks)
        self.is_first, self.is_last = own[0] == 0, own[-1] == count - 1
        stages: list[Any] = [
            PipelineStage(Stack(network, plan.stages[number], precision), number, count, device)
            for number in own
        ]
        self.optimizers: dict[int, torch.optim.Optimizer] = {}
        for number in own:
            self.optimizers |= build_optimizers(network, plan.stages[number])
        if is_single:
            self.schedule = SINGLE[schedule](stages[0], micro_batches, loss_fn=F.cross_entropy)
        else:
            self.schedule = ScheduleInterleaved1F1B(stages, micro_batches, loss_fn=F.cross_entropy)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Learn from a batch, which the first stage reads, and whose labels the last one reads."""
        inputs: Sequence[Tensor] = (images,) if self.is_first else ()
        target = {"target": labels} if self.is_last else {}
        self.schedule.step(*inputs, **target)
        _update(self.optimizers)


def _update(optimizers: dict[int, torch.optim.Optimizer]) -> None:
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
