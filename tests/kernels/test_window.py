"""A fused window against the plain graph of the same blocks: equal gradients, less kept."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from trifecta import Learner, build_network, get_method
from trifecta import window as window_loss_module
from trifecta._utils import devices as chunks
from trifecta._utils.devices import autocast
from trifecta.kernels.block import FusedBlock, fused_blocks
from trifecta.kernels.window import run_window
from trifecta.losses import Symmetric
from trifecta.losses.functional import symmetric_loss
from trifecta.losses.goodness import ChannelSums, mean_square
from trifecta.nn.blocks import BlockStyle, conv_block, linear_block
from trifecta.nn.convolution import patch_means

Loss = Callable[[Tensor, ChannelSums], Tensor]

# Statistics that change while they are used are not worth a second implementation.
FUSED = ["batch", "layer", "length", "none"]


@pytest.fixture(autouse=True)
def _double_precision_in_several_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pieces of three samples, so that a batch of seven has a shorter last one."""
    monkeypatch.setattr(chunks, "_CPU_BYTES", 3 * 6 * 9 * 6 * 8)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def conv_blocks(pools: tuple[bool, ...], normalization: str) -> nn.ModuleList:
    channels = (3, 6, 4, 6)
    blocks = nn.ModuleList(
        conv_block((a, 8, 8), b, BlockStyle(normalization=normalization), pool=pool)
        for (a, b), pool in zip(itertools.pairwise(channels), pools, strict=False)
    )
    return with_random_scales(blocks)


def with_random_scales(blocks: nn.ModuleList) -> nn.ModuleList:
    for block in blocks:
        for parameter in block.get_submodule("normalize").parameters():
            nn.init.uniform_(parameter, -1, 1)
    return blocks


def moments_of(features: Tensor) -> ChannelSums:
    flat = features.reshape(*features.shape[:2], -1)
    return ChannelSums(sums=flat.sum(2), squares=flat.square().sum(2), positions=flat.shape[2])


def weighted(values: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    return (values * torch.randn(values.shape, generator=draw)).sum()


LOSSES: dict[str, Loss] = {
    "squares": lambda _, moments: weighted(moments.squares),
    "sums": lambda _, moments: weighted(moments.sums),
    "features": lambda features, _: weighted(features.contiguous()),
    "all": lambda f, m: weighted(f.contiguous()) + weighted(m.sums) + weighted(m.squares),
}


def gradients(blocks: nn.ModuleList, x: Tensor, loss: Loss, *, fused: bool) -> list[Tensor]:
    blocks, x = copy.deepcopy(blocks), x.clone().requires_grad_()
    if fused:
        stages = fused_blocks(blocks)
        assert stages is not None
        torch.autograd.backward(loss(*run_window(stages, x)))
    else:
        features = x
        for block in blocks:
            features = block(features)
        torch.autograd.backward(loss(features, moments_of(features)))
    buffers = [b.double() for b in blocks.buffers()]
    found = [p.grad for p in (*blocks.parameters(), x)]
    assert all(g is not None for g in found)
    return [*(g for g in found if g is not None), *buffers]


def assert_equal(blocks: nn.ModuleList, x: Tensor, loss: Loss) -> None:
    plain = gradients(blocks, x, loss, fused=False)
    fused = gradients(blocks, x, loss, fused=True)
    for expected, found in zip(plain, fused, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("pools", "normalization", "loss"),
    [
        *[(pools, "batch", "all") for pools in ((False,), (True,), (True, False), (False, True, True))],
        *[((False, True), normalization, "all") for normalization in FUSED],
        *[((True, False), "batch", loss) for loss in LOSSES if loss != "all"],
    ],
    ids=str,
)
def test_gradients_and_running_statistics_are_those_of_the_plain_graph(
    pools: tuple[bool, ...], normalization: str, loss: str
) -> None:
    x = torch.randn(7, 3, 9, 6).contiguous(memory_format=torch.channels_last)
    assert_equal(conv_blocks(pools, normalization), x, LOSSES[loss])


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 1), (2, 2)], ids=str)
def test_maps_too_small_to_have_a_middle(size: tuple[int, int]) -> None:
    assert_equal(conv_blocks((False, False), "batch"), torch.randn(7, 3, *size), LOSSES["all"])


