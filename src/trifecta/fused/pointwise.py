"""The elementwise work of a block, each function one or few passes over a piece of a batch.

Shapes: R rows of a piece; a block's response (R, O, H, W) before the ReLU, its activations (R, O, h, w)
after ReLU and pooling; channel sums (R, O). Linear blocks have (R, O) throughout. The *index* of a
maximum among its four pixels is 0 or 1 in the upper row and 2 or 3 in the lower; packed, four of them, of
channels o, o + O/4, o + O/2 and o + 3·O/4, share a byte.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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

    The maximum of four ReLUs is the ReLU of the maximum, so the pool runs first. Where two are equal
    the first is taken, as ``nn.MaxPool2d`` does.
    """
    largest, index = F.max_pool2d(response, 2, return_indices=True)
    torch.clamp_min(largest, 0, out=out)
    packed_indices.copy_(pack_indices(_window_indices(index, response.shape[3])))


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


def relu_pool(response: Tensor, *, pool: bool) -> Tensor:
    """ReLU and, with ``pool``, the 2×2 maximum, where no gradient will be asked for."""
    if not pool:
        return response.clamp_(min=0)
    height, width = (n // 2 * 2 for n in response.shape[2:])
    rows = torch.maximum(response[:, :, 0:height:2], response[:, :, 1:height:2])
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2]).clamp_(min=0)


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
