"""A block of the library's own layers as kernels compute it: normalize → linear map → ReLU → pool.

Shapes: R rows of a batch; a convolution maps (R, C, H, W) to a response (R, O, H, W), a fully connected
layer (R, C) to (R, O); activations (R, O, h, w) after ReLU and pool; channel sums (R, O). G images, K
labels.

A norm ``y = scale · x̂ + shift`` that is called without ``scale`` returns x̂. ``input_gradient`` returns the
gradient of x from ``dy``, that of y, which it may overwrite. A norm ``reads_batch`` if x̂ depends on the
batch's statistics, and is ``separable`` if no channel's gradient depends on another channel. Statistics,
scale and shift are (C,), None where there are none.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta._utils.devices import chunk_rows
from trifecta.losses.functional import at_least_float32
from trifecta.losses.goodness import ChannelSums
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


_SIZES = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
_CONVOLUTION = {**_SIZES, "groups": 1, "padding_mode": "zeros", "bias": None}
_POOL = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "ceil_mode": False}


@dataclass(frozen=True, kw_only=True)
class FusedBlock:
    """Layers of a block, with parameters as the optimizer holds them.

    Attributes:
        norm: normalization without a graph.
        module: normalization module, whose running statistics move.
        pool: whether a 2×2 maximum follows.
        weight: of a 3×3 convolution with padding 1 and stride 1, or of a fully connected layer.
    """

    norm: Norm
    module: nn.Module
    pool: bool
    weight: nn.Parameter
    bias: nn.Parameter | None
    scale: nn.Parameter | None
    shift: nn.Parameter | None

    @property
    def is_convolution(self) -> bool:
        """Whether the linear map is a convolution."""
        return self.weight.ndim == 4

    def cast_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in the precision and layout of the products."""
        return self.weight.to(dtype=dtype, memory_format=memory_layout(self.weight.ndim))

    def as_input(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return ``x`` in the shape, layout and precision of the products."""
        if not self.is_convolution:
            return x.flatten(1).to(dtype)
        return x.to(dtype=dtype, memory_format=torch.channels_last)

    def response_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Return the bytes of one row's response, the largest intermediate, to an input of (R, …)."""
        return len(self.weight) * math.prod(shape[2:]) * dtype.itemsize

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the activations for an input of ``shape`` (R, …)."""
        size = [n // 2 if self.pool else n for n in shape[2:]]
        return shape[0], len(self.weight), *size


def fused_blocks(blocks: Iterable[nn.Module]) -> tuple[FusedBlock, ...] | None:
    """Return the layers of ``blocks``; None unless every block is made by :mod:`trifecta.nn.blocks`.

    Also None if a fully connected block follows a convolution, whose maps it would flatten.
    """
    layers = [fused_block(block) for block in blocks]
    found = tuple(each for each in layers if each is not None)
    flattens = any(a.is_convolution and not b.is_convolution for a, b in pairwise(found))
    return None if None in layers or flattens else found


def fused_block(block: nn.Module) -> FusedBlock | None:
    """Return the layers of one block; None if it has others, or hooks, which kernels would not call."""
    parts: dict[str, Any] = dict(block.named_children()) if type(block) is nn.Sequential else {}
    pool, flatten = parts.pop("pool", None), parts.pop("flatten", None)
    if list(parts) != ["normalize", "weights", "activation"]:
        return None
    normalize, weights, activation = parts.values()
    norm = find_norm(normalize)
    is_known = (
        _is(weights, nn.Conv2d, **_CONVOLUTION) if flatten is None else _is(weights, nn.Linear),
        _is(activation, nn.ReLU),
        pool is None or _is(pool, nn.MaxPool2d, **_POOL),
    )
    has_hooks = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in block.modules())
    if norm is None or has_hooks or not all(is_known):
        return None
    return FusedBlock(
        norm=norm,
        module=normalize,
        pool=pool is not None,
        weight=weights.weight,
        bias=weights.bias,
        scale=getattr(normalize, "weight", None),
        shift=getattr(normalize, "bias", None),
    )


def _is(module: Any, kind: type[nn.Module], **settings: Any) -> bool:
    """Return whether a module is of exactly this kind, with these settings."""
    return type(module) is kind and all(getattr(module, name) == v for name, v in settings.items())


def largest_response_bytes(blocks: Iterable[FusedBlock], x: Tensor) -> int:
    """Return the bytes of the largest response to a batch ``x`` (N, …) in ``blocks``."""
    dtype, shape, largest = compute_dtype(x), tuple(x.shape), 0
    for block in blocks:
        largest = max(largest, shape[0] * block.response_bytes(shape, dtype))
        shape = block.output_shape(shape)
    return largest


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return autocast's precision where it is on, else that of ``x``."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def memory_layout(dimensions: int) -> torch.memory_format:
    """Return the layout of the products: channels last for maps."""
    return torch.channels_last if dimensions == 4 else torch.contiguous_format


def respond(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the response to normalized rows, by a weight in their precision."""
    response = F.conv2d(x, weight, padding=1) if weight.ndim == 4 else x @ weight.T
    return response if bias is None else response.add_(bias)


def channel_sums(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums of values and of squares over positions, (R, C, h, w) → 2 × (R, C), float32 or wider.

    Accumulated in float32. On CPU each sum is then rounded to the precision of ``x``, because asking
    for a wider result there makes a wide copy of ``x`` first.
    """
    if x.ndim == 2:
        return at_least_float32(x), at_least_float32(x).square()
    if x.device.type == "cpu":
        return at_least_float32(x.sum((2, 3))), at_least_float32(x.square().sum((2, 3)))
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.sum((2, 3), dtype=dtype), x.to(dtype).square().sum((2, 3))


# Blocks where nothing trains: evaluation mode, no graph, every intermediate result in pieces.


def inference_block(block: nn.Module) -> FusedBlock | None:
    """Return the layers of a block that may run without a graph here; None where the plain one must."""
    return None if block.training or torch.is_grad_enabled() else fused_block(block)


def infer_block(block: FusedBlock, x: Tensor) -> tuple[Tensor, ChannelSums]:
    """Return a block's activations and their channel sums, (N, …) → (N, …)."""
    dtype = compute_dtype(x)
    x, weight = block.as_input(x, dtype), block.cast_weight(dtype)
    row_bytes = block.response_bytes(x.shape, dtype)
    pieces = (x[rows] for rows in chunk_rows(max(1, len(x)), row_bytes, x.device))
    responses = (respond(_normalize(block, piece), weight, block.bias) for piece in pieces)
    with torch.autocast(x.device.type, enabled=False):
        return _activations(block, responses)


def infer_first_block(block: FusedBlock, base: Tensor, maps: Tensor) -> tuple[Tensor, ChannelSums]:
    """Return the same of the first block for every image with every label, (G, …), (K, …) → (G·K, …).

    In evaluation mode a norm that treats every channel apart (``norm.separable``) is affine, and so is the
    linear map: the response to ``base + maps`` is that to ``base`` plus the linear map of
    ``norm(maps) − norm(0)``. G + K products stand for G·K.
    """
    dtype = compute_dtype(base)
    weight, base = block.cast_weight(dtype), block.as_input(base, dtype)
    maps = block.as_input(maps, torch.promote_types(dtype, torch.float32))
    row_bytes = block.response_bytes(base.shape, dtype) * len(maps)

    def responses() -> Iterator[Tensor]:
        added = _normalize(block, maps) - _normalize(block, torch.zeros_like(maps[:1]))
        added = respond(added.to(dtype), weight, None)
        for rows in chunk_rows(max(1, len(base)), row_bytes, base.device):
            response = respond(_normalize(block, base[rows]), weight, block.bias).unsqueeze(1) + added
            yield response.flatten(0, 1).contiguous(memory_format=memory_layout(added.ndim))

    with torch.autocast(base.device.type, enabled=False):
        return _activations(block, responses())


def _normalize(block: FusedBlock, x: Tensor) -> Tensor:
    running = (getattr(block.module, name, None) for name in ("running_mean", "running_var"))
    return block.norm(x, Statistics(*running), block.scale, block.shift)


def _activations(block: FusedBlock, responses: Iterable[Tensor]) -> tuple[Tensor, ChannelSums]:
    """Apply ReLU and 2×2 maximum piece by piece; return all activations and their sums."""
    parts = []
    for piece in responses:
        if block.pool:
            height, width = (n // 2 * 2 for n in piece.shape[2:])
            rows = torch.maximum(piece[:, :, 0:height:2], piece[:, :, 1:height:2])
            piece = torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])
        piece = piece.clamp_(min=0)
        parts.append((piece, *channel_sums(piece)))
    activations, sums, squares = (torch.cat(values) for values in zip(*parts, strict=True))
    return activations, ChannelSums(sums=sums, squares=squares, positions=math.prod(activations.shape[2:]))