@pytest.mark.parametrize("width", [254, 255, 256, 257])
def test_places_of_wide_images(width: int) -> None:
    assert_equal(conv_blocks((True,), "batch"), torch.randn(7, 3, 4, width), LOSSES["squares"])


@pytest.mark.parametrize(
    ("normalization", "loss"),
    [*[(normalization, "all") for normalization in FUSED], *[("batch", loss) for loss in LOSSES]],
)
def test_fully_connected_blocks_too(normalization: str, loss: str) -> None:
    sizes = (12, 7, 5)
    blocks = nn.ModuleList(
        linear_block(a, b, BlockStyle(normalization=normalization)) for a, b in itertools.pairwise(sizes)
    )
    assert_equal(with_random_scales(blocks), torch.randn(7, 3, 2, 2), LOSSES[loss])


@pytest.mark.parametrize("normalization", FUSED)
def test_constant_channels_get_no_gradient_and_the_others_the_same(normalization: str) -> None:
    blocks = conv_blocks((True, False), normalization)
    x = torch.randn(7, 3, 8, 6, requires_grad=True)
    stages = fused_blocks(blocks)
    assert stages is not None
    whole, part = (
        torch.autograd.grad(weighted(run_window(stages, x, constant_channels=n)[1].squares), x)[0]
        for n in (0, 2)
    )
    torch.testing.assert_close(part[:, 2:], whole[:, 2:])
    # Norms over the whole sample give every channel's gradient at no extra cost.
    separable = normalization in ("batch", "none")
    assert bool(part[:, :2].any()) != separable


def test_equal_maxima_send_their_gradient_to_the_first_as_pytorch_does() -> None:
    block = conv_block((1, 8, 8), 4, BlockStyle(normalization="none"), pool=True)
    nn.init.ones_(block.get_parameter("weights.weight"))
    x = torch.ones(2, 1, 4, 6)
    assert_equal(nn.ModuleList([block]), x, LOSSES["squares"])


def test_settled_samples_cost_nothing_and_change_nothing_within_a_block() -> None:
    blocks = conv_blocks((True,), "batch")
    x = torch.randn(7, 3, 8, 6)
    matters = torch.tensor([1.0, 0, 0, 1, 1, 0, 1])
    parameters = list(blocks.parameters())
    stages = fused_blocks(blocks)
    assert stages is not None
    every, some = (
        torch.autograd.grad(
            (run_window(stages, x, skip_zero_rows=skip)[1].squares.sum(1) * matters).sum(), parameters
        )
        for skip in (False, True)
    )
    for expected, found in zip(every, some, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_gradient_of_the_samples_left_is_as_if_they_were_the_batch() -> None:
    block = conv_block((3, 8, 8), 4)
    x = torch.randn(7, 3, 8, 6, requires_grad=True)
    matters = torch.tensor([True, False, False, True, True, False, True])
    stages = fused_blocks([block])
    assert stages is not None
    moments = run_window(stages, x, skip_zero_rows=True)[1]
    gradient = torch.autograd.grad((moments.squares.sum(1) * matters).sum(), x)[0]
    assert [bool(row.any()) for row in gradient] == matters.tolist()
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    standard = ((x - mean) / (variance + 1e-5).sqrt())[matters].detach().requires_grad_()
    dy = torch.autograd.grad(block[2](block[1](standard)).square().sum(), standard)[0]
    left = dy - dy.mean((0, 2, 3), keepdim=True)
    left = left - standard * (dy * standard).mean((0, 2, 3), keepdim=True)
    torch.testing.assert_close(gradient[matters], left / (variance + 1e-5).sqrt())


def test_a_window_keeps_its_input_its_activations_and_two_bits_a_pooled_output() -> None:
    blocks = nn.ModuleList([conv_block((8, 8, 8), 16, pool=True), conv_block((16, 8, 8), 8)])
    stages = fused_blocks(blocks)
    assert stages is not None
    x = torch.randn(4, 8, 8, 8)
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += 0 if isinstance(tensor, nn.Parameter) else tensor.nbytes
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        run_window(stages, x)
    pooled = 4 * 16 * 4 * 4
    activations = x.nbytes + 8 * 4 * 8 * 4 * 4 + 8 * pooled
    statistics = 8 * 2 * (8 + 16)
    assert kept == activations + pooled // 4 + statistics


@pytest.mark.parametrize(
    "block",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
        nn.Linear(3, 4),
        conv_block((3, 8, 8), 4).append(nn.Dropout()),
        nn.Sequential(conv_block((3, 8, 8), 4)),
    ],
    ids=["unnormalised", "bare", "longer", "nested"],
)
def test_blocks_of_another_make_are_left_to_the_plain_graph(block: nn.Module) -> None:
    assert fused_blocks([conv_block((3, 8, 8), 3), block]) is None


