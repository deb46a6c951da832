"""Networks: the published sizes, any input, any width; normalisations do what they say."""

import math

import pytest
import torch
from torch import nn

from matrix import methods
from trifecta import NETWORKS, LocalNetwork, build_network, get_method
from trifecta.nn.blocks import BlockStyle, ResidualBlock, Triangle, conv_block, linear_block, split_block
from trifecta.nn.networks import get_network
from trifecta.nn.norms import NORMALIZATIONS, ClassGroupNorm, LayerNorm, LengthNorm, RunningNorm


def parameters(name: str, input_shape: tuple[int, int, int]) -> int:
    return sum(p.numel() for p in get_network(name)(input_shape).parameters())


def test_sizes_are_the_published_ones() -> None:
    assert parameters("small", (4, 32, 32)) / 1e6 == pytest.approx(2.81, abs=0.005)
    assert parameters("large", (4, 32, 32)) / 1e6 == pytest.approx(8.49, abs=0.005)
    # Nøkland & Eidnes 2019 give 8.9 and 11.6 M weights with their classifier.
    assert parameters("vgg8b", (3, 32, 32)) / 1e6 == pytest.approx(8.9, abs=0.05)
    assert parameters("vgg11b", (3, 32, 32)) / 1e6 == pytest.approx(11.6, abs=0.06)
    assert parameters("resnet", (3, 32, 32)) / 1e6 == pytest.approx(11.17, abs=0.02)
    assert len(get_network("small")((4, 32, 32))) == 6
    assert len(get_network("large")((4, 32, 32))) == 12


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 17, 20), (1, 28, 28), (2, 32, 32)])
@pytest.mark.parametrize("num_classes", [2, 26])
def test_any_size_channels_and_classes(name: str, shape: tuple[int, int, int], num_classes: int) -> None:
    network = build_network(
        get_method("trifecta"), name, sample_shape=shape, num_classes=num_classes, width=0.02
    )
    assert network(torch.randn(3, *shape)).shape == (3, num_classes)


def test_a_residual_block_adds_to_its_input() -> None:
    block = ResidualBlock((4, 6, 6), 4)
    x = torch.rand(2, 4, 6, 6)
    with torch.no_grad():
        assert not torch.equal(block(x), x)
        for parameter in block.residual.parameters():
            parameter.zero_()
        assert torch.equal(block(x), x)
    assert ResidualBlock((4, 6, 6), 8, stride=2)(x).shape == (2, 8, 3, 3)
    halved = ResidualBlock((4, 6, 6), 8, stride=2)
    strided = nn.functional.conv2d(x, halved.get_parameter("shortcut.weight"), stride=2)
    torch.testing.assert_close(halved(x), torch.relu(strided + halved.residual(x)))


