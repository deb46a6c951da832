"""A 3×3 convolution whose gradient is written out: it keeps its input, and two bits for every maximum.

Shapes: N images (N, C, H, W) → (N, O, H, W), with 2×2 maxima (N, O, H/2, W/2).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from trifecta._utils.checks import chunk_rows
from trifecta._utils.devices import has_amx

# What a tile register of AMX holds of one row, in numbers of two bytes.
_TILE = 32


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the weight, (R, O, H, W) and (R, C, H, W) → the shape of ``weight``.

    AMX sums over 32 positions of an image's row at a time, and fills up shorter rows. There narrow images
    are laid side by side, with a column of zeros behind each.
    """
    width = x.shape[3]
    together = _TILE // (width + 1)
    if together > 2 and x.device.type == "cpu" and x.dtype == torch.bfloat16 and has_amx():
        gradient, x = side_by_side(gradient, together), side_by_side(x, together)
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
    )[1]
    return found


def input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Gradient of x, (R, O, H, W) → (R, C, H, W): the convolution with the kernel turned by half a circle.

    Into a single channel, which convolutions are slow at, tap by tap.
    """
    if weight.shape[1] == 1:
        taps = F.conv2d(gradient, weight.flatten(1).T[:, :, None, None])
        wide = taps.to(torch.promote_types(taps.dtype, torch.float32)).flatten(2)
        return F.fold(wide, gradient.shape[2:], 3, padding=1).to(gradient.dtype)
    turned = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
    return F.conv2d(gradient, turned, padding=1)


def side_by_side(maps: Tensor, together: int) -> Tensor:
    """Lay T maps in a row, a column of zeros behind each, (R, C, H, W) → (⌈R/T⌉, C, H, T·(W + 1)).

    Where T does not divide R the last row ends in zeros.
    """
    count, channels, height, width = maps.shape
    rows, whole = -(-count // together), count // together
    out = maps.new_zeros(rows, height, together, width + 1, channels)
    images = out.transpose(1, 2)[..., :width, :]
    maps = maps.movedim(1, -1)
    images[:whole] = maps[: whole * together].reshape(whole, together, height, width, channels)
    if whole < rows:
        images[whole, : count - whole * together] = maps[whole * together :]
    return out.flatten(2, 3).movedim(-1, 1)


def max_pool(response: Tensor) -> tuple[Tensor, Tensor]:
    """2×2 maxima and their packed indices, (R, O, H, W) → (R, O, H/2, W/2), (R, O/4, H/2, W/2) uint8.

    Where two are equal the first is taken, as in ``nn.MaxPool2d``. An odd last row or column is left out.
    """
    largest, index = F.max_pool2d(response, 2, return_indices=True)
    return largest, pack_indices(_window_indices(index, response.shape[3]))


def unpool(gradient: Tensor, packed_indices: Tensor, height: int, width: int) -> Tensor:
    """Put each value back among its four pixels, the others 0, (R, O, h, w) → (R, O, height, width)."""
    indices = unpack_indices(packed_indices, gradient.shape[1])
    shape = (*gradient.shape[:2], height, width)
    out = torch.empty(
        shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last
    )
    if height % 2 or width % 2:
        out.zero_()
    lower, right = (indices >> 1).to(gradient.dtype), (indices & 1).to(gradient.dtype)
    h, w = 2 * gradient.shape[2], 2 * gradient.shape[3]
    # value · 1 or value · 0, and differences of equal values: exact in every precision.
    below = gradient * lower
    above = gradient - below
    below_right = torch.mul(below, right, out=out[:, :, 1:h:2, 1:w:2])
    above_right = torch.mul(above, right, out=out[:, :, 0:h:2, 1:w:2])
    torch.sub(below, below_right, out=out[:, :, 1:h:2, 0:w:2])
    torch.sub(above, above_right, out=out[:, :, 0:h:2, 0:w:2])
    return out


def packed_channels(channels: int) -> int:
    """Channels of packed indices: O/4 where 4 divides O, else O."""
    return channels if channels % 4 else channels // 4


def pack_indices(indices: Tensor) -> Tensor:
    """Pack four indices into a byte, (R, O, h, w) → (R, O/4, h, w), where 4 divides O."""
    if indices.shape[1] % 4:
        return indices
    a, b, c, d = indices.chunk(4, dim=1)
    return a | (b << 2) | (c << 4) | (d << 6)


def unpack_indices(packed: Tensor, channels: int) -> Tensor:
    """The inverse of :func:`pack_indices`."""
    if packed.shape[1] == channels:
        return packed
    return torch.cat([(packed >> shift) & 3 for shift in (0, 2, 4, 6)], dim=1)


def _window_indices(index: Tensor, image_width: int) -> Tensor:
    """Convert positions in the image, as max pooling counts them, to indices, (R, O, h, w)."""
    height, width = index.shape[2:]
    corner = torch.arange(height, device=index.device).unsqueeze(1) * (2 * image_width)
    corner = corner + torch.arange(width, device=index.device) * 2
    # The difference is one of 0, 1, image_width, image_width + 1, so bytes may overflow on the way.
    small = torch.uint8 if image_width < 255 else torch.int32
    offset = index.to(small).sub_(corner.to(small))
    lower = torch.gt(offset, 1, out=torch.empty_like(offset))
    return offset.sub_(lower, alpha=image_width).add_(lower, alpha=2).to(torch.uint8)


# With fewer channels a piece's passes cost more than what they spare.
_LEAST_CHANNELS = 32


class Convolution3x3(nn.Conv2d):
    """3×3, padding 1, stride 1, without a bias; then 2×2 maxima, where asked.

    The plain graph keeps what the maxima were taken of, and eight bytes for each. On a CPU these
    convolutions pass the batch in pieces instead, and AMX gets images as it wants them
    (:func:`trifecta.nn.convolution.weight_gradient`). Gradients of gradients come from the plain graph.
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
