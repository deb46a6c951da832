"""Terms beside a scoring head: losses on features that cannot score classes by themselves.

Shapes: B images; features (B, C, H, W) or (B, F).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.heads.head import FeatureShape, Head
from trifecta.heads.pairs import Symmetric, Threshold
from trifecta.objectives import similarity_loss, supervised_contrastive_loss
from trifecta.patches import patch_means

PairObjective = Threshold | Symmetric


class SimilarityModule(nn.Module):
    """A 3×3 convolution, each map's standard deviation, then :func:`similarity_loss`.

    A map of one position has no deviation and stands for itself.
    """

    def __init__(self, feature_shape: FeatureShape, num_classes: int) -> None:
        super().__init__()
        channels, self.num_classes = feature_shape[0], num_classes
        self.convolution: nn.Module = nn.Identity()
        if len(feature_shape) == 3:
            self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, …), (B,) → ()."""
        responses = self.convolution(features)
        if responses.ndim == 4 and responses.shape[2:].numel() > 1:
            wide = responses.flatten(2)
            # The smallest number keeps the gradient of a map that is constant finite.
            responses = (wide.float().var(2, correction=0) + 1e-6).sqrt()
        return similarity_loss(responses.flatten(1), labels, self.num_classes)


class ContrastiveModule(nn.Module):
    """Average-pools to 2×2, projects to ``features``, then :func:`supervised_contrastive_loss`."""

    def __init__(self, feature_shape: FeatureShape, *, features: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.pool = 2 if len(feature_shape) == 3 else 0
        size = feature_shape[0] * max(self.pool, 1) ** 2
        self.projection = nn.Linear(size, features)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, …), (B,) → ()."""
        if self.pool:
            features = patch_means(features, self.pool)
        # Without its length a sample holds no goodness.
        unit = F.normalize(features.flatten(1))
        return supervised_contrastive_loss(self.projection(unit), labels, temperature=self.temperature)


class ContrastModule(nn.Module):
    """The loss of a pair head, on (2B, …)."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(2B, …), (B,) → ()."""
        return self.head.loss(features, labels)


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Similarity matching: :class:`SimilarityModule`."""

    kind: ClassVar[str] = "similarity"
    pairs: ClassVar[bool] = False
    weight: float = 1.0

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Build the term for a block whose output is (N, *feature_shape)."""
        return SimilarityModule(feature_shape, num_classes)


@dataclass(frozen=True, kw_only=True)
class SupervisedContrastive:
    """Supervised-contrastive term on normalised, pooled, projected features: :class:`ContrastiveModule`."""

    kind: ClassVar[str] = "supervised-contrastive"
    pairs: ClassVar[bool] = False
    weight: float = 1.0
    features: int = 64
    temperature: float = 0.1

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Build the term for a block whose output is (N, *feature_shape)."""
        return ContrastiveModule(feature_shape, features=self.features, temperature=self.temperature)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The goodness of positives against that of negatives: :class:`ContrastModule`."""

    kind: ClassVar[str] = "contrast"
    pairs: ClassVar[bool] = True
    weight: float = 1.0
    loss: PairObjective = field(default_factory=Symmetric)

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Build the term for a block whose output is (N, *feature_shape)."""
        return ContrastModule(self.loss.head(feature_shape, num_classes))


Term = Similarity | SupervisedContrastive | Contrast
