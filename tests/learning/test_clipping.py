"""Gradients are clipped as PyTorch clips them, those of each optimizer together."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trifecta import Learner, Method, build_network, get_method
from trifecta.parallel.plan import Layout, make_plan
from trifecta.parallel.stage import check_network
from trifecta.schedules import OVERLAPPING

IMAGES, LABELS = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def method_of(name: str = "mono-forward", **settings: Any) -> Method:
    method = get_method(name)
    return replace(method, optimizer=replace(method.optimizer, **settings))


def gradients_of(method: Method, steps: int = 2) -> list[list[Tensor]]:
    """What each optimizer used, in order; weights stay as they are."""
    used: list[list[Tensor]] = []

    def keep(optimizer: torch.optim.Optimizer) -> None:
        own = [p for group in optimizer.param_groups for p in group["params"]]
        used.append([p.grad.clone() for p in own if p.grad is not None])

    network = build_network(method, "small", sample_shape=(1, 8, 8), num_classes=3, width=0.1, seed=3)
    generator = torch.Generator().manual_seed(0)
    learner = Learner(network.double(), generator=generator, step_optimizer=keep)
    for _ in range(steps):
        learner.step(IMAGES, LABELS)
    return used


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mono-forward", {}),
        ("trifecta", {"ownership": "objective"}),
        ("superfecta", {}),
        ("backprop", {}),
    ],
)
def test_the_gradients_of_an_optimizer_are_clipped_together(name: str, settings: dict[str, Any]) -> None:
    plain = gradients_of(method_of(name, **settings))
    norms = [float(torch.cat([g.flatten() for g in own]).norm()) for own in plain]
    limit = sorted(norms)[len(norms) // 2]
    clipped = gradients_of(method_of(name, **settings, clip_norm=limit))
    assert min(norms) < limit < max(norms) or len(norms) == 2
    for own, found, norm in zip(plain, clipped, norms, strict=True):
        # PyTorch adds 1e-6 to the norm.
        factor = min(1.0, limit / (norm + 1e-6))
        assert all(torch.allclose(a * factor, b, rtol=1e-12) for a, b in zip(own, found, strict=True))


def test_a_norm_that_lies_on_several_stages_is_refused() -> None:
    method = replace(method_of(clip_norm=1.0, ownership="objective"), schedule=OVERLAPPING)
    network = build_network(method, "small", sample_shape=(1, 8, 8), num_classes=3, width=0.05)
    staged = make_plan(Layout(layers=2), [1.0] * 6, OVERLAPPING)
    with pytest.raises(ValueError, match=r"none knows their norm: received clip_norm 1\.0; use owner"):
        check_network(network, staged, on_nan="stop")
    check_network(network, make_plan(Layout(data=2), [1.0] * 6, OVERLAPPING), on_nan="stop")
