"""The parts of a convolution's gradient, and maxima that remember their place, against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta.nn import convolution as products
from trifecta.nn.convolution import (
    input_gradient,
    max_pool,
    pack_indices,
    packed_channels,
    side_by_side,
    unpack_indices,
    unpool,
    weight_gradient,
)


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("channels", [4, 5, 8])
@pytest.mark.parametrize("sides", [(4, 6), (5, 7), (6, 2), (2, 254), (2, 255), (2, 256), (4, 300)])
def test_maxima_are_put_back_where_they_were_found(channels: int, sides: tuple[int, int]) -> None:
    response = drawn(3, channels, *sides).relu()
    expected, positions = F.max_pool2d(response, 2, return_indices=True)
    largest, packed = max_pool(response)
    assert torch.equal(largest, expected)
    assert packed.dtype == torch.uint8
    assert packed.shape[1] == packed_channels(channels) == {4: 1, 5: 5, 8: 2}[channels]
    gradient = drawn(*largest.shape)
    found = unpool(gradient, packed, *sides)
    assert torch.equal(found, F.max_unpool2d(gradient, positions, [2, 2], output_size=sides))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_the_first_of_equals_is_the_largest() -> None:
    response = torch.tensor([[1.0, 1.0], [1.0, 1.0]]).expand(1, 4, 2, 2)
    later = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).expand(1, 4, 2, 2)
    assert unpack_indices(max_pool(response)[1], 4).flatten().tolist() == [0] * 4
    assert unpack_indices(max_pool(later)[1], 4).flatten().tolist() == [2] * 4


@pytest.mark.parametrize("channels", [3, 4, 12])
def test_indices_are_packed_four_in_a_byte(channels: int) -> None:
    indices = torch.arange(2 * channels * 6, dtype=torch.uint8).view(2, channels, 2, 3) % 4
    packed = pack_indices(indices)
    assert packed.shape == (2, packed_channels(channels), 2, 3)
    assert torch.equal(unpack_indices(packed, channels), indices)
    if channels == 4:
        a, b, c, d = (int(indices[0, k, 1, 2]) for k in range(4))
        assert int(packed[0, 0, 1, 2]) == a + 4 * b + 16 * c + 64 * d


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_of_a_convolution(channels: int, dtype: torch.dtype) -> None:
    x = drawn(6, channels, 5, 7, dtype=dtype).requires_grad_()
    weight = drawn(4, channels, 3, 3, dtype=dtype).requires_grad_()
    gradient = drawn(6, 4, 5, 7, dtype=dtype)
    of_x, of_weight = torch.autograd.grad(F.conv2d(x, weight, padding=1), (x, weight), gradient)
    tolerance = 1e-9 if dtype == torch.float64 else 0.05
    with torch.no_grad():
        found = input_gradient(gradient, weight), weight_gradient(gradient, x, weight)
    for ours, theirs in zip(found, (of_x, of_weight), strict=True):
        assert (ours.dtype, ours.shape) == (dtype, theirs.shape)
        scale = theirs.float().abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize(("count", "together"), [(6, 3), (7, 3), (2, 3), (5, 1)])
def test_maps_lie_side_by_side_with_a_column_of_zeros_behind_each(count: int, together: int) -> None:
    maps = drawn(count, 2, 4, 3)
    out = side_by_side(maps, together)
    rows = -(-count // together)
    assert out.shape == (rows, 2, 4, together * 4)
    expected = torch.zeros_like(out)
    for k in range(count):
        row, place = divmod(k, together)
        expected[row, :, :, place * 4 : place * 4 + 3] = maps[k]
    assert torch.equal(out, expected)


@pytest.mark.parametrize(
    ("width", "together"), [(4, 6), (5, 5), (7, 4), (8, 3), (9, 3), (10, None), (15, None), (31, None)]
)
def test_narrow_images_fill_the_tiles_that_a_processor_has(
    width: int, together: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid: list[int] = []

    def noting(maps: Tensor, count: int) -> Tensor:
        laid.append(count)
        return side_by_side(maps, count)

    monkeypatch.setattr(products, "has_amx", lambda: True)
    monkeypatch.setattr(products, "side_by_side", noting)
    for dtype, expected in ((torch.bfloat16, together), (torch.float32, None)):
        laid.clear()
        x, weight = drawn(7, 3, 4, width, dtype=dtype), drawn(4, 3, 3, 3, dtype=dtype)
        gradient = drawn(7, 4, 4, width, dtype=dtype)
        found = weight_gradient(gradient, x, weight)
        assert laid == ([] if expected is None else [expected] * 2)
        weight = weight.float().requires_grad_()
        (wanted,) = torch.autograd.grad(F.conv2d(x.float(), weight, padding=1), weight, gradient.float())
        torch.testing.assert_close(found.float(), wanted, rtol=0.05, atol=0.05 * wanted.abs().max().item())


def test_maxima_stand_where_the_response_does() -> None:
    response = torch.empty(2, 4, 6, 6, device="meta")
    largest, packed = max_pool(response)
    assert (largest.device.type, packed.device.type) == ("meta", "meta")
    assert unpool(largest, packed, 6, 6).device.type == "meta"
