"""A network of later blocks' shapes, as a local loss.

Source: Ma, Wu, Si, Tan 2024, "Scaling Supervised Local Learning with Augmented Auxiliary Networks", ICLR,
arXiv 2402.17318.

Shapes: N samples, K classes, L blocks; features (N, C, …) or (N, F).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from trifecta._utils.checks import MOST_UNITS, require_ranges
from trifecta.losses.convolutional import rectified_layer
from trifecta.losses.head import Head, Objective, at_least_float32
from trifecta.nn.pooling import ADAPTIVE_POOLS, MAX_POOLS
from trifecta.nn.shapes import FeatureShape


def blocks_ahead(block: int, num_blocks: int, depth: int) -> list[int]:
    """Return at most ``depth`` blocks behind ``block``, evenly spaced, the last among them.

    ``round(block + (L − 1 − block) / depth · i)`` for i = 1 … depth, as in the authors' code.
    """
    ahead = num_blocks - 1 - block
    depth = min(depth, ahead)
    return [round(block + ahead / depth * i) for i in range(1, depth + 1)]


class LaterLayersHead(Head):
    """Layers of the shapes of some later blocks, averages over positions, a linear classifier.

    A layer is a 3×3 convolution with batch normalisation and ReLU behind it; maps that are larger than what
    the block of its shape receives pass a maximum pool first. In the place of a fully connected block it is
    a linear layer, and averages over positions come first.

    Args:
        feature_shape: of what the head reads.
        layers: of each layer, the positions that it sees, () for a linear one, and its channels.
        num_classes: K.
        smoothing: of the labels.
    """

    def __init__(
        self,
        feature_shape: FeatureShape,
        layers: Sequence[tuple[tuple[int, ...], int]],
        num_classes: int,
        *,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.smoothing = smoothing
        channels, positions = feature_shape[0], tuple(feature_shape[1:])
        modules: list[nn.Module] = []
        for seen, units in layers:
            modules += [*_resized(positions, seen), *rectified_layer(channels, units, len(seen))]
            channels, positions = units, seen
        modules += _resized(positions, ())
        self.network = nn.Sequential(*modules, nn.Linear(channels, num_classes))

    def scores(self, features: Tensor) -> Tensor:
        """(N, …) → (N, K)."""
        return at_least_float32(self.network(features))


def _resized(positions: tuple[int, ...], seen: tuple[int, ...]) -> list[nn.Module]:
    """What makes maps of ``positions`` maps of ``seen``, where they are larger; flat ones for ()."""
    if positions and not seen:
        return [ADAPTIVE_POOLS[len(positions)](1), nn.Flatten()]
    return [MAX_POOLS[len(positions)](seen)] if positions != seen else []


@dataclass(frozen=True, kw_only=True)
class LaterLayers(Objective):
    """Cross-entropy of a network of later blocks' shapes: :class:`LaterLayersHead`, with ``smoothing``.

    The last block, which none comes after, has a linear classifier of averages.

    Attributes:
        depth: how many later blocks, or all where there are fewer.
        smoothing: of the labels.
    """

    kind: ClassVar[str] = "later-layers"
    depth: int = 2
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, depth=(1, MOST_UNITS), smoothing=(0, 1))

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head of a last block, whose output is ``(N, *feature_shape)``."""
        return self.head_at(0, [feature_shape], num_classes)

    def head_at(self, block: int, feature_shapes: Sequence[FeatureShape], num_classes: int) -> Head:
        """Build the head for ``block`` of those whose outputs are ``(N, *feature_shapes[k])``."""
        positions = tuple(feature_shapes[block][1:])
        layers = []
        for ahead in blocks_ahead(block, len(feature_shapes), self.depth):
            received = tuple(feature_shapes[ahead - 1][1:])
            is_linear = len(feature_shapes[ahead]) == 1 or len(received) != len(positions)
            # Maps are made smaller, not larger.
            positions = () if is_linear else tuple(map(min, positions, received))
            layers.append((positions, feature_shapes[ahead][0]))
        return LaterLayersHead(feature_shapes[block], layers, num_classes, smoothing=self.smoothing)
