"""The protocols of a local loss: objective, head and term.

An *objective* declares a loss as plain data. It builds a *head*, the module that computes the loss at one
block. Shapes: B images, K classes; ``features`` are a block's output, (2B, …) for objectives that compare
pairs (positives first), (B, …) for the others.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta._utils.references import blamed, own_parts
from trifecta.nn.drawing import SeededDraws
from trifecta.nn.shapes import MOST_UNITS, FeatureShape

# Labels of the batch that a user's own head is tried on.
TRIAL_LABELS = (0, 0, 1, 1)


class Head(nn.Module, ABC):
    """A module that scores a block's output and computes the loss; called, it returns the loss.

    Attributes:
        smoothing: label smoothing of the cross-entropy.
        class_weights: weight of each class's samples in the loss, (K,); None for equal weights.
        skips_samples: whether the loss leaves out samples, whose gradient is then exactly 0.
        reads_channel_sums: whether ``features`` may be :class:`ChannelSums` in place of the output.
        reads_patch_means: P if the means of P×P patches may replace the output, likewise; 0 otherwise.
    """

    smoothing: float = 0.0
    class_weights: Tensor | None
    skips_samples: bool = False
    reads_channel_sums: bool = False
    reads_patch_means: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("class_weights", None, persistent=False)

    @abstractmethod
    def scores(self, features: Any) -> Tensor:
        """Return class scores (N, K), or for pairs the goodness (N,) of the label each sample carries."""

    def loss(self, features: Any, labels: Tensor) -> Tensor:
        """Return the loss () of ``features`` (2B or B, …) for ``labels`` (B,); here the cross-entropy."""
        return self.cross_entropy(self.scores(features), labels)

    def forward(self, features: Any, labels: Tensor) -> Tensor:
        """Return the loss."""
        return self.loss(features, labels)

    def cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy () of (B, K, …), (B, …), weighted by class as in PyTorch."""
        weights = None if self.class_weights is None else self.class_weights.to(scores.dtype)
        return F.cross_entropy(scores, labels, weight=weights, label_smoothing=self.smoothing)

    @property
    def weighs_classes(self) -> bool:
        """Whether the loss uses ``class_weights``; override it in a head with a loss of its own."""
        return type(self).loss is Head.loss

    def weigh_classes(self, weights: Tensor | None) -> None:
        """Set ``class_weights`` of this head and the heads in it; raise ValueError if it uses none."""
        if weights is not None and not self.weighs_classes:
            raise ValueError(
                f"the loss of {type(self).__name__} has no weights for classes: received class_weights; "
                "leave them out, or use cross_entropy and weighs_classes in it"
            )
        for part in self.modules():
            if isinstance(part, Head):
                part.class_weights = weights

    def sample_weights(self, labels: Tensor) -> Tensor | None:
        """Return the weight of each sample, (B,) with mean 1; None for equal weights."""
        if self.class_weights is None:
            return None
        weights = self.class_weights[labels]
        return weights / weights.mean()

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Receive, before every step, its epoch (from 0) and the number of epochs."""

    def receive(self, error: Tensor) -> None:
        """Receive ``softmax(scores) − one-hot labels`` (B, K) of the network, if ``uses_feedback``."""


@dataclass(frozen=True)
class Site:
    """The block that a head is built for."""

    block: int  #: its number
    feature_shapes: Sequence[FeatureShape]  #: of every block's features without the batch, channels first
    num_classes: int  #: K
    residual: Sequence[int] = ()  #: numbers of the residual blocks

    @property
    def feature_shape(self) -> FeatureShape:
        """The shape of the block's own features."""
        return self.feature_shapes[self.block]

    def averages(self, patches: int) -> int:
        """Return the number of averages of P×P patches of the features; of units or for P = 0 of all."""
        channels, *positions = self.feature_shape
        return math.prod(self.feature_shape) if patches == 0 else channels * patches ** len(positions)


