"""3×3 convolutions, with 2×2 maxima, whose graph keeps little, and means over patches of maps.

That graph keeps the input and two bits for each maximum.

Shapes: N images, or R of them in a piece of work, (N, C, H, W) → (N, O, H, W), or with maxima
(N, O, H/2, W/2).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn.grad import conv2d_weight

from trifecta._utils.devices import chunk_rows, has_amx

# Numbers of two bytes in a row of an AMX tile.
_TILE = 32
# With fewer channels, pieces cost more time than they save.
_LEAST_CHANNELS = 32


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the weight, (R, O, H, W), (R, C, H, W) → the shape of ``weight``."""
    # AMX sums over 32 positions of a row at a time, and pads shorter rows.
    images = _TILE // (x.shape[3] + 1)
    if images > 2 and x.device.type == "cpu" and x.dtype == torch.bfloat16 and has_amx():
        gradient, x = side_by_side(gradient, images), side_by_side(x, images)
    found: Tensor = conv2d_weight(x, weight.shape, gradient, padding=1)  # type: ignore[no-untyped-call]
    return found


def input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the input, (R, O, H, W) → (R, C, H, W), by the rotated kernel."""
    if weight.shape[1] == 1:
        # A sum over the nine taps is faster here.
        taps = F.conv2d(gradient, weight.flatten(1).T[:, :, None, None])
        wide = taps.to(torch.promote_types(taps.dtype, torch.float32)).flatten(2)
        return F.fold(wide, gradient.shape[2:], 3, padding=1).to(gradient.dtype)
    rotated = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
    return F.conv2d(gradient, rotated, padding=1)


def side_by_side(maps: Tensor, together: int) -> Tensor:
    """Join T maps in a row, each with a column of zeros after it, (R, C, H, W) → (⌈R/T⌉, C, H, T·(W + 1)).

    If T does not divide R, the last row is filled up with zeros.
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
    """Return 2×2 maxima as ``nn.MaxPool2d`` does, and their packed indices (R, O/4, H/2, W/2) uint8."""
    largest, position = F.max_pool2d(response, 2, return_indices=True)
    (height, width), image_width = position.shape[2:], response.shape[3]
    corner = torch.arange(height, device=position.device).unsqueeze(1) * (2 * image_width)
    corner = corner + torch.arange(width, device=position.device) * 2
    # The difference is 0, 1, image_width or image_width + 1, so bytes may overflow on the way.
    small = torch.uint8 if image_width < 255 else torch.int32
    offset = position.to(small).sub_(corner.to(small))
    lower = torch.gt(offset, 1, out=torch.empty_like(offset))
    index = offset.sub_(lower, alpha=image_width).add_(lower, alpha=2)
    return largest, pack_indices(index.to(torch.uint8))


def unpool(gradient: Tensor, packed_indices: Tensor, height: int, width: int) -> Tensor:
    """Return each value at its maximum's pixel, and 0 elsewhere, (R, O, h, w) → (R, O, height, width)."""
    indices = unpack_indices(packed_indices, gradient.shape[1])
    out = _empty(gradient, (*gradient.shape[:2], height, width))
    lower, right = (indices >> 1).to(gradient.dtype), (indices & 1).to(gradient.dtype)
    h, w = 2 * gradient.shape[2], 2 * gradient.shape[3]
    out[:, :, h:] = out[:, :, :, w:] = 0
    # Products with 0 or 1, and differences of equal values, are exact in every precision.
    below = gradient * lower
    above = gradient - below
    below_right = torch.mul(below, right, out=out[:, :, 1:h:2, 1:w:2])
    above_right = torch.mul(above, right, out=out[:, :, 0:h:2, 1:w:2])
    torch.sub(below, below_right, out=out[:, :, 1:h:2, 0:w:2])
    torch.sub(above, above_right, out=out[:, :, 0:h:2, 0:w:2])
    return out


def packed_channels(channels: int) -> int:
    """Return the number of channels of packed indices: O/4 if 4 divides O, else O."""
    return channels if channels % 4 else channels // 4


def pack_indices(indices: Tensor) -> Tensor:
    """Pack four indices into a byte if 4 divides O, (R, O, h, w) → (R, O/4, h, w)."""
    if indices.shape[1] % 4:
        return indices
    a, b, c, d = indices.chunk(4, dim=1)
    return a | (b << 2) | (c << 4) | (d << 6)


def unpack_indices(packed: Tensor, channels: int) -> Tensor:
    """Invert :func:`pack_indices`."""
    if packed.shape[1] == channels:
        return packed
    return torch.cat([(packed >> shift) & 3 for shift in (0, 2, 4, 6)], dim=1)


