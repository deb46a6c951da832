"""Batch normalization by the statistics of the whole batch, of which every replica has an equal share."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trifecta.parallel.links import waiting_for


def synchronize_statistics(network: nn.Module, group: dist.ProcessGroup) -> None:
    """Let every batch normalization in ``network`` use the statistics of all replicas in ``group``."""
    for module in network.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            # The module keeps its place, parameters and buffers.
            module.__class__ = SynchronizedBatchNorm
            module.__dict__["group"] = group


class SynchronizedBatchNorm(_BatchNorm):
    """Batch normalization by the mean and variance over the samples of all replicas in ``group``.

    Like :class:`torch.nn.SyncBatchNorm`, but without a GPU, and with the variance taken around the common
    mean in a second pass. All replicas must have equally many samples.
    """

    group: dist.ProcessGroup | None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the group out: a copied module has statistics of its own."""
        return {**super().__getstate__(), "group": None}  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, …) → (N, C, …)."""
        if not self.training or self.group is None:
            return super().forward(x)
        wide = x.float() if x.dtype.itemsize < 4 else x
        dims = [d for d in range(x.ndim) if d != 1]
        shape = (1, -1, *[1] * (x.ndim - 2))
        count = wide.new_tensor(x.numel() // x.shape[1] * dist.get_world_size(self.group))
        mean: Tensor = _Sum.apply(wide.sum(dims), self.group) / count  # type: ignore[no-untyped-call]
        centred = wide - mean.view(shape)
        squares: Tensor = _Sum.apply(centred.square().sum(dims), self.group)  # type: ignore[no-untyped-call]
        variance = squares / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept samples of any dimensions."""


class _Sum(torch.autograd.Function):
    """Sum of a tensor over processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group, total = group, x.clone()
        with waiting_for():
            dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradients[0], ctx.group), None  # type: ignore[no-untyped-call]
