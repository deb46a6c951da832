"""Which optimizer state belongs to which weight.

Every block steps on its own clock, so optimizers come in one instance per *owner*. Ownership by
``weight``: block k's optimizer owns block k's weights, and whichever window closes over them steps it.
Ownership by ``objective`` (the Trifecta's published code): the optimizer of the objective at block k
owns every weight that this objective reaches, so a weight that two objectives train has two states.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from trifecta.muon import Muon

OWNERSHIPS = ("weight", "objective")
ALGORITHMS = ("adam", "muon")
DECAYS = ("cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam (AdamW where ``weight_decay`` > 0), or Muon.

    Attributes:
        algorithm: ``adam``, or ``muon`` for the matrices of blocks (:class:`trifecta.muon.Muon`).
        learning_rate: at the first step.
        decay: ``cosine`` to 0 at the run's last step, or ``constant``.
        weight_decay: decoupled, per step and learning rate.
        ownership: ``weight`` or ``objective``, see this module.
        head_resets: how often the read-out heads start afresh during the run, at equal distances, so that
            blocks do not learn to suit one set of classifiers. Source: Li et al. 2020, RIFLE
            (arXiv 2007.03349), for the last layer of a network that is fine-tuned.
        freeze_from: the share of the run after which the first block stays as it is and costs a forward
            pass only; later blocks follow at equal distances, the last at the end. Each block's learning
            rate decays to its own end. 1 freezes none. Source: Brock et al. 2017, FreezeOut
            (arXiv 1706.04983), for backprop, where a block can only freeze after all before it.
    """

    algorithm: str = "adam"
    learning_rate: float = 3e-3
    decay: str = "cosine"
    weight_decay: float = 0.0
    ownership: str = "weight"
    head_resets: int = 0
    freeze_from: float = 1.0

    def __post_init__(self) -> None:
        """Reject settings that no optimizer takes."""
        if self.ownership not in OWNERSHIPS:
            raise ValueError(
                f"optimizer ownership is {' or '.join(OWNERSHIPS)}: received '{self.ownership}'"
            )
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"an optimizer is {' or '.join(ALGORITHMS)}: received '{self.algorithm}'")
        if self.algorithm == "muon" and self.weight_decay:
            raise ValueError(
                "weight decay is Adam's alone here: received --weight-decay with --optimizer muon; drop one"
            )
        if self.decay not in DECAYS:
            raise ValueError(f"a decay is {' or '.join(DECAYS)}: received '{self.decay}'")
        if self.head_resets < 0:
            raise ValueError(f"--head-resets is how often, 0 or more: received {self.head_resets}")
        if not 0 < self.freeze_from <= 1:
            raise ValueError(
                f"--freeze-from is a share of the run, above 0 and up to 1: received {self.freeze_from}"
            )
        if self.freeze_from < 1 and self.decay == "constant":
            raise ValueError(
                "a block freezes when its learning rate has decayed: received --freeze-from "
                f"{self.freeze_from} with --decay constant; use --decay cosine"
            )
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(
                "the learning rate must be above 0 and weight decay at least 0: received "
                f"{self.learning_rate} and {self.weight_decay}"
            )

    def rate(self, progress: float, *, end: float = 1.0) -> float:
        """Rate after a share ``progress`` of the run (0 … 1), of a block that learns to ``end``."""
        if self.decay == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * min(progress / end, 1.0))) / 2

    def end(self, block: int, num_blocks: int) -> float:
        """The share of the run for which ``block`` of so many learns."""
        return self.freeze_from + (1 - self.freeze_from) * block / max(num_blocks - 1, 1)

    def frozen_blocks(self, progress: float, num_blocks: int) -> int:
        """How many blocks, counted from the first, learn no more."""
        if self.freeze_from == 1:
            return 0
        return sum(progress >= self.end(block, num_blocks) for block in range(num_blocks))

    def resets_heads(self, step: int, total_steps: int) -> bool:
        """Whether the heads start afresh before ``step`` (counted from 0)."""
        parts = self.head_resets + 1
        return step > 0 and any(step == k * total_steps // parts for k in range(1, parts))

    def build(
        self, parameters: Iterable[nn.Parameter], *, hidden: Collection[nn.Parameter] = ()
    ) -> torch.optim.Optimizer:
        """An optimizer over ``parameters``, of which the ``hidden`` ones are matrices of blocks."""
        if self.algorithm == "muon":
            return Muon(parameters, hidden=hidden, lr=self.learning_rate)
        if self.weight_decay:
            return torch.optim.AdamW(
                parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
            )
        return torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)
