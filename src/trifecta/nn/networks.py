"""Networks: ordered blocks, first to last, and nothing about how they learn.

Each builder takes the shape (C, H, W) of what the first block receives and returns a sequence of blocks.
``width`` multiplies every number of channels or units and may be below 1.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from torch import nn

from trifecta._utils.checks import MOST_UNITS
from trifecta._utils.names import lookup
from trifecta.nn.airbench import LAYOUT, airbench_blocks
from trifecta.nn.blocks import BlockStyle, ResidualBlock, conv_block, linear_block
from trifecta.nn.shapes import SampleShape

_PLAIN = BlockStyle()
Channels = Sequence[int]
# The share of a channel that is still rounded up to one.
LEAST_WIDTH = 0.25


class NetworkBuilder(Protocol):
    """Builds blocks for inputs (C, H, W)."""

    __doc__: str | None

    def __call__(
        self, input_shape: SampleShape, *, width: float = 1.0, style: BlockStyle = _PLAIN
    ) -> nn.Sequential:
        """Return the blocks in order.

        One that takes ``channels`` too, the number of each block's in place of ``width``, can be shrunk.
        """
        ...


def mlp(
    input_shape: SampleShape,
    *,
    width: float = 1.0,
    style: BlockStyle = _PLAIN,
    channels: Channels = (),
) -> nn.Sequential:
    """4 fully connected blocks of 2000 ReLU units (Hinton 2022, the MNIST network)."""
    sizes = [math.prod(input_shape), *_sizes([2000] * 4, width, channels)]
    return nn.Sequential(
        *(linear_block(a, b, style, first=k == 0) for k, (a, b) in enumerate(pairwise(sizes)))
    )


def small(
    input_shape: SampleShape,
    *,
    width: float = 1.0,
    style: BlockStyle = _PLAIN,
    channels: Channels = (),
) -> nn.Sequential:
    """6 convolutional blocks, 128P-128-256P-256-256-512P (Dooms et al. 2023), 2.8 M weights."""
    return _convolutional("128P 128 256P 256 256 512P", input_shape, width, style, channels)


def large(
    input_shape: SampleShape,
    *,
    width: float = 1.0,
    style: BlockStyle = _PLAIN,
    channels: Channels = (),
) -> nn.Sequential:
    """12 convolutional blocks, 64 to 512 channels, 3 poolings (Dooms et al. 2023), 8.5 M weights."""
    layout = "64 128P 128 128 128 256P 256 256 256 512P 512 512"
    return _convolutional(layout, input_shape, width, style, channels)


def vgg8b(
    input_shape: SampleShape,
    *,
    width: float = 1.0,
    style: BlockStyle = _PLAIN,
    channels: Channels = (),
) -> nn.Sequential:
    """6 convolutional blocks and a fully connected one (Nøkland & Eidnes 2019), 8.9 M weights."""
    return _vgg("128 256P 256 512P 512P 512P", 1024, input_shape, width, style, channels)


def vgg11b(
    input_shape: SampleShape,
    *,
    width: float = 1.0,
    style: BlockStyle = _PLAIN,
    channels: Channels = (),
) -> nn.Sequential:
    """9 convolutional blocks and a fully connected one (Nøkland & Eidnes 2019), 11.6 M weights."""
    layout = "128 128 128 256P 256 512P 512 512P 512P"
    return _vgg(layout, 1024, input_shape, width, style, channels)


def resnet(input_shape: SampleShape, *, width: float = 1.0, style: BlockStyle = _PLAIN) -> nn.Sequential:
    """A convolution and 8 residual blocks, 64 to 512 channels (ResNet-18, He et al. 2016), 11 M weights."""
    _check_images(input_shape)
    _, height, image_width = input_shape
    shape = (_scaled(64, width), height, image_width)
    blocks: list[nn.Module] = [conv_block(input_shape, shape[0], style, first=True)]
    for size, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        channels = _scaled(size, width)
        blocks.append(ResidualBlock(shape, channels, style, stride=stride))
        shape = (channels, -(-shape[1] // stride), -(-shape[2] // stride))
    return nn.Sequential(*blocks)


def airbench(
    input_shape: SampleShape,
    *,
    width: float = 1.0,
    style: BlockStyle = _PLAIN,
) -> nn.Sequential:
    """Patch whitening and 6 convolutional blocks, 64P-64-256P-256-256P-256 (Jordan 2024), 2.0 M weights."""
    _check_images(input_shape)
    _check_size(input_shape, 9)
    return nn.Sequential(*airbench_blocks(input_shape, _sizes(_layout_sizes(LAYOUT), width, ()), style))


def _vgg(
    layout: str,
    units: int,
    input_shape: SampleShape,
    width: float,
    style: BlockStyle,
    channels: Channels = (),
) -> nn.Sequential:
    """Convolutional blocks of a layout, then a fully connected block of so many units."""
    sizes = _sizes([*_layout_sizes(layout), units], width, channels)
    blocks = _convolutional(layout, input_shape, width, style, sizes[:-1])
    halvings = layout.count("P")
    features = sizes[-2] * (input_shape[1] >> halvings) * (input_shape[2] >> halvings)
    return blocks.append(linear_block(features, sizes[-1], style))


def _convolutional(
    layout: str, input_shape: SampleShape, width: float, style: BlockStyle, channels: Channels = ()
) -> nn.Sequential:
    """Blocks of a layout such as ``128P 256``: channels, and P where a block pools."""
    _check_images(input_shape)
    words = layout.split()
    smallest = 2 ** sum(word.endswith("P") for word in words)
    _check_size(input_shape, smallest)
    shape = input_shape
    blocks: list[nn.Module] = []
    for word, size in zip(words, _sizes(_layout_sizes(layout), width, channels), strict=True):
        pool = word.endswith("P")
        blocks.append(conv_block(shape, size, style, pool=pool, first=not blocks))
        shape = (size, shape[1] // (1 + pool), shape[2] // (1 + pool))
    return nn.Sequential(*blocks)


def _check_size(input_shape: SampleShape, smallest: int) -> None:
    if min(input_shape[1:]) < smallest:
        raise ValueError(
            f"this network halves its images until {smallest}×{smallest} pixels become one: "
            f"received {input_shape[1]}×{input_shape[2]}; use image_size={smallest} or more"
        )


def _layout_sizes(layout: str) -> list[int]:
    return [int(word.rstrip("P")) for word in layout.split()]


def _sizes(whole: Sequence[int], width: float, channels: Channels) -> list[int]:
    """Return the channels of each block: those that are given, or a share of the whole network's."""
    if channels and len(channels) != len(whole):
        raise ValueError(
            f"channels are one number for each of the {len(whole)} blocks: received {len(channels)}"
        )
    return [_bounded(size) for size in channels] or [_scaled(size, width) for size in whole]


