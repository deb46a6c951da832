"""Normalisation layers that PyTorch does not have, and the table of all of them.

Shapes: N samples; maps (N, C, …) or features (N, C).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.nn.shapes import channel_groups

# By the number of position dimensions; features (N, C) have none.
BATCH_NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class LengthNorm(nn.Module):
    """Divide each sample by its root mean square: ``x / sqrt(mean_i x_i² + eps)``.

    Leaves the direction and takes the length away, and with it the goodness that the block before
    computed. Source: Hinton 2022, section 2.1 (there the length becomes 1; here the mean square does,
    which is the same up to a factor that does not depend on the data).
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) → (N, …)."""
        dims = tuple(range(1, x.ndim))
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        scale = torch.rsqrt(wide.square().mean(dims, keepdim=True) + self.eps)
        return x * scale.to(x.dtype)


class LayerNorm(nn.Module):
    """Zero mean and unit variance of each sample over all its features, then a scale per channel.

    ``(x − mean_i x_i) / sqrt(var_i x_i + eps) · weight + bias``. Source: Ba et al. 2016
    (arXiv 1607.06450). The same as ``nn.GroupNorm(1, channels)``, whose backward pass crashes on
    channels-last inputs that need no gradient (PyTorch 2.13), as a window's first input never does.
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
    """Zero mean and unit variance of each sample within each class's group of channels.

    ``(x − mean_g) / sqrt(var_g + eps)``, mean and variance over the channels and positions of group g,
    without gain or bias. A group's mean is its class's goodness, so none is passed on; a layer
    normalisation of the whole sample would pass on how the groups differ. Groups as in
    :func:`trifecta.nn.shapes.channel_groups`. Source: the published code of Sun et al. 2025 (DeeperForward,
    ICLR), where every group has the same size; groups of unequal size are ours.
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
            # F.group_norm refuses a batch of one whose groups have one number, which is then 0 as in any.
            return torch.group_norm(x, self.num_classes, eps=self.eps)
        x = x.float() if x.dtype.itemsize < 4 else x
        centred = x - self._mean(x)
        return centred * torch.rsqrt(self._mean(centred.square()) + self.eps)

    def _mean(self, x: Tensor) -> Tensor:
        """The mean over each channel's group, (N, C, …) → (N, C, 1 …)."""
        per_channel = x.flatten(2).mean(2) if x.ndim > 2 else x
        sums = per_channel.new_zeros(x.shape[0], self.num_classes).index_add(1, self.groups, per_channel)
        means = sums / self.sizes
        return means[:, self.groups].view(*x.shape[:2], *[1] * (x.ndim - 2))


class RunningNorm(nn.Module):
    """Batch normalisation by running statistics while training too, so that samples do not see each other.

    ``(x − mean) / sqrt(var + eps) · weight + bias`` per channel, where mean and var are averages over
    the samples seen so far, the present ones included, which forget with a time constant of ``horizon``
    samples whatever the batch size. No gradient passes through them. Positives and negatives of a pair
    share nothing but these, and a batch of one is as good as any. Source: ours; the limit of batch
    renormalisation (Ioffe 2017, arXiv 1702.03275) in which a batch's own statistics do not count.
    """

    running_mean: Tensor
    running_var: Tensor
    samples: Tensor

    def __init__(self, channels: int, *, horizon: int = 2048, eps: float = 1e-5) -> None:
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
            self._follow(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        """Move the averages of mean and square towards those of ``x``."""
        wide = x if x.dtype == self.running_mean.dtype else x.to(self.running_mean.dtype)
        variance, mean = torch.var_mean(wide, [d for d in range(x.ndim) if d != 1], correction=0)
        self.samples += len(x)
        # At first the plain average of all samples, later an exponential one.
        share = (len(x) / self.samples).clamp(min=1 - math.exp(-len(x) / self.horizon))
        step = mean - self.running_mean
        # The variance around the new mean: within, and between the old mean and this one.
        variance += (1 - share) * step.square()
        self.running_var.lerp_(variance, share)
        self.running_mean.lerp_(mean, share)


@dataclass(frozen=True, kw_only=True)
class NormSite:
    """The position of a normalisation in a network.

    Attributes:
        shape: (C, H, W) or (C,) of what it receives.
        first: whether that is the network's input.
        num_classes: K.
    """

    shape: Sequence[int]
    first: bool
    num_classes: int


def _batch(site: NormSite, eps: float = 1e-5) -> nn.Module:
    return BATCH_NORMS[len(site.shape) - 1](site.shape[0], eps=eps)


def _class_groups(site: NormSite) -> nn.Module:
    # An image has no class groups: it is normalised as a whole.
    return ClassGroupNorm(site.shape[0], 1 if site.first else site.num_classes)


NORMALIZATIONS: dict[str, Callable[[NormSite], nn.Module]] = {
    "batch": _batch,
    "running": lambda site: RunningNorm(site.shape[0]),
    "layer": lambda site: LayerNorm(site.shape[0]),
    "layer-elementwise": lambda site: nn.LayerNorm(list(site.shape)),
    "class-groups": _class_groups,
    "length": lambda site: LengthNorm(),
    "batch-output": lambda site: _batch(site, eps=1e-4),
    "none": lambda site: nn.Identity(),
}
"""By name. All stand at a block's input but ``batch-output``, the order of the published code of CwComp."""
AT_OUTPUT = ("batch-output",)
