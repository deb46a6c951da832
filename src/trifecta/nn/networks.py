"""The network behind 94% on CIFAR-10 in seconds, in blocks that can learn alone.

Source: Jordan 2024, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU* (arXiv 2404.00498), and its published
code. Taken from there: filters that whiten 2×2 patches, made of training images and fixed; convolutions
that begin as the identity; pooling ahead of normalisation; batch normalisation of short memory, with a bias
that learns and no gain; GELU. Left out is the filters' bias, which learns there for three epochs: accuracy
is as good without it, and no gradient has to reach the largest maps (docs/fast.md). The optimizer, label
smoothing and augmentation are settings of a run.

Nothing here looks at a later block, so strictly local blocks may use all of it.

Shapes: N images (N, C, H, W).
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta._utils.checks import MOST_UNITS
from trifecta._utils.references import lookup
from trifecta.nn.blocks import BlockStyle, Dropout, ResidualBlock, conv_block, linear_block
from trifecta.nn.convolution import Convolution3x3
from trifecta.nn.shapes import SampleShape

LAYOUT = "64P 64 256P 256 256P 256"
PATCH = 2
# Share of a batch's statistics in the running ones.
NEW_SHARE = 0.4


class PatchWhitening(nn.Module):
    """Filters that whiten 2×2 patches, and their negatives: (N, C, H, W) → (N, 8C, H−1, W−1).

    Filter i is eigenvector i of ``E[patch patchᵀ]`` over the root of its eigenvalue plus 5e-4. Nothing
    learns. Until :meth:`fit_images` is called, the filters are those of white images: single pixels.
    """

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", _both_signs(torch.eye(channels * PATCH**2), channels))

    @torch.no_grad()
    def fit_images(self, images: Tensor) -> None:
        """Make the filters of normalised training images (N, C', H, W).

        Channels beyond C', such as a label's, keep filters of single pixels.
        """
        own, channels = images.shape[1], self.weight.shape[1]
        size = own * PATCH**2
        # (N, C'·4, positions) → (N·positions, C'·4), in float64: eigenvectors of near equals are delicate.
        patches = F.unfold(images.double(), PATCH).movedim(1, 2).reshape(-1, size)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = torch.eye(channels * PATCH**2, dtype=torch.float64, device=images.device)
        filters[:size, :size] = vectors.T / (values.unsqueeze(1) + 5e-4).sqrt()
        self.weight.copy_(_both_signs(filters, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 8C, H−1, W−1)."""
        return F.conv2d(x, self.weight.to(x.dtype))


def _both_signs(filters: Tensor, channels: int) -> Tensor:
    """(4C, 4C) → (8C, C, 2, 2)."""
    return torch.cat([filters, -filters]).view(-1, channels, PATCH, PATCH)


def airbench_blocks(
    input_shape: Sequence[int], sizes: Sequence[int], style: BlockStyle
) -> list[nn.Sequential]:
    """Blocks of so many channels: convolution → pool → normalise → GELU, the first behind the whitening.

    (C, H, W) of 4×4 pixels or more; every other block halves H and W, and the last ends in one position,
    the maximum over all.
    """
    blocks = []
    channels = input_shape[0]
    height, width = (side - 1 for side in input_shape[1:])
    for k, size in enumerate(sizes):
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if k == 0:
            parts["whiten"], parts["whitened"] = PatchWhitening(channels), nn.GELU()
            channels *= 2 * PATCH**2
        pool = k % 2 == 0
        weights: OrderedDict[str, nn.Module] = OrderedDict(
            convolution=_convolution(channels, size, pool=pool)
        )
        if pool:
            height, width = height // 2, width // 2
        weights["normalize"] = _normalization((size, height, width), style)
        # All that comes before the activation is the response.
        parts["weights"] = nn.Sequential(weights)
        parts["activation"] = nn.GELU()
        if style.dropout:
            parts["dropout"] = Dropout(style.dropout)
        if k == len(sizes) - 1:
            parts["maximum"] = nn.AdaptiveMaxPool2d(1)
        blocks.append(nn.Sequential(parts))
        channels = size
    return blocks


def _convolution(channels: int, size: int, *, pool: bool) -> Convolution3x3:
    """A convolution that begins by passing on what it receives, in its first filters."""
    layer = Convolution3x3(channels, size, pool=pool)
    nn.init.dirac_(layer.weight.data[: min(channels, size)])
    return layer


def _normalization(shape: Sequence[int], style: BlockStyle) -> nn.Module:
    norm = style.norm(shape)
    if isinstance(norm, nn.BatchNorm2d) and norm.weight is not None:
        norm.momentum = NEW_SHARE
        norm.weight.requires_grad_(False)
    return norm


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
