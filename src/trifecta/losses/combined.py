"""A scoring head with further terms and with coarse targets.

Shapes: B images, N samples, K classes, G superclasses; features (N, C, …) or (N, C).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.losses.classifiers import CrossEntropy
from trifecta.losses.functional import at_least_float32, similarity_loss, supervised_contrastive_loss
from trifecta.losses.goodness import ChannelSums, group_means
from trifecta.losses.head import (
    Bounded,
    Head,
    Objective,
    Site,
    SiteObjective,
    Term,
    bounded,
    build_head,
    units,
)
from trifecta.losses.pairs import Symmetric
from trifecta.nn.blocks import CONVOLUTIONS
from trifecta.nn.convolution import ADAPTIVE_POOLS
from trifecta.nn.norms import ClassGroupNorm
from trifecta.nn.shapes import FeatureShape


class _CombinedHead(Head):
    def __init__(self, objective: "Combined", site: Site) -> None:
        super().__init__()
        self.objective = objective
        self.scoring = build_head(objective.scoring, site)
        self.terms = nn.ModuleList(
            term.module(site.feature_shape, site.num_classes) for term in objective.terms
        )

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        # Only terms that compare pairs see the negatives.
        positives = features[: len(labels)]
        shared: Tensor = _ScaledGradient.apply(positives, self.objective.share)  # type: ignore[no-untyped-call]
        loss = self.objective.weight * self.scoring.loss(shared, labels)
        for term, module in zip(self.objective.terms, self.terms, strict=True):
            loss = loss + term.weight * module(features if term.pairs else positives, labels)
        return loss

    @property
    def weighs_classes(self) -> bool:
        return self.scoring.weighs_classes

    def scores(self, features: Tensor) -> Tensor:
        return self.scoring.scores(features)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        for part in (self.scoring, *self.terms):
            if callable(receive := getattr(part, "set_epoch", None)):
                receive(epoch, epochs)


class _ScaledGradient(torch.autograd.Function):
    """The identity, with a gradient multiplied by a share."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.share, None


@dataclass(frozen=True, kw_only=True)
class Combined(SiteObjective):
    """``weight`` times the loss of a scoring objective, whose scores predict, plus weighted terms."""

    kind: ClassVar[str] = "combined"
    head_class = _CombinedHead
    head_at = SiteObjective.build
    scoring: Objective = field(default_factory=CrossEntropy)
    terms: tuple[Term, ...] = ()
    # Of the scoring loss's gradient that the block receives; the scoring head learns from all of it.
    share: float = bounded(1.0, 0, 1)
    weight: float = 1.0

    @property
    def pairs(self) -> bool:  # type: ignore[override]
        """Whether a term compares positives with negatives."""
        return any(term.pairs for term in self.terms)

    @property
    def reads(self) -> str:  # type: ignore[override]
        """The features that the scoring objective reads."""
        return self.scoring.reads


@dataclass(frozen=True, kw_only=True)
class Contrast(Term):
    """The loss of a pair objective."""

    kind: ClassVar[str] = "contrast"
    pairs: ClassVar[bool] = True
    weight: float = 1.0
    loss: Objective = field(default_factory=Symmetric)

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Return the objective's head."""
        return self.loss.head(feature_shape, num_classes)


class _SimilarityModule(nn.Module):
    def __init__(self, feature_shape: FeatureShape, num_classes: int) -> None:
        super().__init__()
        channels, self.num_classes = feature_shape[0], num_classes
        self.weights: nn.Module = nn.Linear(channels, channels, bias=False)
        if dimensions := len(feature_shape) - 1:
            self.weights = CONVOLUTIONS[dimensions](channels, channels, 3, padding=1, bias=False)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return similarity_loss(deviations(self.weights(features)), labels, self.num_classes)


def deviations(maps: Tensor) -> Tensor:
    """Return the standard deviation (n − 1) of each map, (B, C, …) → (B, C).

    Units, maps of one row and at most three maps are flattened instead.
    """
    wide = at_least_float32(maps)
    is_reduced = wide.ndim > 2 and wide.shape[1] > 3 and wide.shape[2] > 1
    return wide.flatten(2).std(2) if is_reduced else wide.flatten(1)


