"""A method's optimizer: the algorithm, its learning rate over the run, and who owns a state.

Every block steps on its own clock, so optimizers come in one instance per *owner*. Ownership by
``weight``: block k's optimizer owns block k's weights, and whichever window closes over them steps it.
Ownership by ``objective`` (the Trifecta's published code): the optimizer of the objective at block k
owns every weight that this objective reaches, so a weight that two objectives train has two states.
"""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from trifecta._utils.references import check_part, lookup
from trifecta.optim.muon import Muon

OWNERSHIPS = ("weight", "objective")
ALGORITHMS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "muon": Muon}
MUON_ARGUMENTS = ("momentum", "normalized", "matched", "adam_scale", "rounds")
DECAYS = ("cosine", "linear", "constant")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam (AdamW where ``weight_decay`` > 0), Muon, or an optimizer of your own.

    Attributes:
        algorithm: ``adam``, ``muon`` for the matrices of blocks (:class:`trifecta.optim.Muon`), or a class
            or function that is called as ``algorithm(parameters, lr=learning_rate, **arguments)``, such as
            ``torch.optim.SGD``.
        arguments: for an algorithm of your own, or Muon's beside its learning rate.
        learning_rate: at the first step.
        decay: ``cosine`` or ``linear`` to 0 at the run's last step, or ``constant``; then a scheduler of
            your own may be attached to the optimizers of a :class:`trifecta.Learner`.
        weight_decay: of Adam; decoupled, per step and learning rate.
        ownership: ``weight`` or ``objective``, see this module.
        freeze_from: share of the run after which the first block stays as it is and costs a forward pass
            only; later blocks follow at equal distances, the last at the end. Each block's learning rate
            decays to its own end. 1 freezes none. Source: Brock et al. 2017, FreezeOut (arXiv 1706.04983),
            for backprop, where a block can only freeze after all before it.

    Raises:
        ValueError: settings that no optimizer takes.
    """

    algorithm: str | Callable[..., torch.optim.Optimizer] = "adam"
    # Dictionaries are unhashable; the other fields suffice for a hash.
    arguments: dict[str, Any] = field(default_factory=dict, hash=False)
    learning_rate: float = 3e-3
    decay: str = "cosine"
    weight_decay: float = 0.0
    ownership: str = "weight"
    freeze_from: float = 1.0

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_part(ALGORITHMS, self.algorithm, "optimizer")
        lookup(dict.fromkeys(OWNERSHIPS), self.ownership, "optimizer ownership")
        lookup(dict.fromkeys(DECAYS), self.decay, "decay")
        taken = MUON_ARGUMENTS if self.algorithm == "muon" else ()
        unknown = [name for name in self.arguments if name not in taken]
        if unknown and isinstance(self.algorithm, str):
            raise ValueError(
                f"arguments are for an optimizer of your own, or muon's {', '.join(MUON_ARGUMENTS)}: "
                f"received {', '.join(unknown)} with {self.algorithm}"
            )
        if self.algorithm != "adam" and self.weight_decay:
            raise ValueError(
                f"weight_decay is Adam's: received {self.weight_decay} with another optimizer; give it in "
                "arguments where the optimizer has one"
            )
        if not 0 < self.freeze_from <= 1 or not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(
                "the learning rate must be above 0, weight decay at least 0, and freeze_from is a share of "
                f"the run above 0: received {self.learning_rate}, {self.weight_decay}, {self.freeze_from}"
            )
        if self.freeze_from < 1 and self.decay == "constant":
            raise ValueError(
                "a block freezes when its learning rate has decayed: received freeze_from "
                f"{self.freeze_from} with decay constant; use cosine or linear"
            )

    def rate(self, progress: float, *, end: float = 1.0) -> float:
        """Return the rate after a share ``progress`` of the run, of a block that learns to ``end``."""
        if self.decay == "constant":
            return self.learning_rate
        share = min(progress / end, 1.0)
        return self.learning_rate * (
            1 - share if self.decay == "linear" else (1 + math.cos(math.pi * share)) / 2
        )

    def end(self, block: int, num_blocks: int) -> float:
        """Return the share of the run for which ``block`` of so many learns, the last to its end."""
        is_last = block == num_blocks - 1
        return 1.0 if is_last else self.freeze_from + (1 - self.freeze_from) * block / (num_blocks - 1)

    def frozen_blocks(self, progress: float, num_blocks: int) -> int:
        """Count the leading blocks that no longer learn."""
        if self.freeze_from == 1:
            return 0
        return sum(progress >= self.end(block, num_blocks) for block in range(num_blocks))

    def build(
        self, parameters: Iterable[nn.Parameter], *, hidden: Collection[nn.Parameter] = ()
    ) -> torch.optim.Optimizer:
        """Build an optimizer over ``parameters``, of which the ``hidden`` ones are matrices of blocks."""
        if callable(self.algorithm):
            return self.algorithm(parameters, lr=self.learning_rate, **self.arguments)
        if self.algorithm == "muon":
            matrices, own = set(hidden), list(parameters)
            groups = [
                {"params": [p for p in own if (p in matrices) == is_hidden], "orthogonalized": is_hidden}
                for is_hidden in (True, False)
            ]
            groups = [group for group in groups if group["params"]]
            return Muon(groups, lr=self.learning_rate, **self.arguments)
        if self.weight_decay:
            return torch.optim.AdamW(
                parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
            )
        return torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)
