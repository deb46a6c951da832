"""Blocks: normalise → weights → activation → pool, the unit that a schedule trains.

Shapes: N samples; a convolutional block maps (N, C, H, W) → (N, C', H', W'), a linear one flattens
whatever comes and maps (N, …) → (N, F').
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta._utils.references import part_of
from trifecta.nn.norms import AT_OUTPUT, NORMALIZATIONS, NormSite


class Triangle(nn.Module):
    """The excess of a channel over the mean of all channels at its position: ``relu(x − mean_c x_c)``.

    Source: Coates et al. 2011, as the published code of Chen et al. 2025 (SCFF) uses it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …)."""
        return F.relu(x - x.mean(1, keepdim=True))


class Dropout(nn.Dropout):
    """Dropout whose mask may come from a generator of its own.

    Attributes:
        generator: on the input's device; None for PyTorch's own.
    """

    generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) → (N, …)."""
        if self.generator is None or not self.training:
            return super().forward(x)
        kept = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * kept / (1 - self.p)


@contextmanager
def seeded_dropout(
    layers: Sequence[Dropout], device: torch.device, numbers: Sequence[int]
) -> Iterator[None]:
    """Let each layer draw from a generator of its own, seeded by ``numbers`` and its place.

    Masks then depend on nothing that ran before, and layers may draw at the same time.
    """
    for place, layer in enumerate(layers):
        seed = int(np.random.SeedSequence([*numbers, place]).generate_state(1)[0])
        layer.generator = torch.Generator(device).manual_seed(seed)
    try:
        yield
    finally:
        for layer in layers:
            layer.generator = None


# By the number of position dimensions.
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "triangle": Triangle}


@dataclass(frozen=True, kw_only=True)
class BlockStyle:
    """Settings that all blocks of a network share.

    Attributes:
        normalization: one of ``NORMALIZATIONS``, or a function of a :class:`NormSite`, at a block's input.
        activation: one of ``ACTIVATIONS``, or a class of module.
        dropout: the share of activations set to 0 while training.
        num_classes: K, for normalisations that know class groups.
    """

    normalization: str | Callable[[NormSite], nn.Module] = "batch"
    activation: str | Callable[[], nn.Module] = "relu"
    dropout: float = 0.0
    num_classes: int = 10

    @property
    def at_output(self) -> bool:
        """Whether a block normalises what it passes on, in place of what it receives."""
        return self.normalization in AT_OUTPUT

    def norm(self, shape: Sequence[int], *, first: bool = False) -> nn.Module:
        """The normalisation of (N, *shape), the network's input where ``first``."""
        site = NormSite(shape=shape, first=first, num_classes=self.num_classes)
        return part_of(NORMALIZATIONS, self.normalization, "normalization")(site)

    def activate(self) -> nn.Module:
        """Build the activation."""
        return part_of(ACTIVATIONS, self.activation, "activation")()


_PLAIN = BlockStyle()


def conv_block(
    input_shape: Sequence[int],
    out_channels: int,
    style: BlockStyle = _PLAIN,
    *,
    pool: bool = False,
    first: bool = False,
) -> nn.Sequential:
    """Normalise → 3×3 convolution (padding 1, no bias) → ReLU → optionally 2×2 maximum.

    (N, C, H, W) → (N, out_channels, H, W), or half of H and W with ``pool``. Dropout follows the
    activation. A style that normalises the output does so behind the pool, and its convolution has a
    bias. Source: the published code of Dooms et al. 2023.
    """
    channels, height, width = input_shape
    weights = nn.Conv2d(channels, out_channels, 3, padding=1, bias=style.at_output)
    size = (height // 2, width // 2) if pool else (height, width)
    return _block(style, weights, input_shape, (out_channels, *size), pool=pool, first=first)


def linear_block(
    in_features: int, out_features: int, style: BlockStyle = _PLAIN, *, first: bool = False
) -> nn.Sequential:
    """Flatten → normalise → linear → ReLU, (N, …) of in_features in all → (N, out_features)."""
    weights = nn.Linear(in_features, out_features)
    return _block(style, weights, (in_features,), (out_features,), first=first)


def _block(
    style: BlockStyle,
    weights: nn.Module,
    input_shape: Sequence[int],
    output_shape: Sequence[int],
    *,
    pool: bool = False,
    first: bool,
) -> nn.Sequential:
    """The parts in order, under the names by which :func:`split_block` and fused windows know them."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if len(input_shape) == 1:
        parts["flatten"] = nn.Flatten()
    if not style.at_output:
        parts["normalize"] = style.norm(input_shape, first=first)
    parts["weights"], parts["activation"] = weights, style.activate()
    if style.dropout:
        parts["dropout"] = Dropout(style.dropout)
    if pool:
        parts["pool"] = nn.MaxPool2d(2)
    if style.at_output:
        parts["normalize"] = style.norm(output_shape)
    return nn.Sequential(parts)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: ``relu(shortcut(x) + f(x))``.

    ``f`` is normalise → convolution → ReLU → normalise → convolution, the shortcut the identity, or
    a 1×1 convolution where the size changes. A stride of 2 halves H and W. Everything inside learns
    together. A style that normalises the output does so behind the sum, and has batch normalisation
    inside ``f``. Source: He et al. 2016 (arXiv 1512.03385), with normalisation before the convolutions.

    The shortcut takes every second pixel before its convolution, not by a stride of the convolution: the
    weight gradient of strided 1×1 convolutions writes past its memory for channels-last inputs of few
    channels (PyTorch 2.13, CPU without AVX-512).
    """

    def __init__(
        self, input_shape: Sequence[int], out_channels: int, style: BlockStyle = _PLAIN, *, stride: int = 1
    ) -> None:
        super().__init__()
        channels = input_shape[0]
        output_shape = (out_channels, *(-(-size // stride) for size in input_shape[1:]))
        inside = replace(style, normalization="batch") if style.at_output else style
        self.residual = nn.Sequential(
            inside.norm(input_shape),
            nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.ReLU(),
            inside.norm(output_shape),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        )
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out_channels:
            self.shortcut = nn.Conv2d(channels, out_channels, 1, bias=False)
        after: list[nn.Module] = [style.activate()]
        if style.dropout:
            after.append(Dropout(style.dropout))
        if style.at_output:
            after.append(style.norm(output_shape))
        self.after = nn.Sequential(*after)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, out_channels, H/stride, W/stride)."""
        kept = x[:, :, :: self.stride, :: self.stride]
        y: Tensor = self.after(self.shortcut(kept) + self.residual(x))
        return y


# Where a head may look inside a block, and the part that it looks behind.
INSIDE = {"unpooled": "activation", "response": "weights"}


def split_block(block: nn.Module, reads: str) -> tuple[nn.Module, nn.Module]:
    """``block`` as two modules, the first of which ends where a head that ``reads`` so looks.

    ``output``: the block as it is; ``unpooled``: behind the activation, before dropout and pool;
    ``response``: behind the weights, before the activation. A block that was not made by
    :func:`conv_block` or :func:`linear_block` cannot be looked into: its output stands for all three.
    """
    names = [name for name, _ in block.named_children()] if type(block) is nn.Sequential else []
    part = INSIDE.get(reads)
    if part not in names:
        return block, nn.Identity()
    assert isinstance(block, nn.Sequential)
    end = names.index(part) + 1
    return block[:end], block[end:] if end < len(block) else nn.Identity()
