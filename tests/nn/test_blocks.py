"""Blocks part by part: order, names, sizes, and what a residual block computes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.nn.blocks import (
    BlockStyle,
    Dropout,
    ResidualBlock,
    Triangle,
    conv_block,
    linear_block,
    split_block,
)
from trifecta.nn.norms import NORMALIZATIONS, NormSite

IMAGE = (3, 5, 7)


def features(*shape: int) -> Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Sites:
    """A normalisation that notes where it was asked to stand."""

    def __init__(self) -> None:
        self.seen: list[NormSite] = []

    def __call__(self, site: NormSite) -> nn.Module:
        self.seen.append(site)
        return nn.Identity()


@pytest.mark.parametrize(
    ("style", "pool", "names"),
    [
        (BlockStyle(), False, ["normalize", "weights", "activation"]),
        (BlockStyle(), True, ["normalize", "weights", "activation", "pool"]),
        (BlockStyle(dropout=0.3), True, ["normalize", "weights", "activation", "dropout", "pool"]),
        (BlockStyle(normalization="batch-output"), False, ["weights", "activation", "normalize"]),
        (
            BlockStyle(normalization="batch-output", dropout=0.3),
            True,
            ["weights", "activation", "dropout", "pool", "normalize"],
        ),
    ],
)
def test_parts_of_a_convolutional_block(style: BlockStyle, pool: bool, names: list[str]) -> None:
    block = conv_block(IMAGE, 6, style, pool=pool)
    assert [name for name, _ in block.named_children()] == names
    x = features(*IMAGE)
    assert block.double()(x).shape == ((4, 6, 2, 3) if pool else (4, 6, 5, 7))
    sizes = {name: tuple(p.shape) for name, p in block.get_submodule("weights").named_parameters()}
    bias = {"bias": (6,)} if style.at_output else {}
    assert sizes == {"weight": (6, 3, 3, 3)} | bias
    if style.dropout:
        layer = block.get_submodule("dropout")
        assert isinstance(layer, Dropout)
        assert layer.p == 0.3


def test_a_fully_connected_block_flattens_first() -> None:
    block = linear_block(105, 6, BlockStyle(dropout=0.3, activation="triangle")).double()
    names = ["flatten", "normalize", "weights", "activation", "dropout"]
    assert [name for name, _ in block.named_children()] == names
    assert isinstance(block.get_submodule("activation"), Triangle)
    assert block.get_submodule("weights").get_parameter("bias").shape == (6,)
    assert block(features(*IMAGE)).shape == (4, 6)


@pytest.mark.parametrize("first", [False, True])
def test_a_norm_knows_its_place(first: bool) -> None:
    sites = Sites()
    style = BlockStyle(normalization=sites, num_classes=9)
    conv_block(IMAGE, 6, style, first=first)
    linear_block(105, 6, style, first=first)
    assert sites.seen == [
        NormSite(shape=IMAGE, first=first, num_classes=9),
        NormSite(shape=(105,), first=first, num_classes=9),
    ]
    conv_block(IMAGE, 6, style)
    linear_block(105, 6, style)
    assert not any(site.first for site in sites.seen[2:])


@pytest.mark.parametrize(("pool", "size"), [(False, (5, 7)), (True, (2, 3))])
def test_a_norm_behind_a_block_knows_the_size_that_the_block_leaves(
    pool: bool, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = Sites()
    monkeypatch.setitem(NORMALIZATIONS, "batch-output", sites)
    style = BlockStyle(normalization="batch-output", num_classes=9)
    conv_block(IMAGE, 6, style, pool=pool, first=True)
    linear_block(105, 6, style)
    ResidualBlock(IMAGE, 6, style, stride=2)
    assert [(site.shape, site.first, site.num_classes) for site in sites.seen] == [
        ((6, *size), False, 9),
        ((6,), False, 9),
        ((6, 3, 4), False, 9),
    ]


def test_norms_inside_a_residual_block_know_their_places() -> None:
    sites = Sites()
    ResidualBlock(IMAGE, 6, BlockStyle(normalization=sites, num_classes=9), stride=2)
    assert [(site.shape, site.first) for site in sites.seen] == [(IMAGE, False), ((6, 3, 4), False)]


@pytest.mark.parametrize(("channels", "stride"), [(3, 1), (3, 2), (6, 1), (6, 2), (3, 3)])
@pytest.mark.parametrize("normalization", ["batch", "batch-output"])
def test_a_residual_block_is_its_formula(channels: int, stride: int, normalization: str) -> None:
    block = ResidualBlock(IMAGE, channels, BlockStyle(normalization=normalization), stride=stride).double()
    x = features(*IMAGE)
    weights = [p for p in block.parameters() if p.ndim == 4]
    is_changed = stride > 1 or channels != 3
    assert len(weights) == 2 + is_changed

    def normalised(y: Tensor, eps: float = 1e-5) -> Tensor:
        return F.batch_norm(y, None, None, training=True, eps=eps)

    y = F.relu(F.conv2d(normalised(x), weights[0], stride=stride, padding=1))
    y = F.conv2d(normalised(y), weights[1], padding=1)
    y = F.relu(y + (F.conv2d(x, weights[2], stride=stride) if is_changed else x))
    torch.testing.assert_close(block(x), normalised(y, 1e-4) if normalization == "batch-output" else y)
    biases = {name for name, p in block.named_parameters() if name.endswith("bias")}
    assert len(biases) == 2 + (normalization == "batch-output")


def test_a_residual_block_keeps_the_size_unless_it_is_told_another() -> None:
    block = ResidualBlock((4, 6, 6), 4)
    assert isinstance(block.shortcut, nn.Identity)
    assert block(torch.randn(2, 4, 6, 6)).shape == (2, 4, 6, 6)


def test_a_residual_block_drops_out_behind_the_sum() -> None:
    block = ResidualBlock(IMAGE, 3, BlockStyle(dropout=0.25))
    assert [type(module) for module in block.after] == [nn.ReLU, Dropout]
    assert block.after[1].p == 0.25
    own = ResidualBlock(IMAGE, 3, BlockStyle(activation="triangle"))
    assert [type(module) for module in own.after] == [Triangle]


@pytest.mark.parametrize(
    ("reads", "front"),
    [
        ("output", ["normalize", "weights", "activation", "dropout", "pool"]),
        ("unpooled", ["normalize", "weights", "activation"]),
        ("response", ["normalize", "weights"]),
    ],
)
def test_a_block_is_split_where_a_head_reads(reads: str, front: list[str]) -> None:
    block = conv_block(IMAGE, 6, BlockStyle(dropout=0.3), pool=True).double().eval()
    first, second = split_block(block, reads)
    assert [name for name, _ in first.named_children()] == front
    x = features(*IMAGE)
    assert torch.equal(second(first(x)), block(x))


def test_what_cannot_be_looked_into_or_ends_there_stays_whole() -> None:
    block = conv_block(IMAGE, 6)
    front, back = split_block(block, "unpooled")
    assert [name for name, _ in front.named_children()] == ["normalize", "weights", "activation"]
    assert type(back) is nn.Identity

    class Own(nn.Sequential):
        """Has a forward pass of its own."""

    for whole in (ResidualBlock(IMAGE, 3), Own(*block), nn.Sequential(nn.ReLU())):
        front, back = split_block(whole, "response")
        assert front is whole
        assert type(back) is nn.Identity
    named = Own()
    named.add_module("weights", nn.Linear(2, 2))
    assert split_block(named, "response")[0] is named
