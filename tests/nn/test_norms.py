"""Normalisations and dropout against their formulas, where epsilon, precision and shape matter."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.nn.blocks import BlockStyle, Dropout, Triangle, conv_block, seeded_dropout
from trifecta.nn.norms import NORMALIZATIONS, ClassGroupNorm, LayerNorm, LengthNorm, NormSite, RunningNorm
from trifecta.nn.shapes import channel_groups

SHAPES = [(6, 4, 5), (6, 4), (6,), (6, 2, 3, 4)]


def small(*shape: int) -> Tensor:
    """Numbers whose squares are no larger than an epsilon."""
    draw = torch.Generator().manual_seed(0)
    return 1e-2 * torch.randn(7, *shape, generator=draw, dtype=torch.float64)


def but_samples(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def grouped(x: Tensor, groups: list[range]) -> Tensor:
    """Each sample's group of channels less its mean, over its deviation."""
    parts = []
    for group in groups:
        part = x[:, group]
        dims = but_samples(part)
        centred = part - part.mean(dims, keepdim=True)
        parts.append(centred / (centred.square().mean(dims, keepdim=True) + 2e-5).sqrt())
    return torch.cat(parts, dim=1)


NORMS: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "length": (
        lambda: LengthNorm(eps=2e-5),
        lambda x: x / (x.square().mean(but_samples(x), keepdim=True) + 2e-5).sqrt(),
    ),
    "layer": (lambda: LayerNorm(6, eps=2e-5), lambda x: grouped(x, [range(6)])),
    "equal groups": (
        lambda: ClassGroupNorm(6, 3, eps=2e-5),
        lambda x: grouped(x, [range(2), range(2, 4), range(4, 6)]),
    ),
    "unequal groups": (
        lambda: ClassGroupNorm(6, 4, eps=2e-5),
        lambda x: grouped(x, [range(2), range(2, 3), range(3, 5), range(5, 6)]),
    ),
    "running": (
        lambda: RunningNorm(6, eps=2e-5),
        # The first batch is all that there is.
        lambda x: F.batch_norm(x, None, None, training=True, eps=2e-5),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NORMS)
def test_norms_are_their_formulas(name: str, shape: tuple[int, ...]) -> None:
    build, formula = NORMS[name]
    x = small(*shape)
    torch.testing.assert_close(build().double()(x), formula(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_moments_of_half_precision_are_summed_in_float32(name: str, dtype: torch.dtype) -> None:
    build, formula = NORMS[name]
    x = (100 * small(6, 30, 30) + 2).to(dtype)
    norm = build().to(dtype)
    found = norm(x)
    wide = {"unequal groups": torch.float32}.get(name, dtype) if dtype == torch.bfloat16 else dtype
    assert found.dtype == wide
    error = (found.double() - formula(x.double())).abs().max().item()
    assert error < (0.02 if dtype == torch.bfloat16 else 1e-9)


def test_norms_that_follow_from_the_settings_save_nothing() -> None:
    for norm in (ClassGroupNorm(6, 3), ClassGroupNorm(6, 4), LengthNorm()):
        assert not norm.state_dict()


def test_the_length_of_half_precision_is_that_of_single_precision() -> None:
    x = small(9).repeat(30, 1).mul(torch.linspace(1, 100, 210).view(-1, 1)).bfloat16()
    scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-5)
    assert torch.equal(LengthNorm()(x), x * scale.bfloat16())


def test_gains_and_biases_are_per_channel_and_learn() -> None:
    for norm in (LayerNorm(6), RunningNorm(6)):
        assert {name: tuple(p.shape) for name, p in norm.named_parameters()} == {
            "weight": (6,),
            "bias": (6,),
        }
        x = small(6, 4, 4).float()
        norm.eval()
        plain = norm(x)
        with torch.no_grad():
            norm.weight.copy_(torch.arange(6.0))
            norm.bias.copy_(torch.arange(6.0) * 10)
        scale = torch.arange(6.0).view(1, 6, 1, 1)
        torch.testing.assert_close(norm(x), plain * scale + scale * 10)


def test_running_statistics_forget_with_their_horizon_and_are_used_in_training_too() -> None:
    norm = RunningNorm(2)
    assert norm.horizon == 2048
    norm.samples.fill_(1e9)
    x = torch.full((1024, 2), 3.0)
    norm(x)
    share = 1 - torch.exp(torch.tensor(-0.5))
    torch.testing.assert_close(norm.running_mean, 3 * share.expand(2))
    torch.testing.assert_close(norm.samples, torch.tensor(1e9 + 1024))
    expected = (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
    before = norm.running_mean.clone()
    torch.testing.assert_close(norm.eval()(x), expected)
    assert torch.equal(norm.running_mean, before)


def test_an_image_has_no_class_groups() -> None:
    x = small(6, 4, 4)
    for first, groups in ((True, 1), (False, 3)):
        style = BlockStyle(normalization="class-groups", num_classes=3)
        norm = style.norm((6, 4, 4), first=first)
        torch.testing.assert_close(norm(x), F.group_norm(x, groups))
    assert isinstance(style.norm((6, 4, 4)), ClassGroupNorm)
    torch.testing.assert_close(style.norm((6, 4, 4))(x), F.group_norm(x, 3))


def test_a_style_says_which_part_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"^unknown normalization"):
        BlockStyle(normalization="bach").norm((6, 4, 4))
    with pytest.raises(ValueError, match=r"^unknown activation"):
        BlockStyle(activation="rule").activate()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["batch", "batch-output", "layer", "layer-elementwise", "running"])
