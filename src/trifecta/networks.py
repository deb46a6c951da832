"""Networks: ordered blocks, first to last, and nothing about how they learn.

Each builder takes the shape (C, H, W) of what the first block receives and returns a sequence of blocks.
``width`` multiplies every number of channels or units and may be below 1.
"""

from itertools import pairwise
from typing import Protocol

from torch import nn

from trifecta.blocks import ResidualBlock, conv_block, linear_block
from trifecta.labels import ImageShape
from trifecta.names import lookup


class NetworkBuilder(Protocol):
    """Builds blocks for inputs (C, H, W)."""

    __doc__: str | None

    def __call__(
        self, input_shape: ImageShape, *, width: float = 1.0, normalization: str = "batch"
    ) -> nn.Sequential:
        """Return the blocks in order."""
        ...


def mlp(input_shape: ImageShape, *, width: float = 1.0, normalization: str = "batch") -> nn.Sequential:
    """4 fully connected blocks of 2000 ReLU units (Hinton 2022, the MNIST network)."""
    channels, height, image_width = input_shape
    sizes = [channels * height * image_width, *[_scaled(2000, width)] * 4]
    return nn.Sequential(*(linear_block(a, b, normalization=normalization) for a, b in pairwise(sizes)))


def small(input_shape: ImageShape, *, width: float = 1.0, normalization: str = "batch") -> nn.Sequential:
    """6 convolutional blocks, 128P-128-256P-256-256-512P (Dooms et al. 2023), 2.8 M weights."""
    layout = "128P 128 256P 256 256 512P"
    return _convolutional(layout, input_shape, width, normalization)


def large(input_shape: ImageShape, *, width: float = 1.0, normalization: str = "batch") -> nn.Sequential:
    """12 convolutional blocks, 64 to 512 channels, 3 poolings (Dooms et al. 2023), 8.5 M weights."""
    layout = "64 128P 128 128 128 256P 256 256 256 512P 512 512"
    return _convolutional(layout, input_shape, width, normalization)


def vgg8b(input_shape: ImageShape, *, width: float = 1.0, normalization: str = "batch") -> nn.Sequential:
    """6 convolutional blocks and a fully connected one (Nøkland & Eidnes 2019), 8.9 M weights."""
    layout = "128 256P 256 512P 512P 512P"
    return _vgg(layout, 1024, input_shape, width, normalization)


def vgg11b(input_shape: ImageShape, *, width: float = 1.0, normalization: str = "batch") -> nn.Sequential:
    """9 convolutional blocks and a fully connected one (Nøkland & Eidnes 2019), 11.6 M weights."""
    layout = "128 128 128 256P 256 512P 512 512P 512P"
    return _vgg(layout, 1024, input_shape, width, normalization)


def resnet(input_shape: ImageShape, *, width: float = 1.0, normalization: str = "batch") -> nn.Sequential:
    """A convolution and 8 residual blocks, 64 to 512 channels (ResNet-18, He et al. 2016), 11 M weights."""
    channels = _scaled(64, width)
    blocks: list[nn.Module] = [conv_block(input_shape[0], channels, normalization=normalization)]
    for size, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        out_channels = _scaled(size, width)
        blocks.append(ResidualBlock(channels, out_channels, normalization=normalization, stride=stride))
        channels = out_channels
    return nn.Sequential(*blocks)


def _vgg(
    layout: str, units: int, input_shape: ImageShape, width: float, normalization: str
) -> nn.Sequential:
    """Convolutional blocks of a layout, then a fully connected block of so many units."""
    blocks = _convolutional(layout, input_shape, width, normalization)
    halvings = layout.count("P")
    channels = _scaled(int(layout.split()[-1].rstrip("P")), width)
    features = channels * (input_shape[1] >> halvings) * (input_shape[2] >> halvings)
    return blocks.append(linear_block(features, _scaled(units, width), normalization=normalization))


def _convolutional(layout: str, input_shape: ImageShape, width: float, normalization: str) -> nn.Sequential:
    """Blocks of a layout such as ``128P 256``: channels, and P where a block pools."""
    words = layout.split()
    smallest = 2 ** sum(word.endswith("P") for word in words)
    if min(input_shape[1:]) < smallest:
        raise ValueError(
            f"this network halves its images until {smallest}×{smallest} pixels become one: "
            f"received {input_shape[1]}×{input_shape[2]}; use --image-size {smallest} or more"
        )
    channels = [input_shape[0], *(_scaled(int(word.rstrip("P")), width) for word in words)]
    return nn.Sequential(
        *(
            conv_block(a, b, normalization=normalization, pool=word.endswith("P"))
            for a, b, word in zip(channels, channels[1:], words, strict=False)
        )
    )


def _scaled(size: int, width: float) -> int:
    if not 0 < width < float("inf"):
        raise ValueError(f"a width multiplies channels and must be above 0: received {width}")
    return max(1, round(size * width))


NETWORKS: dict[str, NetworkBuilder] = {
    "mlp": mlp,
    "small": small,
    "large": large,
    "vgg8b": vgg8b,
    "vgg11b": vgg11b,
    "resnet": resnet,
}


def get_network(name: str) -> NetworkBuilder:
    """The builder of the network called ``name``.

    Raises:
        ValueError: no such network; names the nearest ones.
    """
    return lookup(NETWORKS, name, "network")
