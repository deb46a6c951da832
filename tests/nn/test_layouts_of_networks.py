"""Published networks block by block, at full width on PyTorch's device without storage."""

import pytest
import torch
from torch import nn

from trifecta.nn.blocks import BlockStyle
from trifecta.nn.networks import NETWORKS, UNSHRINKABLE, get_network
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


@pytest.mark.parametrize(
    ("name", "least"), [("small", 8), ("large", 8), ("vgg8b", 16), ("vgg11b", 16), ("airbench", 9)]
)
def test_the_smallest_images(name: str, least: int) -> None:
    outputs(built(name, (3, least, least), width=0.05), 3, least, least)
    for shape in ((3, least - 1, 40), (3, 40, least - 1)):
        with pytest.raises(ValueError, match=f"use --image-size {least} or more$"):
            built(name, shape)
