"""A scoring head with further terms and with coarse targets."""

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
from trifecta.nn.norms import ClassGroupNorm
from trifecta.nn.pooling import ADAPTIVE_POOLS
from trifecta.nn.shapes import FeatureShape


class CombinedHead(Head):
    """The head of :class:`Combined`; only terms that compare pairs see the negatives."""

    def __init__(self, objective: "Combined", site: Site) -> None:
        super().__init__()
        self.objective = objective
        self.scoring = build_head(objective.scoring, site)
        modules = [term.module(site.feature_shape, site.num_classes) for term in objective.terms]
        self.terms = nn.ModuleList(modules)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted sum, (B, …) or (2B, …), (B,) → ()."""
        positives = features[: len(labels)]
        shared: Tensor = _ScaledGradient.apply(positives, self.objective.share)  # type: ignore[no-untyped-call]
        loss = self.objective.weight * self.scoring.loss(shared, labels)
        for term, module in zip(self.objective.terms, self.terms, strict=True):
            loss = loss + term.weight * module(features if term.pairs else positives, labels)
        return loss

    @property
    def weighs_classes(self) -> bool:
        """Whether the scoring loss does; of the terms only those that compare pairs do."""
        return self.scoring.weighs_classes

    def scores(self, features: Tensor) -> Tensor:
        """Return the scoring head's scores, (N, …) → (N, K)."""
        return self.scoring.scores(features)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Pass the epoch on to the scoring head and to the terms that take it."""
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
    """``weight`` times the loss of a scoring objective, plus weighted terms.

    Attributes:
        scoring: the objective whose scores predict.
        terms: losses to add.
        share: of the scoring loss's gradient that the block receives, 0 … 1. The scoring head learns from
            the whole gradient, so that 0 makes it a probe.
        weight: of the scoring loss.
    """

    kind: ClassVar[str] = "combined"
    head_class = CombinedHead
    scoring: Objective = field(default_factory=CrossEntropy)
    terms: tuple[Term, ...] = ()
    share: float = bounded(1.0, 0, 1)
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Validate the share; a list of terms becomes a tuple."""
        super().__post_init__()
        object.__setattr__(self, "terms", tuple(self.terms))

    @property
    def pairs(self) -> bool:
        """Whether a term compares positives with negatives."""
        return any(term.pairs for term in self.terms)

    @property
    def reads(self) -> str:
        """The position in a block that the scoring objective reads."""
        return self.scoring.reads

    def head_at(self, site: Site) -> Head:
        """Return a :class:`CombinedHead`."""
        return CombinedHead(self, site)


class SimilarityModule(nn.Module):
    """A 3×3 convolution, or a linear map of units, without bias; then each map's standard deviation.

    Source: the published code of Nøkland & Eidnes 2019.
    """

    def __init__(self, feature_shape: FeatureShape, num_classes: int) -> None:
        super().__init__()
        channels, self.num_classes = feature_shape[0], num_classes
        self.weights: nn.Module = nn.Linear(channels, channels, bias=False)
        if dimensions := len(feature_shape) - 1:
            self.weights = CONVOLUTIONS[dimensions](channels, channels, 3, padding=1, bias=False)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, (B, …), (B,) → ()."""
        return similarity_loss(deviations(self.weights(features)), labels, self.num_classes)


def deviations(maps: Tensor) -> Tensor:
    """Return the standard deviation (n − 1) of each map, (B, C, …) → (B, C).

    Units, maps of one row and at most three maps are flattened instead.
    """
    wide = at_least_float32(maps)
    if wide.ndim > 2 and wide.shape[1] > 3 and wide.shape[2] > 1:
        return wide.flatten(2).std(2)
    return wide.flatten(1)


@dataclass(frozen=True, kw_only=True)
class Similarity(Term):
    """Similarity matching of the maps' deviations: :func:`trifecta.losses.functional.similarity_loss`.

    Attributes:
        weight: factor of the loss.
    """

    kind: ClassVar[str] = "similarity"
    weight: float = 1.0

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Return a :class:`SimilarityModule`."""
        return SimilarityModule(feature_shape, num_classes)


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


