"""Normalisation layers that PyTorch does not have, and the table of all normalisations.

Shapes: N samples; maps (N, C, …) or features (N, C).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.nn.shapes import channel_groups

# Samples that running statistics average over.
HORIZON = 2048
# By the number of position dimensions; features (N, C) have none.
BATCH_NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class LengthNorm(nn.Module):
    """Divide each sample by its root mean square: ``x / sqrt(mean_i x_i² + eps)``.

    That removes the goodness of the block before. Source: Hinton 2022, section 2.1, up to a constant
    factor: there the length becomes 1, here the mean square.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) → (N, …)."""
        mean_square = _widened(x).square().mean(tuple(range(1, x.ndim)), keepdim=True)
        return x * torch.rsqrt(mean_square + self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    """Normalise each sample over all its features to mean 0 and variance 1, then scale each channel.

    ``(x − mean_i x_i) / sqrt(var_i x_i + eps) · weight + bias``. Source: Ba et al. 2016
    (arXiv 1607.06450). Equal to ``nn.GroupNorm(1, channels)``, whose backward pass crashes on channels-last
    inputs that need no gradient (PyTorch 2.13), such as the first input of a window.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …)."""
        per_channel = (-1, *[1] * (x.ndim - 2))
        normalized = F.layer_norm(x, x.shape[1:], eps=self.eps)
        return normalized * self.weight.view(per_channel) + self.bias.view(per_channel)


class ClassGroupNorm(nn.Module):
    """Normalise each sample to mean 0 and variance 1 within each class's group of channels.

    ``(x − mean_g) / sqrt(var_g + eps)`` over the channels and positions of group g, without gain or bias.
    A group's mean is the goodness of its class, so no goodness is passed on; a layer normalisation would
    pass on the differences between groups. Groups are those of
    :func:`trifecta.nn.shapes.channel_groups`. Source: the published code of Sun et al. 2025
    (DeeperForward, ICLR), where all groups have the same size; groups of unequal size are ours.
    """

    groups: Tensor
    sizes: Tensor

    def __init__(self, channels: int, num_classes: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_classes, self.eps = num_classes, eps
        self.equal = channels % num_classes == 0
        groups = channel_groups(channels, num_classes)
        self.register_buffer("groups", groups, persistent=False)
        self.register_buffer("sizes", groups.bincount(minlength=num_classes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …)."""
        if self.equal:
            # F.group_norm refuses one sample with groups of one number, where this returns 0.
            return torch.group_norm(x, self.num_classes, eps=self.eps)
        x = _widened(x)
        centred = x - self._mean(x)
        return centred * torch.rsqrt(self._mean(centred.square()) + self.eps)

    def _mean(self, x: Tensor) -> Tensor:
        """Return the mean over each channel's group, (N, C, …) → (N, C, 1 …)."""
        per_channel = x.flatten(2).mean(2) if x.ndim > 2 else x
        sums = per_channel.new_zeros(x.shape[0], self.num_classes).index_add(1, self.groups, per_channel)
        return (sums / self.sizes)[:, self.groups].view(*x.shape[:2], *[1] * (x.ndim - 2))


class RunningNorm(nn.Module):
    """Batch normalisation by running statistics, in training too, so that samples are independent.

    ``(x − mean) / sqrt(var + eps) · weight + bias`` per channel. Mean and variance are averages over the
    samples so far, the current batch included, with a time constant of ``horizon`` samples at any batch
    size; no gradient passes through them. Source: ours; the limit of batch renormalisation (Ioffe 2017,
    arXiv 1702.03275) without the batch's own statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    samples: Tensor

    def __init__(self, channels: int, *, horizon: int = HORIZON, eps: float = 1e-5) -> None:
        super().__init__()
        self.horizon, self.eps = horizon, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("samples", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …)."""
        if self.training:
            self._update_statistics(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    @torch.no_grad()
    def _update_statistics(self, x: Tensor) -> None:
        dims = [0, *range(2, x.ndim)]
        variance, mean = torch.var_mean(x.to(self.running_mean.dtype), dims, correction=0)
        self.samples += len(x)
        # The plain average of all samples at first, an exponential one later.
        share = (len(x) / self.samples).clamp(min=1 - math.exp(-len(x) / self.horizon))
        step = mean - self.running_mean
        # Around the new mean: the variance within the batch, and between the old mean and the batch's.
        variance += (1 - share) * step.square()
        self.running_var.lerp_(variance, share)
        self.running_mean.lerp_(mean, share)


@contextmanager
def normalized_by_running_statistics(
    modules: Iterable[nn.Module], on_use: Callable[[], None]
) -> Iterator[None]:
    """Let batch normalizations in ``modules`` that see one value a channel use their running statistics.

    These follow the value first, as those of :class:`RunningNorm` do, and ``on_use`` is called.

    Raises:
        ValueError: such a normalization keeps no running statistics.
    """
    kinds = tuple(BATCH_NORMS.values())
    norms = {m for module in modules for m in module.modules() if isinstance(m, kinds) and m.training}

    @torch.no_grad()
    def before(norm: Any, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        norm.training = x.ndim < 2 or x.numel() > x.shape[1]
        if norm.training:
            return
        if norm.running_mean is None:
            raise ValueError(
                "batch normalisation without running statistics needs 2 values a channel: received a batch "
                "of one; use larger batches, and drop_last=True in a DataLoader"
            )
        on_use()
        mean, variance = norm.running_mean, norm.running_var
        norm.num_batches_tracked += 1
        share = norm.num_batches_tracked.to(mean.dtype).reciprocal().clamp(min=1 - math.exp(-1 / HORIZON))
        step = x.flatten().to(mean.dtype) - mean
        # Around the new mean, as one value has no variance of its own.
        variance.lerp_((1 - share) * step.square(), share)
        mean.add_(share * step)

    handles = {norm: norm.register_forward_pre_hook(before) for norm in norms}
    try:
        yield
    finally:
        for norm, handle in handles.items():
            norm.training = True
            handle.remove()


def _widened(x: Tensor) -> Tensor:
    """Return half precision as float32, and other precisions unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True, kw_only=True)
class NormSite:
    """The position of a normalisation in a network."""

    shape: Sequence[int]  #: of its input, (C, H, W) or (C,)
    first: bool  #: whether its input is the network's input
    num_classes: int  #: K


def _batch(site: NormSite, eps: float = 1e-5) -> nn.Module:
    return BATCH_NORMS[len(site.shape) - 1](site.shape[0], eps=eps)


NORMALIZATIONS: dict[str, Callable[[NormSite], nn.Module]] = {
    "batch": _batch,
    "running": lambda site: RunningNorm(site.shape[0]),
    "layer": lambda site: LayerNorm(site.shape[0]),
    "layer-elementwise": lambda site: nn.LayerNorm(list(site.shape)),
    # Images have no class groups.
    "class-groups": lambda site: ClassGroupNorm(site.shape[0], 1 if site.first else site.num_classes),
    "length": lambda site: LengthNorm(),
    "batch-output": lambda site: _batch(site, eps=1e-4),
    "none": lambda site: nn.Identity(),
}
# These normalise a block's output, as the published code of CwComp does; all others its input.
AT_OUTPUT = ("batch-output",)
