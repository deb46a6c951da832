"""Networks by name, as blocks in order.

Shapes: N images (N, C, H, W).
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial, update_wrapper
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta._utils.references import lookup
from trifecta.nn.blocks import PLAIN, BlockStyle, Dropout, ResidualBlock, conv_block, linear_block
from trifecta.nn.convolution import Convolution3x3
from trifecta.nn.shapes import MOST_UNITS, SampleShape

# Smallest width at which a channel is still rounded up to one.
LEAST_WIDTH = 0.25


class NetworkBuilder(Protocol):
    """Builds the blocks of a network."""

    __doc__: str | None

    def __call__(
        self, input_shape: SampleShape, *, width: float = 1.0, style: BlockStyle = PLAIN
    ) -> nn.Sequential:
        """Return the blocks in order, for inputs (N, *input_shape).

        A network can be shrunk if its builder also takes ``channels``, one number for each block in place
        of ``width``.
        """
        ...


# Number of channels of each block, P if it pools, F for units of a fully connected block.
LAYOUTS = {
    "mlp": (
        "2000F 2000F 2000F 2000F",
        "4 fully connected blocks of 2000 ReLU units (Hinton 2022, the MNIST network).",
    ),
    "small": (
        "128P 128 256P 256 256 512P",
        "6 convolutional blocks, 128P-128-256P-256-256-512P (Dooms et al. 2023), 2.8 M weights.",
    ),
    "large": (
        "64 128P 128 128 128 256P 256 256 256 512P 512 512",
        "12 convolutional blocks, 64 to 512 channels, 3 poolings (Dooms et al. 2023), 8.5 M weights.",
    ),
    "vgg8b": (
        "128 256P 256 512P 512P 512P 1024F",
        "6 convolutional blocks and a fully connected one (Nøkland & Eidnes 2019), 8.9 M weights.",
    ),
    "vgg11b": (
        "128 128 128 256P 256 512P 512 512P 512P 1024F",
        "9 convolutional blocks and a fully connected one (Nøkland & Eidnes 2019), 11.6 M weights.",
    ),
}


def _by_layout(
    layout: str,
    input_shape: SampleShape,
    *,
    width: float = 1.0,
    style: BlockStyle = PLAIN,
    channels: Sequence[int] = (),
) -> nn.Sequential:
    words = layout.split()
    if channels and len(channels) != len(words):
        raise ValueError(
            f"channels are one number for each of the {len(words)} blocks: received {len(channels)}"
        )
    if not words[0].endswith("F"):
        _check_images(input_shape, 2 ** layout.count("P"))
    shape, blocks = tuple(input_shape), nn.Sequential()
    for k, word in enumerate(words):
        size = _bounded(channels[k]) if channels else _scaled(int(word.rstrip("PF")), width)
        if word.endswith("F"):
            blocks.append(linear_block(math.prod(shape), size, style, first=k == 0))
            shape = (size,)
        else:
            pool = word.endswith("P")
            blocks.append(conv_block(shape, size, style, pool=pool, first=k == 0))
            shape = (size, shape[1] // (1 + pool), shape[2] // (1 + pool))
    return blocks


def layout_builder(name: str, layout: str, description: str) -> NetworkBuilder:
    """Return the builder of a layout such as ``128P 128 256F``, see ``LAYOUTS``."""
    builder: Any = update_wrapper(partial(_by_layout, layout), _by_layout)
    builder.__name__ = builder.__qualname__ = name
    builder.__doc__ = description
    built: NetworkBuilder = builder
    return built


def resnet(input_shape: SampleShape, *, width: float = 1.0, style: BlockStyle = PLAIN) -> nn.Sequential:
    """A convolution and 8 residual blocks, 64 to 512 channels (ResNet-18, He et al. 2016), 11 M weights."""
    _check_images(input_shape)
    _, height, image_width = input_shape
    shape = (_scaled(64, width), height, image_width)
    blocks = nn.Sequential(conv_block(input_shape, shape[0], style, first=True))
    for size, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        channels = _scaled(size, width)
        blocks.append(ResidualBlock(shape, channels, style, stride=stride))
        shape = (channels, -(-shape[1] // stride), -(-shape[2] // stride))
    return blocks


class PatchWhitening(nn.Module):
    """Fixed filters that whiten 2×2 patches, and their negatives: (N, C, H, W) → (N, 8C, H−1, W−1).

    Filter i is eigenvector i of ``E[patch patchᵀ]`` over the root of its eigenvalue plus 5e-4; single
    pixels before :meth:`fit_images`.
    """

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", _both_signs(torch.eye(4 * channels), channels))

    @torch.no_grad()
    def fit_images(self, images: Tensor) -> None:
        """Fit filters to normalised training images (N, C', H, W); other channels keep theirs."""
        own, channels = images.shape[1], self.weight.shape[1]
        size = 4 * own
        # (N, C'·4, positions) → (N·positions, C'·4), in float64 because eigenvectors are ill-conditioned.
        patches = F.unfold(images.double(), 2).movedim(1, 2).reshape(-1, size)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = torch.eye(4 * channels, dtype=torch.float64, device=images.device)
        filters[:size, :size] = vectors.T / (values.unsqueeze(1) + 5e-4).sqrt()
        self.weight.copy_(_both_signs(filters, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 8C, H−1, W−1)."""
        return F.conv2d(x, self.weight.to(x.dtype))


def _both_signs(filters: Tensor, channels: int) -> Tensor:
    """(4C, 4C) → (8C, C, 2, 2)."""
    return torch.cat([filters, -filters]).view(-1, channels, 2, 2)


def airbench(input_shape: SampleShape, *, width: float = 1.0, style: BlockStyle = PLAIN) -> nn.Sequential:
    """Patch whitening and 6 convolutional blocks, 64P-64-256P-256-256P-256 (Jordan 2024), 2.0 M weights.

    Each block is convolution → pool → normalise → GELU. As in the published code (arXiv 2404.00498), fixed
    filters of training images whiten 2×2 patches, convolutions start as the identity, batch normalisation
    has a short memory, a trainable bias and no gain, and the last block takes the maximum over all
    positions. The filters' bias is left out: accuracy does not need it, and without it no gradient has to
    reach the largest maps.
    """
    _check_images(input_shape, 9)
    channels, height, image_width = input_shape
    shape = (channels, height - 1, image_width - 1)
    blocks = nn.Sequential()
    for k, size in enumerate((64, 64, 256, 256, 256, 256)):
        parts = OrderedDict[str, nn.Module]()
        if k == 0:
            parts["whiten"], parts["whitened"] = PatchWhitening(channels), nn.GELU()
            shape = (8 * channels, *shape[1:])
        pool, size = k % 2 == 0, _scaled(size, width)
        convolution = Convolution3x3(shape[0], size, pool=pool)
        nn.init.dirac_(convolution.weight.data[: min(shape[0], size)])
        shape = (size, shape[1] // (1 + pool), shape[2] // (1 + pool))
        norm = style.norm(shape)
        if isinstance(norm, nn.BatchNorm2d) and norm.weight is not None:
            norm.momentum = 0.4
            norm.weight.requires_grad_(False)
        # A head that reads the response reads what comes before the activation.
        parts["weights"] = nn.Sequential(OrderedDict(convolution=convolution, normalize=norm))
        parts["activation"] = nn.GELU()
        if style.dropout:
            parts["dropout"] = Dropout(style.dropout)
        if k == 5:
            parts["maximum"] = nn.AdaptiveMaxPool2d(1)
        blocks.append(nn.Sequential(parts))
    return blocks


def _check_images(input_shape: SampleShape, smallest: int = 1) -> None:
    if len(input_shape) != 3:
        raise ValueError(
            f"this network takes images (C, H, W): received samples of shape {tuple(input_shape)}; use "
            "network mlp, or blocks of your own"
        )
    if min(input_shape[1:]) < smallest:
        raise ValueError(
            f"this network halves its images until {smallest}×{smallest} pixels become one: "
            f"received {input_shape[1]}×{input_shape[2]}; use image_size={smallest} or more"
        )


def _scaled(size: int, width: float) -> int:
    if not 0 < width < math.inf:
        raise ValueError(f"a width multiplies channels and must be above 0: received {width}")
    if size * width < LEAST_WIDTH:
        raise ValueError(f"width {width:g} leaves none of {size} channels: give {1 / size:.1g} or more")
    return _bounded(max(1, round(size * width)))


def _bounded(size: int) -> int:
    if size > MOST_UNITS:
        raise ValueError(f"a block has {MOST_UNITS:,} channels at most: received {size:,}")
    return size


NETWORKS: dict[str, NetworkBuilder] = {
    **{name: layout_builder(name, *layout) for name, layout in LAYOUTS.items()},
    "resnet": resnet,
    "airbench": airbench,
}
# Their blocks cannot lose channels: two sides of a sum must match, and whitening has a fixed number.
UNSHRINKABLE = ("resnet", "airbench")


def get_network(name: str) -> NetworkBuilder:
    """Return the builder of the network called ``name``; raise ValueError with the nearest names."""
    return lookup(NETWORKS, name, "network")
