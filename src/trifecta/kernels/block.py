"""The layers of a block as a fused window uses them: plain objects, and parameters in a fixed order."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.kernels.norms import Norm, fused_norm
from trifecta.nn.convolution import input_gradient, weight_gradient


class LinearMap(Protocol):
    """``response = weight · x``, without its bias.

    Attributes:
        is_faster_fused: whether a fused window trains faster than the plain graph. Fully connected layers
            move more weights than activations through memory, and fused windows touch weights more often.
    """

    is_faster_fused: bool

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """(R, C, …), weight (O, C, …) → (R, O, …)."""
        ...

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the weight, the shape of ``weight``."""
        ...

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Gradient of x, (R, O, …) → (R, C, …)."""
        ...

    def tap_sums(self, gradient: Tensor) -> Tensor:
        """Weight gradient for an x of ones in a single channel, (R, O, …) → (O, taps …), float32 or wider.

        With it the gradient of a shift before the map follows without the input gradient.
        """
        ...


class Convolution3x3:
    """3×3, padding 1, stride 1; every tap but the middle one misses the pixels of some border."""

    is_faster_fused = True

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """See :class:`LinearMap`."""
        return F.conv2d(x, weight, padding=1)

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """See :class:`LinearMap`."""
        return weight_gradient(gradient, x, weight)

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """See :class:`LinearMap`."""
        return input_gradient(gradient, weight)

    def tap_sums(self, gradient: Tensor) -> Tensor:
        """See :class:`LinearMap`: all pixels, less the border rows and columns that the tap misses."""
        taps = _sum_pixels(gradient).view(-1, 1, 1).repeat(1, 3, 3)
        for tap, end in ((0, slice(None, 1)), (2, slice(-1, None))):
            taps[:, tap] -= _sum_pixels(gradient[:, :, end]).unsqueeze(1)
            taps[:, :, tap] -= _sum_pixels(gradient[:, :, :, end]).unsqueeze(1)
            # Corners have been subtracted twice by then.
            taps[:, tap, 0] += gradient[:, :, end, 0].to(taps.dtype).sum((0, 2))
            taps[:, tap, 2] += gradient[:, :, end, -1].to(taps.dtype).sum((0, 2))
        return taps


class Matrix:
    """A fully connected layer."""

    is_faster_fused = False

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """See :class:`LinearMap`."""
        return x @ weight.T

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """See :class:`LinearMap`."""
        return gradient.T @ x

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """See :class:`LinearMap`."""
        return gradient @ weight

    def tap_sums(self, gradient: Tensor) -> Tensor:
        """See :class:`LinearMap`."""
        return gradient.to(torch.promote_types(gradient.dtype, torch.float32)).sum(0)


def _sum_pixels(x: Tensor) -> Tensor:
    """(R, O, H, W) → (O,), in float32 or wider."""
    return x.sum((2, 3)).to(torch.promote_types(x.dtype, torch.float32)).sum(0)


class Parameters(NamedTuple):
    """Parameters of one block: the linear map's, then the norm's; also used for their gradients."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    shift: Tensor | None

    def cast_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight in the precision and layout of the products."""
        layout = torch.channels_last if self.weight.ndim == 4 else torch.contiguous_format
        return self.weight.to(dtype=dtype, memory_format=layout)


@dataclass(frozen=True, kw_only=True)
class FusedBlock:
    """One block: normalise → linear map → ReLU → pool.

    Attributes:
        norm: the normalisation, without a graph.
        module: the block's normalisation module, whose running statistics move.
        linear: the linear map.
        pool: whether a 2×2 maximum follows.
        parameters: as the optimizer holds them.
    """

    norm: Norm
    module: nn.Module
    linear: LinearMap
    pool: bool
    parameters: Parameters

    def response_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Return the bytes of one sample's response, the largest intermediate, to an input of (N, …)."""
        return len(self.parameters.weight) * math.prod(shape[2:]) * dtype.itemsize

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the activations for an input of ``shape`` (N, …)."""
        size = [n // 2 if self.pool else n for n in shape[2:]]
        return shape[0], len(self.parameters.weight), *size


def fused_blocks(blocks: Iterable[nn.Module]) -> tuple[FusedBlock, ...] | None:
    """Return the layers of ``blocks``; None unless every block is made by :mod:`trifecta.nn.blocks`.

    And None where a fully connected block follows a convolution, which would be flattened on the way.
    """
    layers = [fused_block(block) for block in blocks]
    found = tuple(each for each in layers if each is not None)
    flattens = any(
        isinstance(b.linear, Matrix) and not isinstance(a.linear, Matrix) for a, b in pairwise(found)
    )
    return None if None in layers or flattens else found


def fused_block(block: nn.Module) -> FusedBlock | None:
    """Return the layers of one block, or None where it has others."""
    parts = dict(block.named_children()) if type(block) is nn.Sequential else {}
    pool = parts.pop("pool", None)
    flatten = parts.pop("flatten", None)
    if list(parts) != ["normalize", "weights", "activation"] or type(parts["activation"]) is not nn.ReLU:
        return None
    norm, linear = fused_norm(parts["normalize"]), _linear(parts["weights"])
    expects_flatten = isinstance(linear, Matrix)
    if norm is None or linear is None or (flatten is not None) != expects_flatten or _has_hooks(block):
        return None
    if pool is not None and not (type(pool) is nn.MaxPool2d and vars(pool).get("kernel_size") == 2):
        return None
    weights, normalize = parts["weights"], parts["normalize"]
    assert isinstance(weights.weight, Tensor)
    bias, scale, shift = (
        getattr(module, name, None)
        for module, name in ((weights, "bias"), (normalize, "weight"), (normalize, "bias"))
    )
    parameters = Parameters(weights.weight, bias, scale, shift)
    return FusedBlock(
        norm=norm, module=normalize, linear=linear, pool=pool is not None, parameters=parameters
    )


def _linear(module: nn.Module) -> LinearMap | None:
    if type(module) is nn.Linear:
        return Matrix()
    if type(module) is not nn.Conv2d or module.bias is not None:
        return None
    plain = (module.kernel_size, module.stride, module.dilation) == ((3, 3), (1, 1), (1, 1))
    padded = module.padding == (1, 1) and module.padding_mode == "zeros"
    return Convolution3x3() if plain and padded and module.groups == 1 else None


def _has_hooks(block: nn.Module) -> bool:
    """Somebody watches the modules' forward passes, which a fused window never calls."""
    return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in block.modules())


def largest_response_bytes(blocks: Iterable[FusedBlock], x: Tensor) -> int:
    """Return the bytes of the largest response to a batch ``x`` (N, …) in ``blocks``."""
    dtype, shape, largest = compute_dtype(x), tuple(x.shape), 0
    for layers in blocks:
        largest = max(largest, shape[0] * layers.response_bytes(shape, dtype))
        shape = layers.output_shape(shape)
    return largest


def as_input(layers: FusedBlock, x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in the shape, layout and precision that the layers works in."""
    if isinstance(layers.linear, Matrix):
        return x.flatten(1).to(dtype)
    return x.to(dtype=dtype, memory_format=torch.channels_last)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Autocast's where it is on, else that of ``x``."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
