"""The normalisations before a linear map, without a graph: forward by pieces, gradients by pieces.

``y = scale · x̂ + shift`` per channel, with x̂ the standardised input. What a gradient needs of the whole
batch (batch norm's two means) is a product of quantities that the weight gradient already knows:

    d_scale_c = Σ dy·x̂ = Σ_{o,tap} weight_{o,c,tap} · ŵ_{o,c,tap},   ŵ = weight gradient against x̂
    d_shift_c = Σ dy   = Σ_{o,tap} weight_{o,c,tap} · s_{o,tap},     s = tap sums of the gradient
    d_weight_{o,c,tap} = scale_c · ŵ_{o,c,tap} + shift_c · s_{o,tap}

so dy never has to exist as a whole, and a window's first block needs no input gradient at all.

Shapes: R rows of a piece; x (R, C, H, W) or (R, C); ``positions`` of a channel in the whole batch.
"""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.fused.pointwise import combine, relu_gradient
from trifecta.nn.norms import LayerNorm, LengthNorm


class Totals(NamedTuple):
    """Batch sums (C,) of ``dy · x̂`` and of ``dy``, and the number of positions they run over."""

    scaled: Tensor
    plain: Tensor
    positions: int


class Statistics(NamedTuple):
    """Per-channel mean and (biased) variance (C,) of a batch; None where the norm has no use for them."""

    mean: Tensor | None = None
    variance: Tensor | None = None


class NormContext(NamedTuple):
    """Inputs of the gradient with respect to a norm's input, besides that input.

    Attributes:
        statistics: of the batch.
        scale: (C,), None where the norm has none.
        totals: come with a scale.
    """

    statistics: Statistics
    scale: Tensor | None
    totals: Totals | None