def test_named_norms_take_maps_of_any_dimensions(name: str, shape: tuple[int, ...]) -> None:
    norm = NORMALIZATIONS[name](NormSite(shape=shape, first=False, num_classes=3)).double()
    x = small(*shape)
    eps = 1e-4 if name == "batch-output" else 1e-5
    dims = but_samples(x) if name.startswith("layer") else (0, *range(2, x.ndim))
    centred = x - x.mean(dims, keepdim=True)
    expected = centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt()
    torch.testing.assert_close(norm(x), expected)


def test_a_triangle_is_the_excess_over_the_mean_of_the_channels() -> None:
    x = torch.tensor([[[1.0, 5.0], [3.0, 1.0]], [[0.0, 2.0], [4.0, 2.0]]])
    expected = torch.tensor([[[0.0, 2.0], [1.0, 0.0]], [[0.0, 0.0], [2.0, 0.0]]])
    assert torch.equal(Triangle()(x), expected)


def test_dropout_keeps_a_share_and_makes_up_for_the_rest() -> None:
    layer, x = Dropout(0.2), torch.full((100, 200), 4.0)
    with seeded_dropout([layer], x.device, [0]):
        first = layer(x)
    assert sorted(set(first.flatten().tolist())) == [0.0, 5.0]
    assert (first == 0).double().mean().item() == pytest.approx(0.2, abs=0.01)
    torch.manual_seed(1)
    with seeded_dropout([layer], x.device, [0]):
        assert torch.equal(layer(x), first)
        assert torch.equal(layer.eval()(x), x)
    # Without numbers of its own it draws PyTorch's.
    layer.train()
    torch.manual_seed(1)
    second = layer(x)
    assert not torch.equal(layer(x), second)
    torch.manual_seed(1)
    assert torch.equal(layer(x), second)
    assert layer.generator is None


def test_groups_of_unequal_size_are_normalised_as_equal_ones_are() -> None:
    x = torch.randn(5, 6, 4, 4, dtype=torch.float64)
    expected = F.group_norm(x, 3)
    norm = ClassGroupNorm(6, 3)
    torch.testing.assert_close(norm(x), expected)
    norm.equal = False
    torch.testing.assert_close(norm(x), expected)
    assert ClassGroupNorm(7, 3).groups.tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_an_elementwise_layer_norm_has_a_gain_an_element_and_class_groups_have_none() -> None:
    first, second = (
        conv_block((2, 8, 8), 4, BlockStyle(normalization=name, num_classes=2)).get_submodule("normalize")
        for name in ("layer-elementwise", "class-groups")
    )
    assert [tuple(p.shape) for p in first.parameters()] == [(2, 8, 8)] * 2
    assert not list(second.parameters())


def test_running_statistics_are_those_of_all_samples_whatever_the_batch_size() -> None:
    x = torch.randn(24, 3, 4, 4) * torch.tensor([1.0, 2.0, 5.0]).view(1, 3, 1, 1) + 7
    for size in (1, 4, 24):
        norm = RunningNorm(3, horizon=10**9)
        for batch in torch.split(x, size):
            norm(batch)
        torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
        torch.testing.assert_close(norm.running_var, x.var((0, 2, 3), correction=0))


def test_running_statistics_forget_by_samples_not_by_batches() -> None:
    after = []
    for size in (1, 8):
        norm = RunningNorm(1, horizon=16)
        for value in (0.0, 1.0):
            for batch in torch.split(torch.full((64, 1), value), size):
                norm(batch)
        after.append(norm.running_mean.item())
    assert after == pytest.approx([1 - math.exp(-64 / 16)] * 2, rel=0.05)


def test_with_running_statistics_samples_do_not_see_each_other() -> None:
    norm = RunningNorm(2, horizon=10**9)
    norm(torch.randn(4096, 2))
    x = torch.randn(2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(norm(x)[0].sum(), x)
    assert gradient[0].abs().min() > 0
    assert not gradient[1].any()
    before = norm.running_mean.clone()
    norm.eval()(x)
    assert torch.equal(norm.running_mean, before)


def test_class_groups_of_one_sample_are_those_of_many() -> None:
    norm, x = ClassGroupNorm(5, 5), torch.randn(4, 5)
    assert torch.equal(norm(x), torch.zeros(4, 5))
    assert torch.equal(norm(x[:1]), norm(x)[:1])


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_a_first_block_learns_from_channels_last_images(name: str) -> None:
    """Images need no gradient; a normalisation must not rely on one, as nn.GroupNorm does."""
    block = conv_block((2, 8, 8), 3, BlockStyle(normalization=name, num_classes=2))
    plain = torch.randn(4, 2, 8, 8)
    layouts = (plain, plain.contiguous(memory_format=torch.channels_last))
    parameters = list(block.parameters())
    gradients = [torch.autograd.grad(block(images).square().mean(), parameters) for images in layouts]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_channels_that_cannot_form_groups_are_refused_with_what_helps() -> None:
    assert channel_groups(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    with pytest.raises(
        ValueError,
        match=r"^class groups need .*: 4 classes do not fit into a block of 3 channels; use a larger "
        "width, or a method without class groups, such as superfecta or trifecta$",
    ):
        channel_groups(3, 4)
