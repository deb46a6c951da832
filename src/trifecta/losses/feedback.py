"""Heads that learn towards targets made from the network's error, which comes back through fixed weights.

Shapes: B images, K classes; features (B, C, …) or (B, C); error (B, K).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta._utils.checks import require_ranges
from trifecta.losses.classifiers import ClassifierHead
from trifecta.losses.head import Head, Objective
from trifecta.nn.shapes import FeatureShape


class FeedbackHead(Head):
    """Pulls ``relu(response)`` to ``relu(response − step · error @ feedback)``, beside a linear probe.

    ``response`` is what the block computes before its activation; ``feedback`` (K, C) is random and fixed,
    the same for all positions of a map. The probe learns from the labels and gives the block no gradient.
    """

    weighs_classes = True
    feedback: Tensor

    def __init__(self, feature_shape: FeatureShape, num_classes: int, *, step: float) -> None:
        super().__init__()
        self.step = step
        self.probe = ClassifierHead(feature_shape, num_classes, pool=1)
        self.register_buffer("feedback", torch.randn(num_classes, feature_shape[0]))
        self._error: Tensor | None = None

    def receive(self, error: Tensor) -> None:
        """Take the network's error, ``softmax(scores) − one-hot labels`` (B, K), for the next loss."""
        self._error = error

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, …), (B,) → (): half the squared distance to the target, and the probe's cross-entropy."""
        assert self._error is not None, "no error was received"
        with torch.autocast(features.device.type, enabled=False):
            weights = self.sample_weights(labels)
            # That of the weighted loss, whose gradient it is.
            error = self._error if weights is None else self._error * weights.unsqueeze(1)
            change = error.to(self.feedback.dtype) @ self.feedback * self.step
            change = change.view(*change.shape, *[1] * (features.ndim - 2))
            response = features.to(change.dtype)
            with torch.no_grad():
                seen, target = F.relu(response), F.relu(response - change)
            distance = (F.relu(response) - target).square().flatten(1).sum(1).mean() / 2
        return distance + self.probe.loss(seen, labels)

    def scores(self, features: Tensor) -> Tensor:
        """(N, …) → (N, K), of the probe."""
        return self.probe.scores(F.relu(features))


@dataclass(frozen=True, kw_only=True)
class LocalTargets(Objective):
    """Squared distance to targets that the network's error makes: :class:`FeedbackHead`."""

    kind: ClassVar[str] = "local-targets"
    uses_feedback: ClassVar[bool] = True
    reads: ClassVar[str] = "response"
    step: float = 0.1

    def __post_init__(self) -> None:
        """Reject what no head can have."""
        require_ranges(self, step=(0, math.inf))

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        """Build the head for a block whose output is ``(N, *feature_shape)``."""
        return FeedbackHead(feature_shape, num_classes, step=self.step)
