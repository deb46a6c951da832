"""The elementwise work of a block, each function one or few passes over a piece of a batch.

Shapes: R rows of a piece; a block's response (R, O, H, W) before the ReLU, its activations (R, O, h, w)
after ReLU and pooling; channel sums (R, O). Linear blocks have (R, O) throughout. Packed indices of maxima
are those of :mod:`trifecta.nn.convolution`.
"""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.nn.convolution import max_pool
from trifecta.nn.norms import LayerNorm, LengthNorm


def channel_sums(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of values and of squares over positions, (R, C, h, w) → 2 × (R, C), float32 or wider.

    Accumulated in float32. On CPU each sum is then rounded to the precision of ``x``, because asking
    for a wider result there makes a wide copy of ``x`` first.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    if x.ndim == 2:
        return x.to(wide), x.to(wide).square()
    if x.device.type == "cpu":
        return x.sum((2, 3)).to(wide), x.square().sum((2, 3)).to(wide)
    return x.sum((2, 3), dtype=wide), x.to(wide).square().sum((2, 3))


def relu_into(response: Tensor, out: Tensor) -> None:
    """``out = max(response, 0)``."""
    torch.clamp_min(response, 0, out=out)


def relu_pool_into(response: Tensor, out: Tensor, packed_indices: Tensor) -> None:
    """ReLU and 2×2 maximum into ``out``, with the indices of the maxima, packed.

    The maximum of four ReLUs is the ReLU of the maximum, so the pool runs first.
    """
    largest, indices = max_pool(response)
    torch.clamp_min(largest, 0, out=out)
    packed_indices.copy_(indices)


def relu_pool(response: Tensor, *, pool: bool) -> Tensor:
    """ReLU and, with ``pool``, the 2×2 maximum, where no gradient will be asked for."""
    if not pool:
        return response.clamp_(min=0)
    height, width = (n // 2 * 2 for n in response.shape[2:])
    rows = torch.maximum(response[:, :, 0:height:2], response[:, :, 1:height:2])
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2]).clamp_(min=0)


def sums_gradient(
    activations: Tensor, of_sums: Tensor | None, of_squares: Tensor | None, of_features: Tensor | None
) -> Tensor:
    """Gradient at the response under the ReLU, from those of the channel sums and of the features.

    ``2 · a · of_squares + [a > 0] · (of_sums + of_features)``: the first needs no mask, since a closed
    ReLU has a = 0.
    """
    per_row = (*activations.shape[:2], *[1] * (activations.ndim - 2))
    gradient = None
    if of_sums is not None:
        gradient = of_sums.to(activations.dtype).view(per_row).expand_as(activations)
    if of_features is not None:
        gradient = of_features if gradient is None else gradient + of_features
    if gradient is not None:
        gradient = relu_gradient(gradient, activations)
    if of_squares is not None:
        direct = activations * (2 * of_squares).to(activations.dtype).view(per_row)
        gradient = direct if gradient is None else gradient + direct
    return torch.zeros_like(activations) if gradient is None else gradient


def relu_gradient(gradient: Tensor, activations: Tensor) -> Tensor:
    """``gradient`` where the ReLU was open, else 0."""
    open_part: Tensor = torch.ops.aten.threshold_backward(gradient, activations, 0)
    return open_part


def combine(dy: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor, *, rectified: bool) -> Tensor:
    """``a · dy + b · x + c`` per channel, and with ``rectified`` 0 where x is; may overwrite dy."""
    per_channel = (1, -1, *[1] * (x.ndim - 2))
    a, b, c = (factor.to(x.dtype).view(per_channel) for factor in (a, b, c))
    combined = dy.mul_(a).addcmul_(x, b).add_(c)
    return relu_gradient(combined, x) if rectified else combined


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
