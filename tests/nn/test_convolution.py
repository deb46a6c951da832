"""The convolution with a written-out gradient against PyTorch's own graph."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from trifecta.nn import convolution
from trifecta.nn.convolution import Convolution3x3, input_gradient, max_pool, side_by_side, weight_gradient


def plain(module: Convolution3x3, x: Tensor, weight: Tensor) -> Tensor:
    response = F.conv2d(x, weight, padding=1)
    return F.max_pool2d(response, 2) if module.pool else response


def example(
    *sides: int, pool: bool, count: int = 90, dtype: torch.dtype = torch.float64
) -> tuple[Convolution3x3, Tensor]:
    module = Convolution3x3(5, 32, pool=pool).to(dtype)
    x = torch.randn(count, 5, *sides, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return module, x.requires_grad_()


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that run within it, and the samples of the last of each, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[str, int] = {}
        self.sizes: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        if args and isinstance(args[0], Tensor) and args[0].ndim:
            self.sizes[name] = len(args[0])
        return func(*args, **(kwargs or {}))


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


def test_maxima_of_narrow_and_of_wide_images_have_the_indices_of_their_pixels() -> None:
    for width in (2, 254, 256, 300):
        response = torch.zeros(4, 1, 2, width)
        # Image k has its maxima at pixel k of each window.
        for k in range(4):
            response[k, 0, k // 2, k % 2 :: 2] = 1
        largest, indices = max_pool(response)
        assert torch.equal(largest, torch.ones(4, 1, 1, width // 2))
        assert torch.equal(indices.long(), torch.arange(4).view(4, 1, 1, 1).expand_as(largest))


@pytest.mark.parametrize(("width", "together"), [(7, 4), (9, 3), (10, 1), (15, 1)])
def test_narrow_images_in_bfloat16_are_joined_where_a_processor_sums_rows(
    width: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 10
    x, gradient = torch.randn(count, 3, 4, width), torch.randn(count, 2, 4, width)
    weight = torch.zeros(2, 3, 3, 3)
    for dtype, has_amx in ((torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)):
        is_joined = has_amx and dtype == torch.bfloat16
        monkeypatch.setattr(convolution, "has_amx", partial(bool, has_amx))
        x, gradient, weight = x.to(dtype), gradient.to(dtype), weight.to(dtype)
        with Counted() as ops:
            found = weight_gradient(gradient, x, weight)
        assert ops.sizes["convolution_backward"] == (-(-count // together) if is_joined else count)
        expected = weight_gradient(gradient.double(), x.double(), weight.double())
        torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=0.1)


def test_the_layer_is_a_convolution_with_padding_and_without_bias() -> None:
    module = Convolution3x3(5, 32)
    assert [(name, weight.shape) for name, weight in module.named_parameters()] == [
        ("weight", (32, 5, 3, 3))
    ]
    assert (module.pool, module.padding, module.stride) == (False, (1, 1), (1, 1))
    assert repr(Convolution3x3(5, 8, pool=True)) == "Convolution3x3(5, 8, pool=True)"


def test_only_the_gradient_of_a_single_channel_is_a_sum_over_taps() -> None:
    """In float32: the sum of 256 and of eight ones would be 256 in bfloat16."""
    for channels in (1, 2):
        weight = torch.ones(1, channels, 3, 3, dtype=torch.bfloat16)
        weight[:, :, 0, 0] = 256
        with Counted() as ops:
            found = input_gradient(torch.ones(1, 1, 3, 3, dtype=torch.bfloat16), weight)
        assert ("col2im" in ops.counts) == (channels == 1)
        assert torch.equal(found[0, :, 1, 1], torch.full((channels,), 264, dtype=torch.bfloat16))
        assert found.dtype == torch.bfloat16


def test_the_gradient_of_the_weight_is_summed_over_pieces_in_float32() -> None:
    """In bfloat16 the sum of 256, 1 and 1 would be 256."""
    # 2 bytes · 128 channels · 128 · 128 pixels: each image is a piece.
    module = Convolution3x3(1, 128).bfloat16()
    x = torch.zeros(3, 1, 128, 128, dtype=torch.bfloat16)
    x[:, 0, 5, 5] = torch.tensor([256.0, 1.0, 1.0])
    out = module(x)
    out.backward(torch.ones_like(out))
    assert module.weight.grad is not None
    assert torch.equal(module.weight.grad, torch.full((128, 1, 3, 3), 258, dtype=torch.bfloat16))


def test_the_batch_passes_in_pieces_only_where_it_is_kept_for_a_gradient() -> None:
    # 8 bytes · 32 channels · 16 · 32 pixels: 32 images in 4 MiB.
    module, x = example(16, 32, pool=True)
    with Counted() as ops:
        out = module(x)
    assert ops.counts["convolution"] == 3
    with Counted() as ops, torch.no_grad():
        module(x)
        module(x.detach())
    assert ops.counts["convolution"] == 2
    # What needs no gradient costs nothing backward.
    out = Convolution3x3(5, 32, pool=True).double().requires_grad_(False)(x)
    with Counted() as ops:
        out.sum().backward()
    assert ops.counts["convolution"] == 3
    assert "convolution_backward" not in ops.counts
    out = module(x.detach())
    assert type(out.grad_fn).__name__ == "_ConvolutionBackward"
    with Counted() as ops:
        out.sum().backward()
    assert "convolution" not in ops.counts
    assert ops.counts["convolution_backward"] == 3


def test_few_channels_with_maxima_and_single_images_take_the_plain_graph() -> None:
    few, x = Convolution3x3(5, 31, pool=True), torch.randn(4, 5, 6, 6)
    assert type(few(x).grad_fn).__name__ == "MaxPool2DWithIndicesBackward0"
    assert type(Convolution3x3(5, 31)(x).grad_fn).__name__ == "_ConvolutionBackward"
    for pool in (False, True):
        module = Convolution3x3(5, 32, pool=pool)
        assert "_ConvolutionBackward" not in type(module(x[0]).grad_fn).__name__
        torch.testing.assert_close(module(x[0]), module(x)[0])
        frozen = Convolution3x3(5, 32, pool=pool).requires_grad_(False)
        assert frozen(x).grad_fn is None
        assert type(frozen(x.clone().requires_grad_()).grad_fn).__name__ == "_ConvolutionBackward"


@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_gradients_of_gradients_of_one_alone_are_exact(wanted: str) -> None:
    module, x = example(4, 4, pool=True, count=2)
    weight = module.weight if wanted == "weight" else module.weight.detach()
    x = x if wanted == "x" else x.detach()
    own = torch.func.functional_call(module, {"weight": weight}, (x,))
    given = x if wanted == "x" else weight

    def twice(out: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(out.square().sum(), given, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), given)
        return second

    torch.testing.assert_close(twice(own), twice(plain(module, x, weight)))