class Objective(Protocol):
    """Declares a local loss. Inherit from it in a frozen dataclass, or write the same members.

    Two methods are optional: ``head_at(site: Site) -> Head`` replaces ``head`` where a head depends on its
    block's number or on other blocks; ``at_positions()`` is the same loss for a label at every position.
    """

    #: Whether the loss compares positives with negatives, so that its head receives (2B, …).
    pairs: ClassVar[bool] = False
    #: Whether the head scores all classes, (N, K), or the label that a sample carries, (N,).
    scores_classes: ClassVar[bool] = True
    #: Whether the head receives the network's error before every step.
    uses_feedback: ClassVar[bool] = False
    #: Whether every position has its own label, (N, …), and its own class scores, (N, K, …).
    per_position: ClassVar[bool] = False
    #: The features that the head reads in a block, see :func:`trifecta.nn.blocks.split_block`.
    reads: ClassVar[str] = "output"

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Return a head for features ``(N, *feature_shape)``."""
        raise NotImplementedError(
            "write head(self, feature_shape, num_classes), which returns a trifecta.Head"
        )


class Term(Protocol):
    """Declares a loss to add to a scoring head's. Inherit from it, or write the same members."""

    #: Whether it compares positives with negatives, (2B, …), or sees the positives, (B, …).
    pairs: ClassVar[bool] = False
    #: The factor of its loss.
    weight: float = 1.0

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Return a module ``(features, labels) → ()`` for features ``(N, *feature_shape)``.

        If it has a method ``set_epoch(epoch, epochs)``, that is called before every step.
        """
        ...


def bounded(default: Any, least: float, most: float = math.inf) -> Any:
    """Return a dataclass field for a number that :class:`Bounded` validates."""
    return field(default=default, metadata={"bounds": (least, most)})


def units(default: int, least: int = 1) -> Any:
    """Return a dataclass field for a size of a pool, layer or projection."""
    return bounded(default, least, MOST_UNITS)


class Bounded:
    """A dataclass that rejects numbers outside the bounds of its fields; lists become tuples."""

    def __post_init__(self) -> None:
        """Validate the numbers."""
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if isinstance(value, list | tuple):
                object.__setattr__(self, one.name, tuple(value))
                if isinstance(one.default, tuple) and one.default and not value:
                    raise ValueError(f"{one.name} are one number or more: received none")
            least, most = one.metadata.get("bounds", (None, None))
            if least is not None and not least <= value <= most:
                raise ValueError(
                    f"{one.name} is a number from {least:.9g} to {most:.9g}: received {value!r:.40}"
                )


class SiteObjective(Bounded, Objective):
    """Base of the package's objectives; ``head_at = SiteObjective.build`` if a head reads a whole site."""

    head_class: ClassVar[Callable[..., Head]]

    def build(self, site: Site) -> Head:
        """Return the head of a block."""
        return self.head_class(self, site)

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Return the head for features ``(N, *feature_shape)``, as for the only block of a network."""
        return self.build(Site(0, [feature_shape], num_classes))


def build_head(objective: Objective, site: Site) -> Head:
    """Return the head of an objective at one block; a user's own head is tried on random features."""
    own = own_parts(objective)
    what = f"objective {own[0] if own else type(objective).__qualname__} on block {site.block}"
    with blamed(what, own=bool(own)):
        if hasattr(objective, "head_at"):
            head: Any = objective.head_at(site)
        else:
            head = objective.head(site.feature_shape, site.num_classes)
        if not isinstance(head, Head):
            raise ValueError(f"head must return a trifecta.Head: received {type(head).__name__}")
        if own:
            _try_head(copy.deepcopy(head), objective, site)
    return head


def _try_head(head: Head, objective: Objective, site: Site) -> None:
    """Check the loss and the scores of random features, so that faults show before training."""
    count, shape = len(TRIAL_LABELS), site.feature_shape
    positions = shape[1:] if objective.per_position else ()
    with SeededDraws(0):
        features = torch.rand(2 * count if objective.pairs else count, *shape)
        labels = torch.tensor(TRIAL_LABELS).view(-1, *[1] * len(positions)).expand(-1, *positions)
        head.set_epoch(0, 1)
        head.receive(torch.zeros(count, site.num_classes))
        loss, scores = head.loss(features, labels), head.scores(features[:count])
    classes = (site.num_classes,) if objective.scores_classes else ()
    expected = {"loss": (loss, ()), "scores": (scores, (count, *classes, *positions))}
    for name, (value, shape) in expected.items():
        received = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        if received != f"a tensor {shape}":
            raise ValueError(
                f"{name} must return a tensor {shape} for features {tuple(features.shape)}: "
                f"received {received}"
            )
    if not loss.isfinite():
        raise ValueError(
            f"loss must return a finite number for features between 0 and 1: received {loss.item()}"
        )