def test_a_watched_block_is_left_to_the_plain_graph() -> None:
    block = conv_block((3, 8, 8), 4)
    block.get_submodule("weights").register_forward_hook(lambda *_: None)
    assert fused_blocks([block]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"weights": nn.Conv2d(3, 4, 3, padding=1)},
        {"weights": nn.Conv2d(3, 4, 3, padding=1, bias=False, stride=2)},
        {"weights": nn.Conv2d(3, 4, 5, padding=1, bias=False)},
        {"weights": nn.Conv2d(3, 4, 3, padding=1, bias=False, padding_mode="circular")},
        {"normalize": nn.BatchNorm2d(3, affine=False)},
        {"normalize": nn.BatchNorm2d(3, track_running_stats=False)},
        {"normalize": nn.BatchNorm2d(3, momentum=None)},
        {"normalize": nn.InstanceNorm2d(3)},
        {"activation": nn.GELU()},
        {"pool": nn.AvgPool2d(2)},
        {"pool": nn.MaxPool2d(3)},
    ],
    ids=str,
)
def test_a_part_that_computes_something_else_is_left_to_the_plain_graph(
    change: dict[str, nn.Module],
) -> None:
    block = conv_block((3, 8, 8), 4, pool=True)
    assert fused_blocks([block]) is not None
    for name, module in change.items():
        setattr(block, name, module)
    assert fused_blocks([block]) is None


def relative_errors(precision: str, seed: int, *, fused: bool) -> list[float]:
    """Of every parameter's gradient of a pair loss, against the plain graph in float64."""
    torch.manual_seed(seed)
    exact = conv_blocks((True, False), "batch")
    x = torch.randn(48, 3, 16, 12)
    fast = copy.deepcopy(exact).float()

    def gradients_of(moments: ChannelSums, blocks: nn.ModuleList) -> tuple[Tensor, ...]:
        loss = symmetric_loss(*mean_square(moments).chunk(2))
        return torch.autograd.grad(loss, list(blocks.parameters()))

    expected = gradients_of(moments_of(exact[1](exact[0](x))), exact)
    with autocast(precision, x.device):
        stages = fused_blocks(fast)
        assert stages is not None
        if fused:
            features, moments = run_window(stages, x.float())
        else:
            features = fast[1](fast[0](x.float()))
            moments = moments_of(features.float())
    assert features.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    found = gradients_of(moments, fast)
    return [float((f.double() - e).norm() / e.norm()) for e, f in zip(expected, found, strict=True)]


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("bf16", 0.2)])
def test_gradients_err_as_little_as_the_precision_makes_the_plain_graph_err(
    precision: str, most: float
) -> None:
    fused, plain = (
        torch.tensor([relative_errors(precision, seed, fused=f) for seed in range(9)]).median(0).values
        for f in (True, False)
    )
    assert bool((plain > 0).all())
    assert bool((fused < most).all())
    assert bool((fused < 5 * plain).all())


def test_a_learner_fuses_convolutions_with_enough_work_and_what_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fused: list[int] = []

    def counted(stages: Sequence[FusedBlock], x: Tensor, **options: Any) -> tuple[Tensor, ChannelSums]:
        fused.append(len(stages))
        return run_window(stages, x, **options)

    monkeypatch.setattr(window_loss_module, "run_window", counted)
    # The first response: 12 samples, or 6 without negatives, of 3 channels of 8×8 numbers of 8 bytes.
    pairs, alone = 12 * 3 * 8 * 8 * 8, 6 * 3 * 8 * 8 * 8
    for method, network, least, choice, expected in [
        ("trifecta", "small", 0, None, [2, 2, 2]),
        ("trifecta", "small", pairs, None, [2]),
        ("trifecta", "small", pairs + 1, None, []),
        ("superfecta", "small", 4 * alone, None, [1]),
        ("superfecta", "small", 4 * (alone + 1), None, []),
        ("trifecta", "small", 0, False, []),
        ("trifecta", "small", 2**60, True, [2, 2, 2]),
        ("trifecta", "mlp", 0, None, []),
        ("trifecta", "mlp", 0, True, [2, 2]),
    ]:
        fused.clear()
        monkeypatch.setattr(window_loss_module, "LEAST_KERNEL_BYTES", least)
        built = build_network(
            get_method(method), network, sample_shape=(1, 8, 8), num_classes=3, width=0.02
        )
        Learner(built.double(), kernels=choice).step(torch.randn(6, 1, 8, 8), torch.arange(6) % 3)
        assert fused == expected


