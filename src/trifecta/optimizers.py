"""Which optimizer state belongs to which weight.

Every block steps on its own clock, so optimizers come in one instance per *owner*. Ownership by
``weight``: block k's optimizer owns block k's weights, and whichever window closes over them steps it.
Ownership by ``objective`` (the Trifecta's published code): the optimizer of the objective at block k
owns every weight that this objective reaches, so a weight that two objectives train has two states.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

OWNERSHIPS = ("weight", "objective")
DECAYS = ("cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam (AdamW where ``weight_decay`` > 0).

    Attributes:
        learning_rate: at the first step.
        decay: ``cosine`` to 0 at the run's last step, or ``constant``.
        weight_decay: decoupled, per step and learning rate.
        ownership: ``weight`` or ``objective``, see this module.
    """

    learning_rate: float = 3e-3
    decay: str = "cosine"
    weight_decay: float = 0.0
    ownership: str = "weight"

    def __post_init__(self) -> None:
        """Reject settings that no optimizer takes."""
        if self.ownership not in OWNERSHIPS:
            raise ValueError(
                f"optimizer ownership is {' or '.join(OWNERSHIPS)}: received '{self.ownership}'"
            )
        if self.decay not in DECAYS:
            raise ValueError(f"a decay is {' or '.join(DECAYS)}: received '{self.decay}'")
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(
                "the learning rate must be above 0 and weight decay at least 0: received "
                f"{self.learning_rate} and {self.weight_decay}"
            )

    def rate(self, progress: float) -> float:
        """Learning rate after a share ``progress`` (0 … 1) of the run's steps."""
        if self.decay == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * min(progress, 1.0))) / 2

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer over ``parameters``."""
        if self.weight_decay:
            return torch.optim.AdamW(
                parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
            )
        return torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)
