"""Published networks block by block, at full width on PyTorch's device without storage."""

import math

import pytest
import torch
from torch import Tensor, nn

from trifecta.nn.blocks import BlockStyle
from trifecta.nn.networks import NETWORKS, UNSHRINKABLE, get_network, layout_builder
from trifecta.nn.norms import NormSite

META = torch.device("meta")
# Images of 32×48: (channels, height) of each block; a map is half as wide again as it is high.
BLOCKS: dict[str, list[tuple[int, int]]] = {
    # Dooms et al. 2023.
    "small": [(128, 16), (128, 16), (256, 8), (256, 8), (256, 8), (512, 4)],
    "large": [
        *((64, 32), (128, 16), (128, 16), (128, 16), (128, 16), (256, 8)),
        *((256, 8), (256, 8), (256, 8), (512, 4), (512, 4), (512, 4)),
    ],
    # Nøkland & Eidnes 2019.
    "vgg8b": [(128, 32), (256, 16), (256, 16), (512, 8), (512, 4), (512, 2), (1024, 0)],
    "vgg11b": [
        *((128, 32), (128, 32), (128, 32), (256, 16), (256, 16)),
        *((512, 8), (512, 8), (512, 4), (512, 2), (1024, 0)),
    ],
    # He et al. 2016, ResNet-18 for small images.
    "resnet": [
        *((64, 32), (64, 32), (64, 32), (128, 16), (128, 16)),
        *((256, 8), (256, 8), (512, 4), (512, 4)),
    ],
    # Hinton 2022.
    "mlp": [(2000, 0)] * 4,
}
WEIGHTS = {"small": 2.8e6, "large": 8.5e6, "vgg8b": 8.9e6, "vgg11b": 11.6e6, "resnet": 11.2e6}


def outputs(blocks: nn.Sequential, *shape: int) -> list[tuple[int, ...]]:
    x, found = torch.empty(2, *shape, device=META), []
    for block in blocks:
        x = block(x)
        found.append(tuple(x.shape[1:]))
    return found


def expected(name: str, share: float = 1.0) -> list[tuple[int, ...]]:
    return [
        (round(channels * share), *((height, height * 3 // 2) if height else ()))
        for channels, height in BLOCKS[name]
    ]


@pytest.mark.parametrize(
    ("width", "words"),
    [
        (0.0, "a width multiplies channels and must be above 0: received 0.0"),
        (math.inf, "a width multiplies channels and must be above 0: received inf"),
        (0.0019, "width 0.0019 leaves none of 128 channels: give 0.008 or more"),
    ],
)
def test_widths_that_leave_no_channels(width: float, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        built("small", width=width)


def test_a_quarter_of_a_channel_is_one_channel() -> None:
    assert [shape[0] for shape in outputs(built("small", width=1 / 512), 3, 32, 48)] == [1] * 6


def built(name: str, shape: tuple[int, ...] = (3, 32, 48), **options: object) -> nn.Sequential:
    with META:
        return get_network(name)(shape, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BLOCKS)
def test_channels_and_sizes_are_the_published_ones(name: str) -> None:
    assert outputs(built(name), 3, 32, 48) == expected(name)
    assert outputs(built(name, width=0.25), 3, 32, 48) == expected(name, 0.25)
    if name in WEIGHTS:
        weights = sum(p.numel() for p in built(name, (3, 32, 32)).parameters())
        assert weights == pytest.approx(WEIGHTS[name], rel=0.01)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in UNSHRINKABLE])
def test_channels_may_be_given_block_by_block(name: str) -> None:
    channels = [k + 5 for k in range(len(BLOCKS[name]))]
    found = outputs(built(name, channels=channels), 3, 32, 48)
    assert [shape[0] for shape in found] == channels
    assert [shape[1:] for shape in found] == [shape[1:] for shape in expected(name)]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_has_the_style_and_the_first_knows_that_it_is(name: str) -> None:
    seen: list[NormSite] = []

    def noted(site: NormSite) -> nn.Module:
        seen.append(site)
        return nn.Identity()

    built(name, style=BlockStyle(normalization=noted, num_classes=7), width=0.05)
    whitens = name == "airbench"
    assert [site.first for site in seen] == [not whitens, *[False] * (len(seen) - 1)]
    assert {site.num_classes for site in seen} == {7}
    # A residual block has two.
    assert len(seen) == {"resnet": 17, "airbench": 6}.get(name, len(BLOCKS.get(name, ())))


class Expects(nn.Module):
    """Takes what it was told that it would receive."""

    def __init__(self, site: NormSite) -> None:
        super().__init__()
        self.shape = tuple(site.shape)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == self.shape
        return x


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_are_told_the_shape_that_they_receive(name: str) -> None:
    shape = (3, 19, 27)
    outputs(built(name, shape, style=BlockStyle(normalization=Expects), width=0.05), *shape)


@pytest.mark.parametrize(
    ("name", "least"), [("small", 8), ("large", 8), ("vgg8b", 16), ("vgg11b", 16), ("airbench", 9)]
)
def test_the_smallest_images(name: str, least: int) -> None:
    outputs(built(name, (3, least, least), width=0.05), 3, least, least)
    for shape in ((3, least - 1, 40), (3, 40, least - 1)):
        received = f"received {shape[1]}×{shape[2]}; use image_size={least} or more"
        with pytest.raises(ValueError, match=f"{received}$"):
            built(name, shape)


@pytest.mark.parametrize(
    ("name", "shape", "options", "words"),
    [
        (
            "small",
            (3, 32),
            {},
            r"this network takes images \(C, H, W\): received samples of shape \(3, 32\); use "
            "network mlp, or blocks of your own",
        ),
        (
            "small",
            (3, 32, 32),
            {"channels": (1, 2)},
            "channels are one number for each of the 6 blocks: received 2",
        ),
        (
            "mlp",
            (9,),
            {"channels": (1, 2, 3, 2**20 + 1)},
            "a block has 1,048,576 channels at most: received 1,048,577",
        ),
    ],
)
def test_what_no_network_takes(
    name: str, shape: tuple[int, ...], options: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        built(name, shape, **options)


def test_a_layout_makes_a_network() -> None:
    builder = layout_builder("tiny", "4P 10 8F", "Three blocks.")
    assert builder.__doc__ == "Three blocks."
    assert (builder.__module__, builder.__name__) == (layout_builder.__module__, "tiny")  # type: ignore[attr-defined]
    with META:
        assert outputs(builder((3, 6, 8)), 3, 6, 8) == [(4, 3, 4), (10, 3, 4), (8,)]
        with pytest.raises(ValueError, match="takes images"):
            layout_builder("tiny", "4 8F", "")((5,))


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"^unknown network 'smal': did you mean small"):
        get_network("smal")


def test_the_most_channels() -> None:
    assert outputs(built("mlp", (9,), channels=(1, 1, 1, 2**20)), 9)[-1] == (2**20,)
