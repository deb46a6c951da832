"""The convolution with a written-out gradient against PyTorch's own graph."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks

from trifecta.nn.convolution import Convolution3x3, side_by_side, weight_gradient


def plain(module: Convolution3x3, x: Tensor, weight: Tensor) -> Tensor:
    response = F.conv2d(x, weight, padding=1)
    return F.max_pool2d(response, 2) if module.pool else response


def example(
    *sides: int, pool: bool, count: int = 90, dtype: torch.dtype = torch.float64
) -> tuple[Convolution3x3, Tensor]:
    module = Convolution3x3(5, 32, pool=pool).to(dtype)
    x = torch.randn(count, 5, *sides, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return module, x.requires_grad_()


def gradients(out: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).to(out.dtype).view_as(out)
    return torch.autograd.grad((out * weights).sum(), inputs)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("sides", [(16, 16), (15, 13), (7, 7), (3, 2)])
def test_values_and_gradients_are_those_of_the_plain_graph(sides: tuple[int, int], pool: bool) -> None:
    # 90 images of 16×16 pass in two pieces.
    module, x = example(*sides, pool=pool)
    own, expected = module(x), plain(module, x, module.weight)
    assert type(own.grad_fn).__name__ == "_ConvolutionBackward"
    torch.testing.assert_close(own, expected)
    torch.testing.assert_close(gradients(own, (x, module.weight)), gradients(expected, (x, module.weight)))


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("sides", [(7, 7), (3, 3), (15, 15)])
def test_gradients_in_bfloat16_are_as_exact_as_it_allows(sides: tuple[int, int], pool: bool) -> None:
    module, x = example(*sides, pool=pool, dtype=torch.bfloat16)
    own = gradients(module(x), (x, module.weight))
    expected = gradients(plain(module, x, module.weight), (x, module.weight))
    for ours, theirs in zip(own, expected, strict=True):
        scale = theirs.float().abs().max()
        assert (ours.float() - theirs.float()).abs().max() < 0.01 * scale


def test_the_graph_holds_the_input_and_two_bits_for_each_maximum() -> None:
    module, x = example(8, 8, pool=True, dtype=torch.float32)
    held: dict[int, int] = {}

    def hold(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(hold, lambda tensor: tensor):
        out = module(x)
    bits = 2 * out.numel()
    assert sum(held.values()) == x.nbytes + module.weight.nbytes + bits // 8


def test_autocast_computes_in_bfloat16_and_leaves_gradients_as_parameters_are() -> None:
    module, x = example(8, 8, pool=True, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert module.weight.grad is not None
    assert module.weight.grad.dtype == torch.float32
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("pool", [False, True])
def test_gradients_of_gradients_are_exact(pool: bool) -> None:
    module, x = example(4, 4, pool=pool, count=2)

    def squared(x: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(module, {"weight": weight}, (x,))
        return out.square()

    weight = module.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradgradcheck(squared, (x, weight), fast_mode=True)


@pytest.mark.parametrize("pool", [False, True])
def test_function_transforms_and_forward_mode_see_the_plain_operation(pool: bool) -> None:
    module, x = example(6, 6, pool=pool, count=4)
    weight, direction = module.weight.detach(), torch.randn_like(module.weight)

    def total(weight: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(module, {"weight": weight}, (x.detach(),))
        return out.sum()

    (expected,) = torch.autograd.grad(module(x).sum(), module.weight)
    torch.testing.assert_close(torch.func.grad(total)(weight), expected)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(module.weight, direction)  # type: ignore[no-untyped-call]
        out = torch.func.functional_call(module, {"weight": dual}, (x,))
        tangent = forward_ad.unpack_dual(out).tangent  # type: ignore[no-untyped-call]
    torch.testing.assert_close(tangent.sum(), (expected * direction).sum())


@pytest.mark.parametrize("count", [8, 9, 3])
def test_maps_side_by_side_have_the_same_weight_gradient(count: int) -> None:
    x, gradient = torch.randn(count, 5, 7, 6).double(), torch.randn(count, 8, 7, 6).double()
    weight = torch.randn(8, 5, 3, 3).double()
    expected = weight_gradient(gradient, x, weight)
    found = weight_gradient(side_by_side(gradient, 4), side_by_side(x, 4), weight)
    assert side_by_side(x, 4).shape == (-(-count // 4), 5, 7, 28)
    torch.testing.assert_close(found, expected)
