"""Replicas: processes that hold the same blocks and learn from different images of every batch.

Shapes: B images of a batch, N those of a replica.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trifecta.distributed.faults import waiting_for


@dataclass(frozen=True)
class Replicas:
    """The replicas of one stage.

    Attributes:
        group: their processes.
        count: how many there are.
        index: of this one.
    """

    group: dist.ProcessGroup
    count: int
    index: int

    def rows(self, images: int) -> slice:
        """Return the share of a batch of so many images that is this replica's.

        Raises:
            ValueError: the replicas cannot have equal shares.
        """
        if images % self.count:
            raise ValueError(
                f"replicas have equal shares of a batch: received {images} images for {self.count}; use "
                f"batch_size={max(1, images // self.count) * self.count}"
            )
        share = images // self.count
        return slice(self.index * share, (self.index + 1) * share)

    def average(self, parameters: Iterable[nn.Parameter]) -> "Averaging":
        """Begin to average the gradients of ``parameters`` over the replicas."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        with waiting_for():
            work = dist.all_reduce(together, group=self.group, async_op=True)
        assert work is not None
        return Averaging(work=work, together=together, gradients=gradients, count=self.count)


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Gradients whose average is under way."""

    work: dist.Work
    together: Tensor
    gradients: list[Tensor]
    count: int

    def finish(self) -> None:
        """Wait for the average, which then stands in place of the gradients."""
        with waiting_for():
            self.work.wait()
        pieces = torch.split(self.together / self.count, [g.numel() for g in self.gradients])
        for gradient, piece in zip(self.gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))


class _Sum(torch.autograd.Function):
    """The sum of a tensor over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.group = group
        total = x.clone()
        with waiting_for():
            dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        total = gradients[0].clone()
        with waiting_for():
            dist.all_reduce(total, group=ctx.group)
        return total, None


class SynchronizedBatchNorm(_BatchNorm):
    """Batch normalisation by the mean and variance of all replicas' samples.

    The same as :class:`torch.nn.SyncBatchNorm`, which needs a GPU, and in two passes: the variance is that
    around the mean of all. Replicas have equally many samples.
    """

    shared: "_Uncopied"

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …)."""
        if not self.training or self.shared.group is None:
            return super().forward(x)
        wide = x.float() if x.dtype.itemsize < 4 else x
        dims = [d for d in range(x.ndim) if d != 1]
        shape = (1, -1, *[1] * (x.ndim - 2))
        count = self._sum(torch.full((), x.numel() // x.shape[1], dtype=wide.dtype, device=x.device))
        mean = self._sum(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = self._sum(centred.square().sum(dims)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    def _sum(self, values: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(values, self.shared.group)  # type: ignore[no-untyped-call]
        return total

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)

    def _check_input_dim(self, x: Tensor) -> None:
        """Take samples of any dimensions."""


@dataclass(frozen=True)
class _Uncopied:
    """Processes; None in a copy of a module, which is not one of the replicas."""

    group: dist.ProcessGroup | None

    def __deepcopy__(self, memo: object) -> "_Uncopied":
        return _Uncopied(None)


def synchronize_statistics(network: nn.Module, group: dist.ProcessGroup) -> None:
    """Let every batch normalisation in ``network`` use the statistics of all replicas."""
    for module in list(network.modules()):
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            # The layer keeps its place, its parameters and its buffers.
            module.__class__ = SynchronizedBatchNorm
            module.shared = _Uncopied(group)  # type: ignore[assignment]
