"""A block of the library's own layers as kernels compute it: normalize → linear map → ReLU → pool.

Shapes: R rows of a batch; a convolution maps (R, C, H, W) to a response (R, O, H, W), a fully connected
layer (R, C) to (R, O); activations (R, O, h, w) after ReLU and pool; channel sums (R, O).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.kernels.norms import Norm, find_norm
from trifecta.nn import convolution


class Parameters(NamedTuple):
    """Parameters of a block: of its linear map, then of its norm; also their gradients."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    shift: Tensor | None


@dataclass(frozen=True, kw_only=True)
class FusedBlock:
    """Layers of a block.

    Attributes:
        norm: normalization without a graph.
        module: normalization module, whose running statistics move.
        pool: whether a 2×2 maximum follows.
        parameters: parameters as the optimizer holds them.
    """

    norm: Norm
    module: nn.Module
    pool: bool
    parameters: Parameters

    @property
    def is_convolution(self) -> bool:
        """Whether the linear map is a 3×3 convolution, with padding 1 and stride 1."""
        return self.parameters.weight.ndim == 4

    def cast_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in the precision and layout of the products."""
        return self.parameters.weight.to(
            dtype=dtype, memory_format=memory_layout(self.parameters.weight.ndim)
        )

    def as_input(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return ``x`` in the shape, layout and precision of the products."""
        if not self.is_convolution:
            return x.flatten(1).to(dtype)
        return x.to(dtype=dtype, memory_format=torch.channels_last)

    def response_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Return the bytes of one row's response, the largest intermediate, to an input of (R, …)."""
        return len(self.parameters.weight) * math.prod(shape[2:]) * dtype.itemsize

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the activations for an input of ``shape`` (R, …)."""
        size = [n // 2 if self.pool else n for n in shape[2:]]
        return shape[0], len(self.parameters.weight), *size


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
    pool, has_flatten = parts.pop("pool", None), parts.pop("flatten", None) is not None
    if list(parts) != ["normalize", "weights", "activation"] or type(parts["activation"]) is not nn.ReLU:
        return None
    normalize, weights = parts["normalize"], parts["weights"]
    norm = find_norm(normalize)
    is_known = _is_convolution(weights) if not has_flatten else type(weights) is nn.Linear
    if norm is None or not is_known:
        return None
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in block.modules()):
        return None
    if pool is not None and not _is_pool(pool):
        return None
    scale, shift = getattr(normalize, "weight", None), getattr(normalize, "bias", None)
    parameters = Parameters(weights.weight, weights.bias, scale, shift)
    return FusedBlock(norm=norm, module=normalize, pool=pool is not None, parameters=parameters)


def _is_convolution(module: Any) -> bool:
    if type(module) is not nn.Conv2d or module.bias is not None or module.groups != 1:
        return False
    is_plain = (module.kernel_size, module.stride, module.dilation) == ((3, 3), (1, 1), (1, 1))
    return is_plain and module.padding == (1, 1) and module.padding_mode == "zeros"


def _is_pool(module: Any) -> bool:
    if type(module) is not nn.MaxPool2d or module.ceil_mode:
        return False
    return (module.kernel_size, module.stride, module.padding, module.dilation) == (2, 2, 0, 1)


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
    """Return the response to normalized rows."""
    response = F.conv2d(x, weight, padding=1) if weight.ndim == 4 else x @ weight.T
    return response if bias is None else response.add_(bias)


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the weight from that of the response."""
    return convolution.weight_gradient(gradient, x, weight) if weight.ndim == 4 else gradient.T @ x


def input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the map's input from that of the response."""
    return convolution.input_gradient(gradient, weight) if weight.ndim == 4 else gradient @ weight


def tap_sums(gradient: Tensor) -> Tensor:
    """Return the weight's gradient for an input of ones in a channel, (O, 3, 3) or (O,), float32 or wider.

    With it the gradient of a shift before the map follows without the input gradient. Taps of a convolution
    sum all pixels, but for the border rows and columns that they miss.
    """
    if gradient.ndim == 2:
        return gradient.to(_at_least_float32(gradient)).sum(0)
    taps = _sum_pixels(gradient).view(-1, 1, 1).repeat(1, 3, 3)
    for tap, end in ((0, slice(None, 1)), (2, slice(-1, None))):
        taps[:, tap] -= _sum_pixels(gradient[:, :, end]).unsqueeze(1)
        taps[:, :, tap] -= _sum_pixels(gradient[:, :, :, end]).unsqueeze(1)
        # Corners have been subtracted twice by then.
        taps[:, tap, 0] += gradient[:, :, end, 0].to(taps.dtype).sum((0, 2))
        taps[:, tap, 2] += gradient[:, :, end, -1].to(taps.dtype).sum((0, 2))
    return taps


def _sum_pixels(x: Tensor) -> Tensor:
    """(R, O, H, W) → (O,)."""
    return x.sum((2, 3)).to(_at_least_float32(x)).sum(0)


def channel_sums(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums of values and of squares over positions, (R, C, h, w) → 2 × (R, C), float32 or wider.

    Accumulated in float32. On CPU each sum is then rounded to the precision of ``x``, because asking
    for a wider result there makes a wide copy of ``x`` first.
    """
    wide = _at_least_float32(x)
    if x.ndim == 2:
        return x.to(wide), x.to(wide).square()
    if x.device.type == "cpu":
        return x.sum((2, 3)).to(wide), x.square().sum((2, 3)).to(wide)
    return x.sum((2, 3), dtype=wide), x.to(wide).square().sum((2, 3))


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