@dataclass(frozen=True, kw_only=True)
class Similarity(Term):
    """:func:`trifecta.losses.functional.similarity_loss` of the :func:`deviations` of convolved maps.

    The convolution is 3×3, or a linear map of units, without bias. Source: the published code of Nøkland &
    Eidnes 2019.
    """

    kind: ClassVar[str] = "similarity"
    weight: float = 1.0

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Return a module with the convolution."""
        return _SimilarityModule(feature_shape, num_classes)


@dataclass(frozen=True, kw_only=True)
class Temperature(Bounded):
    """Falls linearly from ``first`` to ``second`` in ``epochs``, then along a cosine to ``last``."""

    first: float = bounded(0.8, 1e-9)
    second: float = bounded(0.2, 1e-9)
    last: float = bounded(0.1, 1e-9)
    epochs: int = bounded(50, 1)

    def at(self, epoch: int, epochs: int) -> float:
        """Return the temperature in an epoch (from 0) out of ``epochs``."""
        if epoch < self.epochs:
            return self.first + (self.second - self.first) * epoch / self.epochs
        progress = (epoch - self.epochs) / (epochs - self.epochs)
        return self.last + (self.second - self.last) * (1 + math.cos(math.pi * progress)) / 2


class _ContrastiveModule(nn.Module):
    def __init__(self, term: "SupervisedContrastive", shape: FeatureShape, num_classes: int) -> None:
        super().__init__()
        channels, dimensions = shape[0], len(shape) - 1
        self.schedule, self.temperature = term.temperature, term.temperature.first
        pool = 4 if channels <= 100 else 2 if channels <= 400 else 1
        self.normalize = ClassGroupNorm(channels, num_classes)
        self.averages = ADAPTIVE_POOLS[dimensions](pool) if dimensions else nn.Identity()
        self.projection = nn.Linear(channels * pool**dimensions, term.features, bias=False)
        self.projected_norm = nn.BatchNorm1d(term.features)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        self.temperature = self.schedule.at(epoch, epochs)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return supervised_contrastive_loss(self.project(features), labels, temperature=self.temperature)

    def project(self, features: Tensor) -> Tensor:
        averages = self.averages(self.normalize(features)).flatten(1)
        projected: Tensor = self.projected_norm(self.projection(averages))
        return projected


@dataclass(frozen=True, kw_only=True)
class SupervisedContrastive(Bounded, Term):
    """:func:`trifecta.losses.functional.supervised_contrastive_loss` of projected averages.

    Activations are normalised by class group. Averages are 4×4, 2×2 or of whole maps for up to 100, up to
    400 or more channels, projected linearly without bias and batch-normalised.
    Source: the published code of HCL-FF (arXiv 2605.24797).
    """

    kind: ClassVar[str] = "supervised-contrastive"
    weight: float = 1.0
    features: int = units(128)  # that the averages are projected to
    temperature: Temperature = field(default_factory=Temperature)

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Return a module with the projection."""
        return _ContrastiveModule(self, feature_shape, num_classes)


# One number per class at each level, coarsest first.
Levels = tuple[tuple[int, ...], ...]


class CoarseHead(Head):
    """A head whose loss is the cross-entropy of G superclasses, each with the mean score of its classes.

    Source: the published code of HCL-FF (arXiv 2605.24797).
    """

    weighs_classes = True
    superclasses: Tensor
    members: Tensor

    def __init__(self, head: Head, superclasses: Sequence[int]) -> None:
        super().__init__()
        self.head = head
        self.reads_channel_sums, self.reads_patch_means = head.reads_channel_sums, head.reads_patch_means
        numbers = torch.tensor(superclasses)
        self.register_buffer("superclasses", numbers, persistent=False)
        self.register_buffer("members", F.one_hot(numbers).bool(), persistent=False)

    def loss(self, features: Tensor | ChannelSums, labels: Tensor) -> Tensor:
        """Return the loss, (B, …) or (2B, …), (B,) → ()."""
        scores, targets = group_means(self.scores(features), self.members), self.superclasses[labels]
        weights = self.sample_weights(labels)
        if weights is None:
            return F.cross_entropy(scores, targets)
        return (F.cross_entropy(scores, targets, reduction="none") * weights).mean()

    def scores(self, features: Tensor | ChannelSums) -> Tensor:
        """Return the scores of the classes, (N, …) → (N, K)."""
        return self.head.scores(features)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Pass the epoch on to the head."""
        self.head.set_epoch(epoch, epochs)


def coarsened(head: Head, site: Site, levels: Levels) -> Head:
    """Return ``head`` with the superclasses of its block as targets, coarse to fine.

    The levels and then the classes share the blocks equally. Terms keep the classes.
    """
    for level in levels:
        if len(level) != site.num_classes or set(level) != set(range(max(1, *level) + 1)):
            raise ValueError(
                f"superclasses are a number for each of {site.num_classes} classes, 0, 1, … without a gap: "
                f"received {','.join(map(str, level))}"
            )
    k = site.block * (len(levels) + 1) // len(site.feature_shapes)
    if k == len(levels):
        return head
    if isinstance(head, _CombinedHead):
        head.scoring = CoarseHead(head.scoring, levels[k])
        return head
    return CoarseHead(head, levels[k])
