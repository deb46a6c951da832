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
        head_resets: how often the read-out heads start afresh during the run, at equal distances, so that
            blocks do not learn to suit one set of classifiers. Source: Li et al. 2020, RIFLE
            (arXiv 2007.03349), for the last layer of a network that is fine-tuned.
    """

    learning_rate: float = 3e-3
    decay: str = "cosine"
    weight_decay: float = 0.0
    ownership: str = "weight"
    head_resets: int = 0

    def __post_init__(self) -> None:
        """Reject settings that no optimizer takes."""
        if self.ownership not in OWNERSHIPS:
            raise ValueError(
                f"optimizer ownership is {' or '.join(OWNERSHIPS)}: received '{self.ownership}'"
            )
        if self.decay not in DECAYS:
            raise ValueError(f"a decay is {' or '.join(DECAYS)}: received '{self.decay}'")
        if self.head_resets < 0:
            raise ValueError(f"--head-resets is how often, 0 or more: received {self.head_resets}")
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

    def resets_heads(self, step: int, total_steps: int) -> bool:
        """Whether the heads start afresh before ``step`` (counted from 0)."""
        parts = self.head_resets + 1
        return step > 0 and any(step == k * total_steps // parts for k in range(1, parts))

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer over ``parameters``."""
        if self.weight_decay:
            return torch.optim.AdamW(
                parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
            )
        return torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)
