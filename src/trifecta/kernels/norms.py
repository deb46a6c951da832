"""Normalizations ``y = scale · x̂ + shift`` and their gradients without a graph, by rows of a batch.

A norm called without ``scale`` returns x̂. ``input_gradient`` returns the gradient of x from ``dy``, that of
y, which it may overwrite. A norm ``reads_batch`` if x̂ depends on the batch's statistics, and is
``separable`` if no channel's gradient depends on another channel.

Shapes: R rows x (R, C, H, W) or (R, C); statistics, scale and shift (C,), None where there are none.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.losses.functional import at_least_float32
from trifecta.nn.norms import LayerNorm, LengthNorm


class Statistics(NamedTuple):
    """Mean and biased variance (C,) of a batch; None for norms that do not read it."""

    mean: Tensor | None = None
    variance: Tensor | None = None


class Totals(NamedTuple):
    """Sums (C,) over a batch of ``dy · x̂`` and of ``dy``, and the number of positions they run over."""

    scaled: Tensor
    plain: Tensor
    positions: int


@dataclass(frozen=True)
class _BatchNorm:
    """``x̂ = (x − mean) / sqrt(variance + eps)``."""

    eps: float
    reads_batch = separable = True

    def __call__(self, x: Tensor, statistics: Statistics, scale: Any = None, shift: Any = None) -> Tensor:
        return F.batch_norm(x, *statistics, weight=scale, bias=shift, training=False, eps=self.eps)

    def input_gradient(self, dy: Tensor, x: Tensor, statistics: Any, scale: Any, totals: Any) -> Tensor:
        """``scale/σ · (dy − Σdy/positions − x̂·Σ(dy·x̂)/positions)``, as a·dy + b·x + c per channel."""
        inverse = torch.rsqrt(statistics.variance + self.eps)
        a = scale * inverse
        b = -a * inverse * totals.scaled / totals.positions
        c = -a * totals.plain / totals.positions - b * statistics.mean
        a, b, c = (_per_channel(factor, x) for factor in (a, b, c))
        return dy.mul_(a).addcmul_(x, b).add_(c)


@dataclass(frozen=True)
class _LayerNorm:
    """``x̂ = (x − mean_i x_i) / sqrt(var_i x_i + eps)`` over the features of each row."""

    eps: float
    reads_batch = separable = False

    def __call__(self, x: Tensor, _: object = None, scale: Any = None, shift: Any = None) -> Tensor:
        standard = F.layer_norm(x, x.shape[1:], eps=self.eps)
        return standard if scale is None else standard * _per_channel(scale, x) + _per_channel(shift, x)

    def input_gradient(self, dy: Tensor, x: Tensor, _: object, scale: Any, __: object) -> Tensor:
        """``1/σ · (g − mean_i g_i − x̂ · mean_i(g_i · x̂_i))`` with ``g = scale · dy``."""
        standard, gradient = self(x), dy.mul_(_per_channel(scale, x))
        variance = at_least_float32(x).var(_features(x), correction=0, keepdim=True)
        inverse = torch.rsqrt(variance + self.eps).to(x.dtype)
        along, offset = _row_mean(gradient * standard), _row_mean(gradient)
        return gradient.sub_(offset).sub_(standard * along).mul_(inverse)


@dataclass(frozen=True)
class _LengthNorm:
    """``x̂ = s · x`` with ``s = 1 / sqrt(mean_i x_i² + eps)`` over the features of each row."""

    eps: float
    reads_batch = separable = False

    def __call__(self, x: Tensor, *_: object) -> Tensor:
        return x * self._inverse(x)

    def input_gradient(self, dy: Tensor, x: Tensor, *_: object) -> Tensor:
        """``s · (dy − x · s² · mean_i(dy_i · x_i))``."""
        inverse = self._inverse(x)
        return dy.sub_(x * (_row_mean(dy * x) * inverse.square())).mul_(inverse)

    def _inverse(self, x: Tensor) -> Tensor:
        squares = at_least_float32(x).square().mean(_features(x), keepdim=True)
        return torch.rsqrt(squares + self.eps).to(x.dtype)


class _NoNorm:
    """``x̂ = x``."""

    reads_batch, separable = False, True

    def __call__(self, x: Tensor, *_: object) -> Tensor:
        return x

    def input_gradient(self, dy: Tensor, *_: object) -> Tensor:
        return dy


Norm = _BatchNorm | _LayerNorm | _LengthNorm | _NoNorm


def find_norm(module: Any) -> Norm | None:
    """Return the norm that computes what ``module`` does, if there is one here."""
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
        is_standard = module.affine and module.track_running_stats and module.momentum is not None
        return _BatchNorm(module.eps) if is_standard else None
    if type(module) is LayerNorm:
        return _LayerNorm(module.eps)
    if type(module) is LengthNorm:
        return _LengthNorm(module.eps)
    return _NoNorm() if type(module) is nn.Identity else None


def update_running_statistics(module: Any, statistics: tuple[Tensor, Tensor], positions: int) -> None:
    """Move a batch norm's running mean and (unbiased) variance towards the batch's."""
    mean, variance = statistics
    module.running_mean.lerp_(mean.to(module.running_mean.dtype), module.momentum)
    unbiased = variance * (positions / max(positions - 1, 1))
    module.running_var.lerp_(unbiased.to(module.running_var.dtype), module.momentum)
    module.num_batches_tracked.add_(1)


def _features(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _row_mean(x: Tensor) -> Tensor:
    """(R, C, …) → (R, 1, …), summed in float32 or wider."""
    return at_least_float32(x).mean(_features(x), keepdim=True).to(x.dtype)


def _per_channel(value: Tensor, like: Tensor) -> Tensor:
    """(C,) → (1, C, 1, 1) or (1, C), in the precision of ``like``."""
    return value.to(like.dtype).view(1, -1, *[1] * (like.ndim - 2))