class ContrastiveModule(nn.Module):
    """Normalisation by class group, averages, a linear projection without bias and batch normalisation.

    Averages are 4×4, 2×2 or of whole maps for up to 100, up to 400 or more channels.
    Source: the published code of HCL-FF (arXiv 2605.24797).
    """

    def __init__(
        self, objective: "SupervisedContrastive", feature_shape: FeatureShape, num_classes: int
    ) -> None:
        super().__init__()
        channels, dimensions = feature_shape[0], len(feature_shape) - 1
        self.schedule, self.temperature = objective.temperature, objective.temperature.first
        pool = 4 if channels <= 100 else 2 if channels <= 400 else 1
        self.normalize = ClassGroupNorm(channels, num_classes)
        self.averages = ADAPTIVE_POOLS[dimensions](pool) if dimensions else nn.Identity()
        self.projection = nn.Linear(channels * pool**dimensions, objective.features, bias=False)
        self.projected_norm = nn.BatchNorm1d(objective.features)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Set the temperature for an epoch (from 0) out of ``epochs``."""
        self.temperature = self.schedule.at(epoch, epochs)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, (B, …), (B,) → ()."""
        return supervised_contrastive_loss(self.project(features), labels, temperature=self.temperature)

    def project(self, features: Tensor) -> Tensor:
        """Return projected averages, (B, …) → (B, features), not scaled to length 1."""
        maps = self.normalize(features)
        projected: Tensor = self.projected_norm(self.projection(self.averages(maps).flatten(1)))
        return projected


@dataclass(frozen=True, kw_only=True)
class SupervisedContrastive(Bounded, Term):
    """:func:`trifecta.losses.functional.supervised_contrastive_loss` of projected averages.

    Attributes:
        weight: factor of the loss.
        features: number of features that the averages are projected to.
        temperature: of the loss over the epochs; the first one before the first step of a run.
    """

    kind: ClassVar[str] = "supervised-contrastive"
    weight: float = 1.0
    features: int = units(128)
    temperature: Temperature = field(default_factory=Temperature)

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Return a :class:`ContrastiveModule`."""
        return ContrastiveModule(self, feature_shape, num_classes)


class ContrastModule(nn.Module):
    """The loss of a head as a module."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, (2B, …), (B,) → ()."""
        return self.head.loss(features, labels)


@dataclass(frozen=True, kw_only=True)
class Contrast(Term):
    """The loss of a pair objective.

    Attributes:
        weight: factor of the loss.
        loss: the objective.
    """

    kind: ClassVar[str] = "contrast"
    pairs: ClassVar[bool] = True
    weight: float = 1.0
    loss: Objective = field(default_factory=Symmetric)

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Return a :class:`ContrastModule`."""
        return ContrastModule(self.loss.head(feature_shape, num_classes))


# One number per class at each level, coarsest first.
Levels = tuple[tuple[int, ...], ...]


class CoarseHead(Head):
    """A head over K classes whose loss is the cross-entropy of G superclasses.

    A superclass's score is the mean of its classes' scores; the scores that predict stay those of the
    classes. Source: the published code of HCL-FF (arXiv 2605.24797).

    Args:
        head: built for K classes.
        superclasses: superclass 0 … G−1 of every class, (K,).
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
        scores, targets = self.coarse_scores(features), self.superclasses[labels]
        weights = self.sample_weights(labels)
        if weights is None:
            return F.cross_entropy(scores, targets)
        return (F.cross_entropy(scores, targets, reduction="none") * weights).mean()

    def coarse_scores(self, features: Tensor | ChannelSums) -> Tensor:
        """Return the scores of the superclasses, (N, …) → (N, G)."""
        return group_means(self.head.scores(features), self.members)

    def scores(self, features: Tensor | ChannelSums) -> Tensor:
        """Return the scores of the classes, (N, …) → (N, K)."""
        return self.head.scores(features)


def coarsened(head: Head, site: Site, levels: Levels) -> Head:
    """Return ``head`` with the superclasses of its block as targets, coarse to fine.

    The levels and then the classes share the L blocks equally: block k has level ``k · D // L`` of D. Terms
    beside a scoring head keep the classes.

    Raises:
        ValueError: a level that does not number the superclass of every class from 0.
    """
    for superclasses in levels:
        if len(superclasses) != site.num_classes:
            raise ValueError(
                f"superclasses are one number for each of the {site.num_classes} classes: received "
                f"{len(superclasses)} of them"
            )
        count = len(set(superclasses))
        if set(superclasses) != set(range(count)) or count < 2:
            raise ValueError(
                "superclasses are numbered 0, 1, … without a gap, two at least: received "
                f"{','.join(map(str, superclasses))}"
            )
    level = site.block * (len(levels) + 1) // len(site.feature_shapes)
    if level == len(levels):
        return head
    if isinstance(head, CombinedHead):
        head.scoring = CoarseHead(head.scoring, levels[level])
        return head
    return CoarseHead(head, levels[level])
