"""Muon: momentum whose step is an orthogonalised matrix.

Shapes: a weight (O, …) counts as the matrix (O, I), a convolution's filters as its rows.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

# Root mean square of an update's entries, that of Adam's usual step: the two share a learning rate.
UPDATE_RMS = 0.2
# Rounds of x ← a·x + b·(x xᵀ)x + c·(x xᵀ)²x take singular values in (0, 1] to about 1.
ROUNDS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Adam):
    """Muon for parameter groups marked ``orthogonalized``, Adam for all others.

    ``momentum ← lerp(momentum, gradient, 1 − m)`` with m = 0.95, then
    ``weight ← weight − lr · 0.2 · sqrt(max(O, I)) · orthogonalised(lerp(gradient, momentum, m))``.
    Source: Jordan et al. 2024, *Muon: an optimizer for hidden layers in neural networks*; the scale of the
    step from Liu et al. 2025, *Muon is scalable for LLM training* (arXiv 2502.16982). PyTorch's own takes
    weights of two dimensions only, which filters of convolutions are not.

    Args:
        params: parameters, which Adam steps, or groups of them; a group with ``"orthogonalized": True`` has
            matrices of hidden layers, which Muon steps. Leave gains, biases and classifiers to Adam.
        lr: learning rate of both.
        momentum: share of the past in Muon's momentum, 0 to 1.
        normalized: whether matrices are brought to norm ``sqrt(O)`` before every step. The norm of a matrix
            in front of a normalization means nothing, but it grows, and steps of one size turn a longer
            matrix less: the learning rate would decay by itself. Source: Jordan 2024, the published code
            of *airbench94_muon*.
        matched: whether a step is as long as Adam's usual one, by the factor ``0.2 · sqrt(max(O, I))``.
            Without it a step is ``lr · orthogonalised(…)``: if ``normalized``, lr is the share of a matrix
            that a step replaces, whatever its shape. Source as of ``normalized``.
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
        own = {
            "orthogonalized": False,
            "momentum": momentum,
            "normalized": normalized,
            "matched": matched,
            "adam_scale": adam_scale,
            "rounds": rounds,
        }
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
        for group in self.param_groups:
            for weight in group["params"] if group["orthogonalized"] else ():
                if weight.grad is not None:
                    self._step_orthogonalized(weight, weight.grad, group)
                    # Adam skips parameters without a gradient.
                    weight.grad = None
        with self._adam_rates():
            super().step()
        return loss

    @contextmanager
    def _adam_rates(self) -> Iterator[None]:
        """Give every group Adam's learning rate for a while."""
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = group["lr"] * group.get("adam_scale", 1.0)
        try:
            yield
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate

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
    # Squared singular values near 0 grow by a² a round: in half precision their rounding errors do too.
    with torch.autocast(x.device.type, enabled=False):
        x = _by_gram(x.T if is_tall else x, rounds)
    return (x.T if is_tall else x).to(matrix.dtype)


def _by_gram(x: Tensor, rounds: int) -> Tensor:
    """:func:`orthogonalised` for (R, C) with R ≤ C."""
    # Before its squares are taken, which of a small gradient would be 0.
    x = x / x.norm().clamp(min=torch.finfo(x.dtype).tiny)
    gram, product = x @ x.T, None
    for number in range(rounds):
        z = torch.addmm(gram, gram, gram, beta=_B, alpha=_C)
        z.diagonal().add_(_A)
        product = z if product is None else product @ z
        if number < rounds - 1:
            gram = gram @ (z @ z)
    assert product is not None
    return product @ x
