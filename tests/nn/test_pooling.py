"""Means over patches against adaptive pooling, values and gradients."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta.nn.convolution import divides, limited_pool, patch_means, spread_patches


@pytest.mark.parametrize("size", [(8, 8), (8, 4), (7, 5), (4, 4), (2, 3), (1, 1)])
@pytest.mark.parametrize("patches", [1, 2, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_patch_means_are_adaptive_averages(
    size: tuple[int, int], patches: int, layout: torch.memory_format
) -> None:
    maps = torch.randn(3, 5, *size, dtype=torch.float64).contiguous(memory_format=layout)
    expected, gradient = _values_and_gradient(
        maps, lambda x: F.adaptive_avg_pool2d(x, patches).permute(0, 2, 3, 1).flatten(1)
    )
    means, ours = _values_and_gradient(maps, lambda x: patch_means(x, patches))
    assert means.shape == (3, patches**2 * 5)
    torch.testing.assert_close(means, expected)
    torch.testing.assert_close(ours, gradient)


def _values_and_gradient(maps: Tensor, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    x = maps.clone().requires_grad_()
    values = function(x)
    weights = torch.arange(values.numel(), dtype=values.dtype).view_as(values)
    return values, torch.autograd.grad((values * weights).sum(), x)[0]


def test_patches_divide_maps_whose_sides_they_all_divide() -> None:
    assert divides(2, (4, 6))
    assert divides(3, (3,))
    assert not divides(2, (4, 5))
    assert not divides(4, (2, 4))


@pytest.mark.parametrize(
    ("maps", "at_most", "kernel", "padding", "features"),
    [
        ((4, 8, 8), 256, (1, 1), (0, 0), 256),
        ((4, 8, 8), 255, (2, 1), (0, 0), 128),
        ((4, 8, 8), 64, (2, 2), (0, 0), 64),
        ((4, 8, 8), 63, (4, 2), (0, 0), 32),
        ((4, 8, 2), 1, (8, 2), (0, 0), 4),
        ((2, 5, 7), 24, (2, 2), (1, 1), 24),
        ((2, 9), 6, (4,), (2,), 6),
        ((1, 4, 4, 4), 16, (2, 2, 1), (0, 0, 0), 16),
    ],
)
def test_a_pool_grows_side_by_side_until_few_enough_features_are_left(
    maps: tuple[int, ...],
    at_most: int,
    kernel: tuple[int, ...],
    padding: tuple[int, ...],
    features: int,
) -> None:
    assert limited_pool(maps, at_most) == (kernel, padding, features)


@pytest.mark.parametrize("patches", [1, 2])
def test_a_gradient_is_spread_over_its_patch(patches: int) -> None:
    maps = torch.randn(3, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(3, 5 * patches**2, dtype=torch.float64)
    (expected,) = torch.autograd.grad(patch_means(maps, patches), maps, gradient)
    torch.testing.assert_close(spread_patches(gradient, maps.shape), expected)