@pytest.mark.parametrize("network", ["small", "mlp"])
def test_a_loss_that_skips_samples_is_fused(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_loss_module, "LEAST_KERNEL_BYTES", 2**60)
    options: list[dict[str, Any]] = []

    def counted(blocks: Sequence[FusedBlock], x: Tensor, **given: Any) -> tuple[Tensor, ChannelSums]:
        options.append(given)
        return run_window(blocks, x, **given)

    monkeypatch.setattr(window_loss_module, "run_window", counted)
    skipping = replace(get_method("trifecta"), objective=Symmetric(skip_settled=0.5))
    built = build_network(skipping, network, sample_shape=(1, 8, 8), num_classes=3, width=0.02)
    Learner(built.double()).step(torch.randn(6, 1, 8, 8), torch.arange(6) % 3)
    assert options
    assert all(o["skip_zero_rows"] for o in options)


def test_windows_with_running_statistics_take_the_plain_graph() -> None:
    assert fused_blocks([conv_block((2, 8, 8), 3, BlockStyle(normalization="running"))]) is None


def test_a_window_that_flattens_maps_on_its_way_takes_the_plain_graph() -> None:
    assert fused_blocks([conv_block((2, 4, 4), 3), linear_block(48, 5)]) is None
    assert fused_blocks([linear_block(48, 5), linear_block(5, 5)]) is not None
    network = build_network(
        get_method("trifecta"), "vgg8b", sample_shape=(1, 16, 16), num_classes=3, width=0.02
    )
    learner = Learner(network, kernels=True)
    for _ in range(2):
        losses = learner.step(torch.randn(4, 1, 16, 16), torch.arange(4) % 3)
    assert losses[-1] is not None
    assert losses[-1].isfinite()


@pytest.mark.parametrize("patches", [1, 2, 4])
@pytest.mark.parametrize("pools", [(False,), (True,), (True, False), (False, True)], ids=str)
def test_patch_means_have_the_gradients_of_the_plain_graph(pools: tuple[bool, ...], patches: int) -> None:
    blocks, x = conv_blocks(pools, "batch"), torch.randn(7, 3, 16, 8)
    found = []
    for fused in (True, False):
        copied, images = copy.deepcopy(blocks), x.clone().requires_grad_()
        if fused:
            stages = fused_blocks(copied)
            assert stages is not None
            features, moments = run_window(stages, images, patches=patches)
            means = moments.patch_means
            assert means is not None
        else:
            features = images
            for block in copied:
                features = block(features)
            means, moments = patch_means(features, patches), moments_of(features)
        # Beside other gradients, and alone.
        for loss in (weighted(means), weighted(means) + LOSSES["all"](features, moments)):
            inputs = [images, *copied.parameters()]
            found.append([means, *torch.autograd.grad(loss, inputs, retain_graph=True)])
    for ours, expected in zip(found[:2], found[2:], strict=True):
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.detach().abs().max()))


def test_sums_that_nobody_reads_are_left_out_and_change_no_gradient() -> None:
    blocks, x = conv_blocks((True, False), "batch"), torch.randn(7, 3, 8, 8, requires_grad=True)
    stages = fused_blocks(blocks)
    assert stages is not None
    found = []
    for wants_sums in (True, False):
        features, moments = run_window(stages, x, patches=2, wants_sums=wants_sums)
        assert moments.patch_means is not None
        assert bool(moments.sums.numel()) == bool(moments.squares.numel()) == wants_sums
        loss = weighted(moments.patch_means) + weighted(features.contiguous())
        found.append(torch.autograd.grad(loss, [x, *blocks.parameters()]))
    for a, b in zip(*found, strict=True):
        assert a.equal(b)
