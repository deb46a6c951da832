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

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.nn.blocks import BlockStyle, Dropout
from trifecta.nn.convolution import Convolution3x3

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
