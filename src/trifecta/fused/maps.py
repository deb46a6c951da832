"""The linear maps inside blocks, each with its three products and nothing kept.

Shapes: R rows; x (R, C, H, W) and gradients (R, O, H, W), or (R, C) and (R, O) for a matrix. A *tap* is
one place of the kernel.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta.nn.products import input_gradient, weight_gradient


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