class Convolution3x3(nn.Conv2d):
    """3×3 convolution with padding 1 and no bias, and then 2×2 maxima with ``pool``.

    PyTorch's graph keeps the input of the maxima, and eight bytes for each. On a CPU this layer passes the
    batch in pieces and keeps its own input instead.
    """

    def __init__(self, in_channels: int, out_channels: int, *, pool: bool = False) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, O, H, W), or with maxima (N, O, H/2, W/2)."""
        weight = self.weight
        is_small = self.pool and self.out_channels < _LEAST_CHANNELS
        learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
        if not learns or is_small or x.device.type != "cpu" or x.ndim != 4 or _is_transformed(x, weight):
            return _plain(x, weight, pool=self.pool)
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
        out: Tensor = _Convolution.apply(x, weight, self.pool)  # type: ignore[no-untyped-call]
        return out

    def extra_repr(self) -> str:
        """Return the sizes, and whether maxima follow."""
        return f"{self.in_channels}, {self.out_channels}, pool={self.pool}"


def _is_transformed(x: Tensor, weight: Tensor) -> bool:
    """Return whether a compiler, ``torch.func`` or forward-mode differentiation follows the operation."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or any(unpack_dual(t).tangent is not None for t in (x, weight))  # type: ignore[no-untyped-call]
    )


def _plain(x: Tensor, weight: Tensor, *, pool: bool) -> Tensor:
    response = F.conv2d(x, weight, padding=1)
    return F.max_pool2d(response, 2) if pool else response


class _Convolution(torch.autograd.Function):
    """Saves the input, the weight, and packed indices of maxima."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, pool: bool) -> Tensor:
        ctx.pool = pool
        if not pool:
            ctx.save_for_backward(x, weight, None)
            return F.conv2d(x, weight, padding=1)
        positions = (x.shape[2] // 2, x.shape[3] // 2)
        out = _empty(x, (len(x), len(weight), *positions))
        indices = _empty(x, (len(x), packed_channels(len(weight)), *positions), torch.uint8)
        for rows in _pieces(x, weight):
            out[rows], indices[rows] = max_pool(F.conv2d(x[rows], weight, padding=1))
        ctx.save_for_backward(x, weight, indices)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, indices = ctx.saved_tensors
        wants_input, wants_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # For gradients of gradients.
            wanted = [t for t, is_wanted in ((x, wants_input), (weight, wants_weight)) if is_wanted]
            out = _plain(x, weight, pool=ctx.pool)
            found = iter(torch.autograd.grad(out, wanted, gradient, create_graph=True))
            return next(found) if wants_input else None, next(found) if wants_weight else None, None
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
        return of_x, of_weight, None


def _empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    layout = torch.channels_last
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=layout)


def _pieces(x: Tensor, weight: Tensor) -> list[slice]:
    """Return pieces of the batch whose responses fit into cache."""
    return chunk_rows(len(x), x.element_size() * len(weight) * x.shape[2] * x.shape[3], x.device)


# By the number of position dimensions.
AVERAGE_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE_POOLS = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
MAX_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def divides(patches: int, positions: Sequence[int]) -> bool:
    """Return whether P patches a side divide maps of these positions, such as (H, W)."""
    return all(size % patches == 0 for size in positions)


def patch_means(maps: Tensor, patches: int) -> Tensor:
    """Return each channel's mean in P patches a side, (N, C, H, W) → (N, P²·C), patch by patch.

    With 1 or 3 position dimensions (N, P·C) or (N, P³·C). If P does not divide the positions, patches
    overlap or differ in size as in ``F.adaptive_avg_pool2d``, which is several times as slow on a CPU.
    """
    positions = maps.shape[2:]
    if divides(patches, positions):
        means = _AVERAGE[len(positions)](maps, [size // patches for size in positions])
    else:
        means = _ADAPTIVE[len(positions)](maps, patches)
    return means.movedim(1, -1).flatten(1)


def limited_pool(maps: Sequence[int], at_most: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return kernel and padding of an average pool for maps (C, …), and the features that it leaves.

    Those are ``at_most``, or the channels of one position if they are more. The sides of the kernel double
    in turn. Positions that it does not divide are padded with zeros, which count in the averages. Source:
    the published code of Nøkland & Eidnes 2019.
    """
    channels, *sides = maps
    kernel, left, turn = [1] * len(sides), list(sides), 0
    while channels * math.prod(left) > at_most and max(left) > 1:
        if kernel[turn] < sides[turn]:
            kernel[turn] *= 2
            left[turn] = -(-sides[turn] // kernel[turn])
        turn = (turn + 1) % len(sides)
    padding = [kernel[d] * (left[d] - sides[d] // kernel[d]) // 2 for d in range(len(sides))]
    return tuple(kernel), tuple(padding), channels * math.prod(left)


def spread_patches(gradient: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the gradient of maps ``shape`` from that of their means in P×P patches, (N, P²·C)."""
    n, c, height, width = shape
    patches = math.isqrt(gradient.shape[1] // c)
    h, w = height // patches, width // patches
    cells = (gradient / (h * w)).view(n, patches, 1, patches, 1, c)
    return cells.expand(-1, -1, h, -1, w, -1).reshape(n, height, width, c).movedim(3, 1)
