"""A 3×3 convolution whose gradient is written out: it keeps its input, and two bits for every maximum.

Shapes: N images (N, C, H, W) → (N, O, H, W), with 2×2 maxima (N, O, H/2, W/2).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from trifecta._utils.chunks import chunk_rows
from trifecta.nn.products import input_gradient, max_pool, packed_channels, unpool, weight_gradient

# With fewer channels a piece's passes cost more than what they spare.
_LEAST_CHANNELS = 32


class Convolution3x3(nn.Conv2d):
    """3×3, padding 1, stride 1, without a bias; then 2×2 maxima, where asked.

    The plain graph keeps what the maxima were taken of, and eight bytes for each. On a CPU these
    convolutions pass the batch in pieces instead, and AMX gets images as it wants them
    (:func:`trifecta.nn.products.weight_gradient`). Gradients of gradients come from the plain graph.
    """

    def __init__(self, in_channels: int, out_channels: int, *, pool: bool = False) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, O, H, W), or with maxima (N, O, H/2, W/2)."""
        if not self._writes_gradient(x):
            return _plain(x, self.weight, pool=self.pool)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
        out: Tensor = _Convolution.apply(x, weight, self.pool)  # type: ignore[no-untyped-call]
        return out

    def extra_repr(self) -> str:
        """The sizes, and whether maxima follow."""
        return f"{self.in_channels}, {self.out_channels}, pool={self.pool}"

    def _writes_gradient(self, x: Tensor) -> bool:
        return (
            torch.is_grad_enabled()
            and (x.requires_grad or self.weight.requires_grad)
            and x.device.type == "cpu"
            and x.ndim == 4
            and (not self.pool or self.out_channels >= _LEAST_CHANNELS)
            and not _is_transformed(x, self.weight)
        )


def _is_transformed(x: Tensor, weight: Tensor) -> bool:
    """Whether compilers, ``torch.func`` or forward-mode differentiation see the operation."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or any(unpack_dual(t).tangent is not None for t in (x, weight))  # type: ignore[no-untyped-call]
    )


def _plain(x: Tensor, weight: Tensor, *, pool: bool) -> Tensor:
    response = F.conv2d(x, weight, padding=1)
    return F.max_pool2d(response, 2) if pool else response


class _Convolution(torch.autograd.Function):
    """Saved: the input, the weight, packed indices of maxima."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, pool: bool) -> Tensor:
        ctx.pool = pool
        if not pool:
            ctx.save_for_backward(x, weight, None)
            return F.conv2d(x, weight, padding=1)
        out, indices = _empty(x, len(weight)), _empty(x, packed_channels(len(weight)), torch.uint8)
        for rows in _pieces(x, weight):
            largest, index = max_pool(F.conv2d(x[rows], weight, padding=1))
            out[rows], indices[rows] = largest, index
        ctx.save_for_backward(x, weight, indices)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, indices = ctx.saved_tensors
        wants_input, wants_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return _differentiable_gradients(ctx, gradient)
        of_x = torch.empty_like(x) if wants_input else None
        of_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        for rows in _pieces(x, weight):
            piece = gradient[rows]
            if indices is not None:
                piece = unpool(piece, indices[rows], *x.shape[2:])
            if wants_weight:
                of_weight += weight_gradient(piece, x[rows], weight)
            if of_x is not None:
                of_x[rows] = input_gradient(piece, weight)
        return of_x, of_weight.to(weight.dtype) if wants_weight else None, None


def _differentiable_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients from the plain graph."""
    x, weight, _ = ctx.saved_tensors
    wanted = [t for t, is_wanted in zip((x, weight), ctx.needs_input_grad, strict=False) if is_wanted]
    out = _plain(x, weight, pool=ctx.pool)
    found = iter(torch.autograd.grad(out, wanted, gradient, create_graph=True))
    return (*(next(found) if is_wanted else None for is_wanted in ctx.needs_input_grad[:2]), None)


def _empty(x: Tensor, channels: int, dtype: torch.dtype | None = None) -> Tensor:
    """Memory for maps of half the sides of ``x``, in the layout of the products."""
    shape = (len(x), channels, x.shape[2] // 2, x.shape[3] // 2)
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=torch.channels_last)


def _pieces(x: Tensor, weight: Tensor) -> list[slice]:
    """The batch in pieces whose responses fit into cache."""
    bytes_per_row = x.element_size() * len(weight) * x.shape[2] * x.shape[3]
    return chunk_rows(len(x), bytes_per_row, x.device)
