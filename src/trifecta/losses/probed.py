"""Losses with a linear probe: a classifier that learns next to a block and gives it no gradient.

Shapes: B images, N samples, K classes; features are the block's response, (N, C, …), before its activation.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta.losses.classifiers import CrossEntropy
from trifecta.losses.functional import at_least_float32, position_loss
from trifecta.losses.head import Head, Site, SiteObjective, bounded, units
from trifecta.nn.blocks import Triangle


class _FeedbackHead(Head):
    weighs_classes = True
    feedback: Tensor

    def __init__(self, objective: "LocalTargets", site: Site) -> None:
        super().__init__()
        self.step = objective.step
        self.probe = CrossEntropy().head(site.feature_shape, site.num_classes)
        self.register_buffer("feedback", torch.randn(site.num_classes, site.feature_shape[0]))
        self._error: Tensor | None = None

    def receive(self, error: Tensor) -> None:
        self._error = error

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        assert self._error is not None, "no error was received"
        with torch.autocast(features.device.type, enabled=False):
            weights = self.sample_weights(labels)
            # The error is the gradient of the network's loss, which has the same weights.
            error = self._error if weights is None else self._error * weights.unsqueeze(1)
            change = error.to(self.feedback.dtype) @ self.feedback * self.step
            change = change.view(*change.shape, *[1] * (features.ndim - 2))
            response = features.to(change.dtype)
            with torch.no_grad():
                seen, target = F.relu(response), F.relu(response - change)
            distance = (F.relu(response) - target).square().flatten(1).sum(1).mean() / 2
        return distance + self.probe.loss(seen, labels)

    def scores(self, features: Tensor) -> Tensor:
        return self.probe.scores(F.relu(features))


@dataclass(frozen=True, kw_only=True)
class LocalTargets(SiteObjective):
    """Half the squared distance to ``relu(response − step · error @ feedback)``.

    ``error`` (B, K) is the network's; ``feedback`` (K, C) is random and fixed, for all positions of a map.
    """

    kind: ClassVar[str] = "local-targets"
    head_class = _FeedbackHead
    uses_feedback: ClassVar[bool] = True
    reads: ClassVar[str] = "response"
    step: float = bounded(0.1, 0)


class _PositionHead(Head):
    weighs_classes = True  # in the probe

    def __init__(self, objective: "PositionThresholds", site: Site) -> None:
        super().__init__()
        each = (objective.positive, objective.negative, objective.penalty)
        *thresholds, self.penalty = (numbers[min(site.block, len(numbers) - 1)] for numbers in each)
        self.thresholds = tuple(thresholds)
        self.activation = Triangle()
        self.probe = CrossEntropy(pool=objective.pool).head(site.feature_shape, site.num_classes)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        positive, negative = position_goodness(features).chunk(2)
        contrast = position_loss(positive, negative, thresholds=self.thresholds, penalty=self.penalty)
        with torch.no_grad():
            seen = self.activation(features[: len(labels)])
        return contrast + self.probe.loss(seen, labels)

    def scores(self, features: Tensor) -> Tensor:
        return self.probe.scores(self.activation(features))


@dataclass(frozen=True, kw_only=True)
class PositionThresholds(SiteObjective):
    """One threshold for positives and one for negatives, at every position (SCFF).

    Thresholds and penalties (of the length of an image's positive goodness map) are numbers of each block;
    later blocks use the last one. The probe reads P×P averages of the triangle of the response.
    """

    kind: ClassVar[str] = "position-thresholds"
    head_class = _PositionHead
    head_at = SiteObjective.build
    pairs: ClassVar[bool] = True
    reads: ClassVar[str] = "response"
    positive: tuple[float, ...] = (0.0, 5.0, 6.0)
    negative: tuple[float, ...] = (1.0, 9.0, 10.0)
    penalty: tuple[float, ...] = (0.0012, 0.0007, 0.0005)
    pool: int = units(4, least=0)


def position_goodness(response: Tensor) -> Tensor:
    """Return ``mean_c relu(response_c)²`` by position, (N, C, …) → (N, positions), (N, C) → (N, 1)."""
    return at_least_float32(F.relu(response)).square().mean(1).reshape(len(response), -1)
