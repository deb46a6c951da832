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
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from trifecta._utils.references import check_part, lookup

OWNERSHIPS = ("weight", "objective")
DECAYS = ("cosine", "linear", "constant")
# Root mean square of an update's entries, that of Adam's usual step: the two share a learning rate.
UPDATE_RMS = 0.2
# Rounds of x ← a·x + b·(x xᵀ)x + c·(x xᵀ)²x take singular values in (0, 1] to about 1.
ROUNDS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Adam):
    """Muon for parameter groups marked ``orthogonalized``, Adam for all others.

    ``momentum ← lerp(momentum, gradient, 1 − m)`` with m = 0.95, then
    ``weight ← weight − lr · 0.2 · sqrt(max(O, I)) · orthogonalised(lerp(gradient, momentum, m))``, where a
    weight (O, …) counts as the matrix (O, I). PyTorch's own Muon refuses weights of convolutions.
    Source: Jordan et al. 2024, *Muon: an optimizer for hidden layers in neural networks*; the scale of the
    step from Liu et al. 2025, *Muon is scalable for LLM training* (arXiv 2502.16982); ``normalized`` and
    ``matched`` from the published code of *airbench94_muon*.

    Args:
        params: parameters, which Adam steps, or groups of them; a group with ``"orthogonalized": True`` has
            matrices of hidden layers, which Muon steps. Leave gains, biases and classifiers to Adam.
        lr: learning rate of both.
        momentum: share of the past in Muon's momentum, 0 to 1.
        normalized: whether matrices are brought to norm ``sqrt(O)`` before every step. In front of a
            normalization the norm would only grow, and a step turn the matrix less and less.
        matched: whether a step is as long as Adam's usual one, by the factor ``0.2 · sqrt(max(O, I))``.
            Without it, lr is the share of a ``normalized`` matrix that a step replaces.
        adam_scale: Adam's learning rate, as a multiple of ``lr``.
        rounds: rounds of :func:`orthogonalised`, 1 or more; few leave small singular values small.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float = 3e-3,
        momentum: float = 0.95,
        normalized: bool = False,
        matched: bool = True,
        adam_scale: float = 1.0,
        rounds: int = ROUNDS,
    ) -> None:
        if not (0 <= momentum < 1 and adam_scale > 0 and rounds >= 1):
            raise ValueError(
                "muon's momentum is 0 or more and below 1, adam_scale above 0, and rounds are 1 or more: "
                f"received {momentum}, {adam_scale} and {rounds}"
            )
        super().__init__(params, lr=lr, fused=True)
        own = {"orthogonalized": False, "momentum": momentum, "normalized": normalized}
        own |= {"matched": matched, "adam_scale": adam_scale, "rounds": rounds}
        for group in self.param_groups:
            # In the groups, so that copies and checkpoints have them.
            group |= own | group

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update every parameter that has a gradient, once; orthogonalized ones lose theirs on the way.

        A closure is called before any weight moves, and what it returns is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rates = [group["lr"] for group in self.param_groups]
        try:
            for group in self.param_groups:
                for weight in group["params"] if group["orthogonalized"] else ():
                    if weight.grad is not None:
                        self._step_orthogonalized(weight, weight.grad, group)
                        # Adam skips parameters without a gradient.
                        weight.grad = None
                group["lr"] = group["lr"] * group.get("adam_scale", 1.0)
            super().step()
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
        return loss

    def _step_orthogonalized(self, weight: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        # Checkpoints of earlier versions have no settings.
        state, momentum = self.state[weight], group.get("momentum", 0.95)
        if not state:
            # Adam looks for a step in every state that it loads.
            state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(weight)}
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - momentum)
        matrix = gradient.lerp(state["momentum"], momentum).flatten(1)
        if group.get("normalized"):
            weight.mul_(math.sqrt(len(weight)) / weight.norm().clamp(min=torch.finfo(weight.dtype).tiny))
        scale = UPDATE_RMS * math.sqrt(max(matrix.shape)) if group.get("matched", True) else 1.0
        update, rate = orthogonalised(matrix, group.get("rounds", ROUNDS)).view(weight.shape), group["lr"]
        if isinstance(rate, Tensor):
            # A number would have to be read from the device.
            weight.addcmul_(update, rate, value=-scale)
        else:
            weight.sub_(update, alpha=rate * scale)


def orthogonalised(matrix: Tensor, rounds: int = ROUNDS) -> Tensor:
    """Return roughly the nearest matrix whose singular values are all 1: 0.7 to 1.2; (O, I) → (O, I).

    Newton–Schulz iteration in float32 or wider; a matrix of zeros stays one. Every round multiplies x from
    the left by ``z = a + b·g + c·g²`` of its Gram matrix ``g = x xᵀ``, and all of these commute. So the
    rounds run on the Gram matrix, the smaller one, and x is multiplied once, by the product of all z.
    """
    x: Tensor = matrix.float() if matrix.dtype.itemsize < 4 else matrix
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    # Squared singular values near 0 grow by a² a round: in half precision their rounding errors do too.
    with torch.autocast(x.device.type, enabled=False):
        # Before its squares are taken, which of a small gradient would be 0.
        x = x / x.norm().clamp(min=torch.finfo(x.dtype).tiny)
        gram, product = x @ x.T, None
        for number in range(rounds):
            z = torch.addmm(gram, gram, gram, beta=_B, alpha=_C)
            z.diagonal().add_(_A)
            product = z if product is None else product @ z
            if number < rounds - 1:
                gram = gram @ (z @ z)
        x = x if product is None else product @ x
    return (x.T if is_tall else x).to(matrix.dtype)


ALGORITHMS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "muon": Muon}
MUON_ARGUMENTS = ("momentum", "normalized", "matched", "adam_scale", "rounds")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam (AdamW where ``weight_decay`` > 0), Muon, or an optimizer of your own.

    Attributes:
        algorithm: ``adam``, ``muon`` for the matrices of blocks (:class:`Muon`), or a class or function
            that is called as ``algorithm(parameters, lr=learning_rate, **arguments)``, such as
            ``torch.optim.SGD``.
        arguments: for an algorithm of your own, or Muon's besides its learning rate.
        learning_rate: at the first step, or after the warm-up.
        decay: ``cosine`` or ``linear`` to 0 at the run's last step, or ``constant``; then, without a
            warm-up, a scheduler of your own may be attached to the optimizers of a
            :class:`trifecta.Learner`.
        warmup: share of the run in which the learning rate rises linearly from 0, before it decays over the
            rest; below ``freeze_from``.
        clip_norm: norm to which the gradients of an optimizer (those of a block, or of its objective) are
            scaled down together if theirs is larger, as by ``torch.nn.utils.clip_grad_norm_``; None leaves
            them as they are.
        weight_decay: of Adam; decoupled, per step and learning rate.
        ownership: ``weight`` or ``objective``, see this module.
        freeze_from: share of the run after which the first block stays as it is and costs a forward pass
            only; later blocks follow at equal distances, the last at the end. Each block's learning rate
            decays to its own end. 1 freezes none. Source: Brock et al. 2017, FreezeOut (arXiv 1706.04983),
            for backprop, where a block can only freeze after all before it.
    """

    algorithm: str | Callable[..., torch.optim.Optimizer] = "adam"
    # Dictionaries are unhashable; the other fields suffice for a hash.
    arguments: dict[str, Any] = field(default_factory=dict, hash=False)
    learning_rate: float = 3e-3
    decay: str = "cosine"
    warmup: float = 0.0
    clip_norm: float | None = None
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
        if not 0 <= self.warmup < self.freeze_from or not (self.clip_norm is None or self.clip_norm > 0):
            raise ValueError(
                f"warmup is a share of the run, 0 or more and below freeze_from ({self.freeze_from}), and "
                f"clip_norm is above 0, or None: received {self.warmup} and {self.clip_norm}"
            )
        if self.freeze_from < 1 and self.decay == "constant":
            raise ValueError(
                "a block freezes when its learning rate has decayed: received freeze_from "
                f"{self.freeze_from} with decay constant; use cosine or linear"
            )

    def rate(self, progress: float, *, end: float = 1.0) -> float:
        """Return the rate after a share ``progress`` of the run, of a block that learns to ``end``.

        Source: linear warm-up, Goyal et al. 2017, *Accurate, large minibatch SGD* (arXiv 1706.02677).
        """
        if progress < self.warmup:
            return self.learning_rate * progress / self.warmup
        share = min((progress - self.warmup) / (end - self.warmup), 1.0)
        factors = {"constant": 1.0, "linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2}
        return self.learning_rate * factors[self.decay]

    def end(self, block: int, num_blocks: int) -> float:
        """Return the share of the run for which ``block`` of so many learns, the last to its end."""
        is_last = block == num_blocks - 1
        return 1.0 if is_last else self.freeze_from + (1 - self.freeze_from) * block / (num_blocks - 1)

    def frozen_blocks(self, progress: float, num_blocks: int) -> int:
        """Count the leading blocks that no longer learn."""
        if self.freeze_from == 1:
            return 0
        return sum(progress >= self.end(block, num_blocks) for block in range(num_blocks))

    def clip(self, optimizer: torch.optim.Optimizer) -> None:
        """Scale the gradients that ``optimizer`` would use down to ``clip_norm``, if there is one."""
        if self.clip_norm is not None:
            own = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(own, self.clip_norm)

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
            return Muon([g for g in groups if g["params"]], lr=self.learning_rate, **self.arguments)
        adam = torch.optim.AdamW if self.weight_decay else torch.optim.Adam
        return adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
