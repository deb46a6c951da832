"""Means over patches against adaptive pooling, values and gradients."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta.nn.pooling import patch_means


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