class Norm(Protocol):
    """A normalisation in a fused window; scale and shift are None where it has none."""

    reads_batch: bool
    separable: bool  # no channel's gradient depends on another channel

    def standardize(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Return x̂."""
        ...

    def __call__(
        self, x: Tensor, statistics: Statistics, scale: Tensor | None, shift: Tensor | None
    ) -> Tensor:
        """Return y = scale · x̂ + shift."""
        ...

    def input_gradient(self, dy: Tensor, x: Tensor, context: NormContext, *, rectified: bool) -> Tensor:
        """The gradient of x from that of y; may overwrite dy. With ``rectified``, 0 where x is."""
        ...


class FusedBatchNorm:
    """Batch statistics, from sums that the block before left behind."""

    reads_batch = True
    separable = True

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def standardize(self, x: Tensor, statistics: Statistics) -> Tensor:
        """``(x − mean) / sqrt(variance + eps)``."""
        return self(x, statistics, None, None)

    def __call__(
        self, x: Tensor, statistics: Statistics, scale: Tensor | None, shift: Tensor | None
    ) -> Tensor:
        """See :class:`Norm`."""
        mean, variance = statistics
        return F.batch_norm(x, mean, variance, weight=scale, bias=shift, training=False, eps=self.eps)

    def input_gradient(self, dy: Tensor, x: Tensor, context: NormContext, *, rectified: bool) -> Tensor:
        """``scale/σ · (dy − Σdy/positions − x̂·Σ(dy·x̂)/positions)``, as a·dy + b·x + c per channel."""
        (mean, variance), scale, totals = context.statistics, context.scale, context.totals
        assert mean is not None
        assert variance is not None
        assert scale is not None
        assert totals is not None
        inverse = torch.rsqrt(variance + self.eps)
        a = scale * inverse
        b = -a * inverse * totals.scaled / totals.positions
        c = -a * totals.plain / totals.positions - b * mean
        return combine(dy, x, a, b, c, rectified=rectified)


class FusedLayerNorm:
    """Each sample's own mean and variance over all its features."""

    reads_batch = False
    separable = False

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def standardize(self, x: Tensor, statistics: Statistics) -> Tensor:
        """``(x − mean_i x_i) / sqrt(var_i x_i + eps)``."""
        return F.layer_norm(x, x.shape[1:], eps=self.eps)

    def __call__(
        self, x: Tensor, statistics: Statistics, scale: Tensor | None, shift: Tensor | None
    ) -> Tensor:
        """See :class:`Norm`."""
        assert scale is not None
        assert shift is not None
        return self.standardize(x, statistics) * _per_channel(scale, x) + _per_channel(shift, x)

    def input_gradient(self, dy: Tensor, x: Tensor, context: NormContext, *, rectified: bool) -> Tensor:
        """``1/σ · (g − mean_i g_i − x̂ · mean_i(g_i · x̂_i))`` with ``g = scale · dy``."""
        assert context.scale is not None
        dims = tuple(range(1, x.ndim))
        standard = self.standardize(x, context.statistics)
        gradient = dy.mul_(_per_channel(context.scale, x))
        inverse = torch.rsqrt(_wide(x).var(dims, correction=0, keepdim=True) + self.eps).to(x.dtype)
        along = _wide(gradient * standard).mean(dims, keepdim=True).to(x.dtype)
        offset = _wide(gradient).mean(dims, keepdim=True).to(x.dtype)
        return _under_relu(gradient.sub_(offset).sub_(standard * along).mul_(inverse), x, rectified)


class FusedLengthNorm:
    """Each sample over its root mean square; no scale, no shift."""

    reads_batch = False
    separable = False

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def standardize(self, x: Tensor, statistics: Statistics) -> Tensor:
        """``x / sqrt(mean_i x_i² + eps)``."""
        return x * self._inverse(x)

    def __call__(
        self, x: Tensor, statistics: Statistics, scale: Tensor | None, shift: Tensor | None
    ) -> Tensor:
        """See :class:`Norm`."""
        return self.standardize(x, statistics)

    def input_gradient(self, dy: Tensor, x: Tensor, context: NormContext, *, rectified: bool) -> Tensor:
        """``s · (dy − x · s² · mean_i(dy_i · x_i))`` with ``s = 1 / sqrt(mean_i x_i² + eps)``."""
        inverse = self._inverse(x)
        along = _wide(dy * x).mean(tuple(range(1, x.ndim)), keepdim=True).to(x.dtype)
        return _under_relu(dy.sub_(x * (along * inverse.square())).mul_(inverse), x, rectified)

    def _inverse(self, x: Tensor) -> Tensor:
        squares = _wide(x).square().mean(tuple(range(1, x.ndim)), keepdim=True)
        return torch.rsqrt(squares + self.eps).to(x.dtype)


class NoNorm:
    """The input as it is."""

    reads_batch = False
    separable = True

    def standardize(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Return x."""
        return x

    def __call__(
        self, x: Tensor, statistics: Statistics, scale: Tensor | None, shift: Tensor | None
    ) -> Tensor:
        """Return x."""
        return x

    def input_gradient(self, dy: Tensor, x: Tensor, context: NormContext, *, rectified: bool) -> Tensor:
        """Return dy."""
        return _under_relu(dy, x, rectified)


def fused_norm(module: nn.Module) -> Norm | None:
    """The norm that computes what ``module`` does; None for a module that has none here."""
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        standard = module.affine and module.track_running_stats and module.momentum is not None
        return FusedBatchNorm(module.eps) if standard else None
    if type(module) is LayerNorm:
        return FusedLayerNorm(module.eps)
    if type(module) is LengthNorm:
        return FusedLengthNorm(module.eps)
    return NoNorm() if type(module) is nn.Identity else None


def running_statistics(module: nn.Module) -> Statistics:
    """Return the running statistics of a batch norm; none for other norms."""
    return Statistics(getattr(module, "running_mean", None), getattr(module, "running_var", None))


def update_running_statistics(module: nn.Module, statistics: Statistics, positions: int) -> None:
    """Move a batch norm's running mean and (unbiased) variance towards the batch's."""
    if statistics.mean is None or statistics.variance is None:
        return
    mean, variance = module.running_mean, module.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    assert isinstance(module.momentum, float)
    assert isinstance(module.num_batches_tracked, Tensor)
    mean.lerp_(statistics.mean.to(mean.dtype), module.momentum)
    unbiased = statistics.variance * (positions / max(positions - 1, 1))
    variance.lerp_(unbiased.to(variance.dtype), module.momentum)
    module.num_batches_tracked.add_(1)


def _per_channel(value: Tensor, like: Tensor) -> Tensor:
    """(C,) → (1, C, 1, 1) or (1, C), in the precision of ``like``."""
    return value.to(like.dtype).view(1, -1, *[1] * (like.ndim - 2))


def _under_relu(gradient: Tensor, x: Tensor, rectified: bool) -> Tensor:
    return relu_gradient(gradient, x) if rectified else gradient


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
