"""Which optimizer state belongs to which weight.

Every block steps on its own clock, so optimizers come in one instance per *owner*. Ownership by
``weight``: block k's optimizer owns block k's weights, and whichever window closes over them steps it.
Ownership by ``objective`` (the Trifecta's published code): the optimizer of the objective at block k
owns every weight that this objective reaches, so a weight that two objectives train has two states.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

OWNERSHIPS = ("weight", "objective")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam (AdamW where ``weight_decay`` > 0) with a constant learning rate."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    ownership: str = "weight"

    def __post_init__(self) -> None:
        """Reject settings that no optimizer takes."""
        if self.ownership not in OWNERSHIPS:
            raise ValueError(
                f"optimizer ownership is {' or '.join(OWNERSHIPS)}: received '{self.ownership}'"
            )
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(
                "the learning rate must be above 0 and weight decay at least 0: received "
                f"{self.learning_rate} and {self.weight_decay}"
            )

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer over ``parameters``."""
        if self.weight_decay:
            return torch.optim.AdamW(
                parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
            )
        return torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)
