"""Blocks: normalise → weights → activation → pool, the unit that a schedule trains. Shapes: N samples."""

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

# By the number of position dimensions.
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Triangle(nn.Module):
    """The excess of a channel over the mean of all channels at its position: ``relu(x − mean_c x_c)``.

    Source: Coates et al. 2011, as in the published code of Chen et al. 2025 (SCFF).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …)."""
        return F.relu(x - x.mean(1, keepdim=True))


class Dropout(nn.Dropout):
    """Dropout that can draw its mask from a generator of its own, on the input's device."""

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
    """Seed the generator of each layer from ``numbers`` and its index; layers can draw at the same time."""
    for index, layer in enumerate(layers):
        seed = int(np.random.SeedSequence([*numbers, index]).generate_state(1).item())
        layer.generator = torch.Generator(device).manual_seed(seed)
    try:
        yield
    finally:
        for layer in layers:
            layer.generator = None


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "triangle": Triangle}


@dataclass(frozen=True, kw_only=True)
class BlockStyle:
    """Settings that all blocks of a network share."""

    #: A name in ``NORMALIZATIONS``, or a function of a :class:`NormSite`.
    normalization: str | Callable[[NormSite], nn.Module] = "batch"
    activation: str | Callable[[], nn.Module] = "relu"  #: a name in ``ACTIVATIONS``, or a module class
    dropout: float = 0.0  #: probability of setting an activation to 0 in training
    num_classes: int = 10  #: K, for normalisations by class

    @property
    def at_output(self) -> bool:
        """Whether a block normalises its output in place of its input."""
        return self.normalization in AT_OUTPUT

    def norm(self, shape: Sequence[int], *, first: bool = False) -> nn.Module:
        """Build the normalisation of (N, *shape), which is the network's input if ``first``."""
        site = NormSite(shape=shape, first=first, num_classes=self.num_classes)
        return part_of(NORMALIZATIONS, self.normalization, "normalization")(site)

    def activate(self) -> dict[str, nn.Module]:
        """Build the activation, and the dropout if there is one, by the names that they have in a block."""
        activation = part_of(ACTIVATIONS, self.activation, "activation")()
        dropout = {"dropout": Dropout(self.dropout)} if self.dropout else {}
        return {"activation": activation, **dropout}


PLAIN = BlockStyle()


def conv_block(
    input_shape: Sequence[int],
    out_channels: int,
    style: BlockStyle = PLAIN,
    *,
    pool: bool = False,
    first: bool = False,
) -> nn.Sequential:
    """Normalise → 3×3 convolution (padding 1, no bias) → ReLU → dropout → 2×2 maximum with ``pool``.

    (N, C, H, W) → (N, out_channels, H, W), or half of H and W with ``pool``. If the style normalises the
    output, it does so after the pool, and the convolution has a bias. Source: the published code of Dooms
    et al. 2023.
    """
    channels, height, width = input_shape
    weights = nn.Conv2d(channels, out_channels, 3, padding=1, bias=style.at_output)
    size = (height // 2, width // 2) if pool else (height, width)
    return _block(style, weights, input_shape, (out_channels, *size), pool=pool, first=first)


def linear_block(
    in_features: int, out_features: int, style: BlockStyle = PLAIN, *, first: bool = False
) -> nn.Sequential:
    """Flatten → normalise → linear → ReLU → dropout, (N, …) of in_features in all → (N, out_features)."""
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
    """Return the parts in order, under the names that :func:`split_block` and kernels know."""
    parts = OrderedDict[str, nn.Module]()
    if len(input_shape) == 1:
        parts["flatten"] = nn.Flatten()
    if not style.at_output:
        parts["normalize"] = style.norm(input_shape, first=first)
    parts["weights"] = weights
    parts.update(style.activate())
    if pool:
        parts["pool"] = nn.MaxPool2d(2)
    if style.at_output:
        parts["normalize"] = style.norm(output_shape)
    return nn.Sequential(parts)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut, trained together: ``relu(shortcut(x) + f(x))``.

    ``f`` is normalise → convolution → ReLU → normalise → convolution. The shortcut is the identity, or a
    1×1 convolution if the size changes. If the style normalises the output, it does so after the sum, and
    ``f`` has batch normalisation. Source: He et al. 2016 (arXiv 1512.03385), with normalisation before the
    convolutions.
    """

    def __init__(
        self, input_shape: Sequence[int], out_channels: int, style: BlockStyle = PLAIN, *, stride: int = 1
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
        self.after = nn.Sequential(*style.activate().values())
        if style.at_output:
            self.after.append(style.norm(output_shape))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, out_channels, H/stride, W/stride)."""
        # The weight gradient of a strided 1×1 convolution writes past its memory for channels-last inputs
        # of few channels (PyTorch 2.13, CPU without AVX-512).
        y: Tensor = self.after(self.shortcut(x[:, :, :: self.stride, :: self.stride]) + self.residual(x))
        return y


# The last part of a block whose output a head reads, if that is inside the block.
_READ = {"unpooled": "activation", "response": "weights"}


def split_block(block: nn.Module, reads: str) -> tuple[nn.Module, nn.Module]:
    """Split ``block`` behind the features that a head reads.

    ``output``: the whole block; ``unpooled``: up to the activation, before dropout and pool; ``response``:
    up to the weights. Only blocks like those of :func:`conv_block` and :func:`linear_block` are split.
    """
    names = [name for name, _ in block.named_children()]
    if type(block) is not nn.Sequential or _READ.get(reads) not in names:
        return block, nn.Identity()
    end = names.index(_READ[reads]) + 1
    return block[:end], block[end:] if end < len(block) else nn.Identity()
