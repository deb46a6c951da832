"""The layers of a block as a fused window uses them: plain objects, and parameters in a fixed order."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trifecta.fused.maps import Convolution3x3, LinearMap, Matrix
from trifecta.fused.norms import Norm, fused_norm


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