def test_width_multiplies_every_channel() -> None:
    blocks = get_network("small")((4, 32, 32), width=0.25)
    widths = [m.out_channels for m in blocks.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [32, 32, 64, 64, 64, 128]


def test_images_too_small_to_pool_are_refused() -> None:
    with pytest.raises(ValueError, match=r"received 4×20; use image_size=8 or more"):
        get_network("small")((1, 4, 20))


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan"), float("inf")])
def test_senseless_widths_are_refused(width: float) -> None:
    with pytest.raises(ValueError, match="width"):
        get_network("small")((1, 8, 8), width=width)


def test_length_norm_keeps_direction_and_takes_the_goodness_away() -> None:
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    out = LengthNorm(eps=0.0)(x)
    torch.testing.assert_close(out.square().mean((1, 2, 3)), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(LengthNorm(eps=0.0)(x * 7.5), out)
    cosine = torch.cosine_similarity(out.flatten(1), x.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(5, dtype=torch.float64))


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


def test_layer_norm_equals_a_group_norm_of_one_group() -> None:
    ours, theirs = LayerNorm(3), nn.GroupNorm(1, 3)
    with torch.no_grad():
        for parameter in (*ours.parameters(), *theirs.parameters()):
            parameter.copy_(torch.arange(3.0))
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", NORMALIZATIONS)
@pytest.mark.parametrize("shape", [(6, 4, 8, 8), (6, 4)])
def test_normalisations_reduce_over_what_their_names_say(name: str, shape: tuple[int, ...]) -> None:
    style = BlockStyle(normalization=name, num_classes=3)
    block = conv_block((4, 8, 8), 4, style) if len(shape) == 4 else linear_block(4, 4, style)
    x = torch.randn(shape) * 3 + 1
    out = block.get_submodule("normalize")(x)
    per_channel = out.transpose(0, 1).flatten(1)
    per_sample = out.flatten(1)
    if name in ("batch", "batch-output", "running"):
        # At the first batch, running statistics are the batch's own.
        torch.testing.assert_close(per_channel.mean(1), torch.zeros(4), rtol=0, atol=1e-3)
        torch.testing.assert_close(per_channel.var(1, correction=0), torch.ones(4), rtol=0, atol=1e-3)
    elif name in ("layer", "layer-elementwise"):
        torch.testing.assert_close(per_sample.mean(1), torch.zeros(6), rtol=0, atol=1e-3)
        torch.testing.assert_close(per_sample.var(1, correction=0), torch.ones(6), rtol=0, atol=1e-3)
    elif name == "length":
        torch.testing.assert_close(per_sample.square().mean(1), torch.ones(6), rtol=0, atol=1e-3)
    elif name == "class-groups":
        for group in (out[:, :2], out[:, 2:3], out[:, 3:]):
            torch.testing.assert_close(group.flatten(1).mean(1), torch.zeros(6), rtol=0, atol=1e-3)
            if group[0].numel() > 2:
                variance = group.flatten(1).var(1, correction=0)
                torch.testing.assert_close(variance, torch.ones(6), rtol=0, atol=1e-3)
    else:
        assert torch.equal(out, x)


def test_groups_of_unequal_size_are_normalised_as_equal_ones_are() -> None:
    x = torch.randn(5, 6, 4, 4, dtype=torch.float64)
    expected = nn.functional.group_norm(x, 3)
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


def test_a_block_is_split_where_a_head_looks() -> None:
    block = conv_block((2, 8, 8), 4, BlockStyle(dropout=0.5), pool=True).eval()
    x = torch.randn(3, 2, 8, 8)
    for reads, size, has_negatives in (("output", 4, False), ("unpooled", 8, False), ("response", 8, True)):
        front, back = split_block(block, reads)
        seen = front(x)
        assert seen.shape == (3, 4, size, size)
        assert bool((seen < 0).any()) is has_negatives
        assert torch.equal(back(seen), block(x))
    own = nn.Linear(3, 4)
    assert split_block(own, "unpooled")[0] is own


def test_a_triangle_is_what_a_channel_has_above_the_mean_of_all() -> None:
    x = torch.tensor([[1.0, 2.0, 6.0]])
    assert Triangle()(x).tolist() == [[0.0, 0.0, 3.0]]


def test_blocks_that_share_a_parameter_are_refused() -> None:
    shared = nn.Conv2d(2, 2, 3, padding=1)
    with pytest.raises(ValueError, match="blocks 0 and 1 do"):
        LocalNetwork([shared, shared], get_method("trifecta"), sample_shape=(1, 8, 8), num_classes=2)


@pytest.mark.parametrize("method", methods())
def test_a_prediction_in_train_mode_is_that_of_evaluation_mode_and_changes_nothing(method: str) -> None:
    network = build_network(get_method(method), sample_shape=(3, 8, 8), num_classes=3, width=0.05)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randn(4, 3, 8, 8)
    scores = network(images)
    assert network.training
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(scores, network.eval()(images))


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


def test_blocks_of_ones_own_are_a_network() -> None:
    blocks = [nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), nn.Sequential(nn.Flatten(), nn.Linear(144, 7))]
    network = LocalNetwork(blocks, get_method("trifecta"), sample_shape=(1, 8, 8), num_classes=3)
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_weights_follow_their_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    first, again, other = (
        build_network(get_method("trifecta"), sample_shape=(1, 8, 8), num_classes=3, width=0.05, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(
        first.get_parameter("blocks.0.weights.weight"), other.get_parameter("blocks.0.weights.weight")
    )


def test_class_groups_of_one_sample_are_those_of_many() -> None:
    norm, x = ClassGroupNorm(5, 5), torch.randn(4, 5)
    assert torch.equal(norm(x), torch.zeros(4, 5))
    assert torch.equal(norm(x[:1]), norm(x)[:1])
