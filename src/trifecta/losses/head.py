"""The interfaces of a local loss: objective, head, term.

A local loss is declared as plain data (an *objective*: a frozen dataclass that can be saved and compared)
and built into a module (a *head*) for the block it stands on. Shapes: B images, K classes; ``features`` are
a block's output, (2B, …) for objectives that compare pairs (positives first), (B, …) for the others.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta._utils.draws import SeededDraws
from trifecta._utils.references import blamed, own_parts
from trifecta.nn.shapes import FeatureShape

# Of a trial batch: two of each of two classes.
TRIAL_LABELS = (0, 0, 1, 1)


class Head(nn.Module, ABC):
    """A local loss over a block's output, and the scores read off it.

    The loss is the cross-entropy of the scores, unless a head has another one.

    Attributes:
        smoothing: of the labels, in the cross-entropy.
        class_weights: (K,), what a sample of each class weighs in the loss; None where all weigh the same.
        skips_samples: whether the loss leaves samples out, whose gradient is then exactly 0.
        reads_channel_sums: whether ``features`` may be :class:`ChannelSums` in place of the output, which a
            fused window has at hand.
        reads_patch_means: P where the loss needs only the means of P×P patches; 0 where it needs others.
    """

    smoothing: float = 0.0
    class_weights: Tensor | None
    skips_samples: bool = False
    reads_channel_sums: bool = False
    reads_patch_means: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("class_weights", None, persistent=False)

    @property
    def weighs_classes(self) -> bool:
        """Whether the loss heeds ``class_weights``. Say so in a head with a loss of its own."""
        return type(self).loss is Head.loss

    def weigh_classes(self, weights: Tensor | None) -> None:
        """Set ``class_weights`` here and in every head that this one is made of.

        Raises:
            ValueError: the loss does not heed them.
        """
        if weights is not None and not self.weighs_classes:
            raise ValueError(
                f"the loss of {type(self).__name__} has no weights for classes: received class_weights; "
                "leave them out, or use cross_entropy and weighs_classes in it"
            )
        for part in self.modules():
            if isinstance(part, Head):
                part.class_weights = weights

    def sample_weights(self, labels: Tensor) -> Tensor | None:
        """Return what each of the samples weighs, of mean 1, (B,); None where all weigh the same."""
        if self.class_weights is None:
            return None
        weights = self.class_weights[labels]
        return weights / weights.mean()

    def cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of class scores, (B, K, …), (B, …) → (): a mean weighted as PyTorch does it."""
        weights = None if self.class_weights is None else self.class_weights.to(scores.dtype)
        return F.cross_entropy(scores, labels, weight=weights, label_smoothing=self.smoothing)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Take note, before a step, of its epoch (from 0) and how many there are."""

    def receive(self, error: Tensor) -> None:
        """Take the network's error, ``softmax(scores) − one-hot labels`` (B, K), for the next loss.

        Called where the objective says ``uses_feedback``.
        """

    def loss(self, features: Any, labels: Tensor) -> Tensor:
        """Scalar loss of ``features`` (2B or B, …) for ``labels`` (B,)."""
        return self.cross_entropy(self.scores(features), labels)

    @abstractmethod
    def scores(self, features: Any) -> Tensor:
        """Pairs: goodness (N,) of the label each sample carries. Others: class scores (N, K)."""


class Objective(Protocol):
    """Declares a local loss. Inherit from it in a frozen dataclass, or write the same members."""

    @property
    def pairs(self) -> bool:
        """Whether the loss compares positives with negatives, so that a head receives (2B, …)."""
        return False

    @property
    def scores_classes(self) -> bool:
        """Whether the head scores all classes, (N, K); else the label that a sample carries, (N,)."""
        return True

    @property
    def uses_feedback(self) -> bool:
        """Whether heads must receive the network's error before every step."""
        return False

    @property
    def per_position(self) -> bool:
        """Whether every position has a label of its own, (N, …), and class scores, (N, K, …)."""
        return False

    @property
    def reads(self) -> str:
        """The position in a block that the head reads, see :func:`trifecta.nn.blocks.split_block`."""
        return "output"

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for features ``(N, *feature_shape)``."""
        ...


class Term(Protocol):
    """Declares a loss beside a scoring head, which cannot score classes by itself."""

    @property
    def pairs(self) -> bool:
        """Whether it compares positives with negatives, (2B, …); else it sees the positives, (B, …)."""
        return False

    @property
    def weight(self) -> float:
        """The factor of its loss."""
        return 1.0

    def module(self, feature_shape: FeatureShape, num_classes: int) -> nn.Module:
        """Build a module ``(features, labels) → ()`` for features ``(N, *feature_shape)``.

        A module with a method ``set_epoch(epoch, epochs)`` is told the epoch before every step.
        """
        ...


def at_block(part: Any, block: int) -> Any:
    """Return a part of a method at ``block``: ``part.at(block)`` where it differs between blocks."""
    return part.at(block) if hasattr(part, "at") else part


def check_objective(objective: Any) -> None:
    """Check that an objective has what :class:`Objective` declares.

    Raises:
        ValueError: it is a class, lacks a member, or builds no head.
    """
    name = getattr(objective, "__qualname__", type(objective).__qualname__)
    if isinstance(objective, str):
        raise ValueError(
            f"an objective is an object such as trifecta.losses.CrossEntropy(): received '{objective}'"
        )
    if isinstance(objective, type):
        raise ValueError(f"an objective is an object: received the class {name}; give {name}()")
    builds = {"head", "head_at", "at"} & {n for n in dir(objective) if getattr(type(objective), n, None)}
    inherited = getattr(type(objective), "head", None) is Objective.head
    if not builds or (inherited and builds == {"head"}):
        raise ValueError(
            f"objective {name} has no head: write head(self, feature_shape, num_classes), which returns a "
            "trifecta.Head"
        )
    missing = [
        n for n in ("pairs", "scores_classes", "uses_feedback", "reads") if not hasattr(objective, n)
    ]
    if missing:
        raise ValueError(f"objective {name} has no {missing[0]}: inherit from trifecta.Objective")


def head_at(
    objective: Objective,
    block: int,
    feature_shapes: Sequence[FeatureShape],
    num_classes: int,
    residual: Sequence[int] = (),
) -> Head:
    """Build the head for ``block`` of those whose outputs are ``(N, *feature_shapes[k])``.

    An objective that has ``head_at(block, feature_shapes, num_classes, residual)`` sees the shapes of all
    blocks, and the numbers of those that are residual.

    Raises:
        ValueError: an objective with a part of a user's own gives no head, or one whose loss is no number
            or whose scores have another shape than they must.
    """
    parts = own_parts(objective)
    what = f"objective {parts[0] if parts else type(objective).__qualname__} on block {block}"
    with blamed(what, own=bool(parts)):
        if hasattr(objective, "head_at"):
            made: Any = objective.head_at(block, feature_shapes, num_classes, residual)
        else:
            made = objective.head(feature_shapes[block], num_classes)
    if not isinstance(made, Head):
        raise ValueError(f"{what} must build a trifecta.Head: its head returned {_kind(made)}")
    if parts:
        with blamed(what):
            answers = _try_head(made, objective, feature_shapes[block], num_classes)
        _check_answers(*answers, objective, feature_shapes[block], num_classes, what)
    return made


def _try_head(
    head: Head, objective: Objective, feature_shape: FeatureShape, num_classes: int
) -> tuple[Any, Any]:
    """Return what a copy of a head answers to made-up features, so that faults show before training."""
    positions = _positions(objective, feature_shape)
    trial, count = copy.deepcopy(head), len(TRIAL_LABELS)
    with SeededDraws(0):
        features = torch.rand(count * (2 if objective.pairs else 1), *feature_shape)
        labels = torch.tensor(TRIAL_LABELS).view(-1, *[1] * len(positions)).expand(-1, *positions)
        trial.set_epoch(0, 1)
        if objective.uses_feedback:
            trial.receive(torch.zeros(count, num_classes))
        return trial.loss(features, labels), trial.scores(features[:count])


def _check_answers(
    loss: Any,
    scores: Any,
    objective: Objective,
    feature_shape: FeatureShape,
    num_classes: int,
    what: str,
) -> None:
    """Check the loss and the scores that a head of a user's own gave for made-up features."""
    count = len(TRIAL_LABELS)
    if not isinstance(loss, Tensor) or loss.shape != ():
        raise ValueError(f"{what} must return a loss (): its loss returned {_kind(loss)}; take its mean")
    if not bool(loss.isfinite()):
        raise ValueError(
            f"{what} must return a loss that is a number: it returned {loss.item()} for random features "
            f"(N, {', '.join(map(str, feature_shape))}) between 0 and 1"
        )
    asked = "a goodness (N,)"
    expected: tuple[int, ...] = (count,)
    if objective.scores_classes:
        asked = "a score of each class (N, K)"
        expected = (count, num_classes, *_positions(objective, feature_shape))
    if not isinstance(scores, Tensor) or tuple(scores.shape) != expected:
        raise ValueError(
            f"{what} must return {asked}, {expected} here: its scores returned {_kind(scores)}"
        )


def _positions(objective: Objective, feature_shape: FeatureShape) -> FeatureShape:
    """The shape of one sample's labels."""
    return tuple(feature_shape[1:]) if getattr(objective, "per_position", False) else ()


def _kind(value: Any) -> str:
    """Describe what a user's part returned."""
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def at_least_float32(values: Tensor) -> Tensor:
    """Widen values that were computed in half precision, for sums and softmax."""
    return values.float() if values.dtype.itemsize < 4 else values


def with_share(x: Tensor, share: float) -> Tensor:
    """Return ``x``, of whose gradient only a share goes back."""
    scaled: Tensor = _ScaledGradient.apply(x, share)  # type: ignore[no-untyped-call]
    return scaled


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a share."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.share, None
