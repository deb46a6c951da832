"""Blocks: normalise → weights → activation → pool, the unit that a schedule trains.

Shapes: N samples; a convolutional block maps (N, C, H, W) → (N, C', H', W'), a linear one flattens
whatever comes and maps (N, …) → (N, F').
"""

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


# Each constructor takes the number of channels (of features, for a linear block).
_CONV_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": LayerNorm,
    "length": lambda channels: LengthNorm(),
    "running": RunningNorm,
    "none": lambda channels: nn.Identity(),
}
_LINEAR_NORMS = _CONV_NORMS | {"batch": nn.BatchNorm1d}
NORMALIZATIONS = tuple(_CONV_NORMS)


def conv_block(
    in_channels: int, out_channels: int, *, normalization: str = "batch", pool: bool = False
) -> nn.Sequential:
    """Normalise → 3×3 convolution (padding 1, no bias) → ReLU → optionally 2×2 maximum.

    (N, in_channels, H, W) → (N, out_channels, H, W), or half of H and W with ``pool``.
    Source: the published code of Dooms et al. 2023.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        normalize=_CONV_NORMS[normalization](in_channels),
        weights=nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        activation=nn.ReLU(),
    )
    if pool:
        parts["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(parts)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: ``relu(shortcut(x) + f(x))``.

    ``f`` is normalise → convolution → ReLU → normalise → convolution, the shortcut the identity, or
    a 1×1 convolution where the size changes. A stride of 2 halves H and W. Everything inside learns
    together. Source: He et al. 2016 (arXiv 1512.03385), with normalisation before the convolutions.

    The shortcut takes every second pixel before its convolution, not by a stride of the convolution: the
    weight gradient of strided 1×1 convolutions writes past its memory for channels-last inputs of few
    channels (PyTorch 2.13, CPU without AVX-512).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, normalization: str = "batch", stride: int = 1
    ) -> None:
        super().__init__()
        norm = _CONV_NORMS[normalization]
        self.residual = nn.Sequential(
            norm(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.ReLU(),
            norm(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        )
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) → (N, out_channels, H/stride, W/stride)."""
        kept = x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]
        return F.relu(self.shortcut(kept) + self.residual(x))


def linear_block(in_features: int, out_features: int, *, normalization: str = "batch") -> nn.Sequential:
    """Flatten → normalise → linear → ReLU, (N, …) of in_features in all → (N, out_features)."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            normalize=_LINEAR_NORMS[normalization](in_features),
            weights=nn.Linear(in_features, out_features),
            activation=nn.ReLU(),
        )
    )
