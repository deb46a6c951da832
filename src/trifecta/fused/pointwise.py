"""The elementwise work of a block, each function one or few passes over a piece of a batch.

Shapes: R rows of a piece; a block's response (R, O, H, W) before the ReLU, its activations (R, O, h, w)
after ReLU and pooling; channel sums (R, O). Linear blocks have (R, O) throughout. Packed indices of maxima
are those of :mod:`trifecta.nn.products`.
"""

import torch
from torch import Tensor

from trifecta.nn.products import max_pool


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