def _bounded(size: int) -> int:
    if size > MOST_UNITS:
        raise ValueError(f"a block has {MOST_UNITS:,} channels at most: received {size:,}")
    return size


def _check_images(input_shape: SampleShape) -> None:
    if len(input_shape) != 3:
        raise ValueError(
            f"this network takes images (C, H, W): received samples of shape {tuple(input_shape)}; use "
            "network mlp, or blocks of your own"
        )


def _scaled(size: int, width: float) -> int:
    if not 0 < width < float("inf"):
        raise ValueError(f"a width multiplies channels and must be above 0: received {width}")
    if size * width < LEAST_WIDTH:
        raise ValueError(f"width {width:g} leaves none of {size} channels: give {1 / size:.1g} or more")
    return _bounded(max(1, round(size * width)))


NETWORKS: dict[str, NetworkBuilder] = {
    "mlp": mlp,
    "small": small,
    "large": large,
    "vgg8b": vgg8b,
    "vgg11b": vgg11b,
    "resnet": resnet,
    "airbench": airbench,
}


# Blocks that cannot lose channels: of a sum inside they would have two sides, whitening has a fixed number.
UNSHRINKABLE = ("resnet", "airbench")


def get_network(name: str) -> NetworkBuilder:
    """The builder of the network called ``name``.

    Raises:
        ValueError: no such network; names the nearest ones.
    """
    return lookup(NETWORKS, name, "network")
