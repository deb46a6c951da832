"""What a learner's state holds, and which states it refuses."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from trifecta import Learner, build_network, get_method
from trifecta._utils.devices import has_bfloat16
from trifecta.learner import is_finite, load_optimizer
from trifecta.optim import Muon


def learner_of(seed: int | None = 0, steps: int = 2, **options: Any) -> Learner:
    network = build_network(get_method("ff"), "mlp", sample_shape=(1, 4, 4), num_classes=3, width=0.005)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    learner = Learner(network, generator=generator, total_steps=10, **options)
    for _ in range(steps):
        learner.step(torch.randn(6, 1, 4, 4), torch.arange(6) % 3)
    return learner


def test_a_run_goes_on_in_the_precision_in_which_it_began() -> None:
    state = learner_of().state_dict() | {"precision": "fp32"}
    automatic = learner_of(steps=0, precision="auto")
    automatic.load_state_dict(state)
    assert automatic.precision == "fp32"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        automatic.load_state_dict(state | {"precision": "bf16"})
    assert automatic.precision == ("bf16" if has_bfloat16(automatic.device) else "fp32")
    asked = learner_of(steps=0, precision="fp32")
    asked.load_state_dict(state | {"precision": "bf16"})
    assert asked.precision == "fp32"


def test_a_state_without_optimizers_or_random_numbers_leaves_them() -> None:
    state = learner_of(seed=None).state_dict()
    assert state["generator"] is None
    other = learner_of(seed=3, steps=1)
    assert other.generator is not None
    numbers = other.generator.get_state()
    del state["optimizers"]
    other.load_state_dict(state)
    assert (other.steps, torch.equal(other.generator.get_state(), numbers)) == (2, True)
    assert all(values["step"] == 1 for o in other.optimizers.values() for values in o.state.values())
    learner_of(seed=None).load_state_dict(learner_of().state_dict())


def adam() -> torch.optim.Adam:
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2, 3))], lr=0.5, betas=(0.8, 0.9))
    (weight,) = optimizer.param_groups[0]["params"]
    weight.grad = torch.ones(2, 3)
    optimizer.step()
    return optimizer


def test_an_optimizer_goes_on_with_its_moments_and_settings() -> None:
    state, optimizer = adam().state_dict(), adam()
    state["param_groups"][0]["lr"] = 0.25
    state["state"][0]["exp_avg"] *= 2
    load_optimizer(optimizer, state)
    (values,) = optimizer.state.values()
    assert torch.equal(values["exp_avg"], state["state"][0]["exp_avg"])
    assert optimizer.param_groups[0]["lr"] == 0.25
    with pytest.raises(ValueError, match="different number of parameter groups"):
        load_optimizer(optimizer, state | {"param_groups": state["param_groups"] * 2})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("exp_avg", torch.ones(3, 2), r"^exp_avg is \(3, 2\) for a weight \(2, 3\)$"),
        ("exp_avg", torch.full((2, 3), torch.nan), "^exp_avg has values that are not finite$"),
        ("exp_avg_sq", torch.tensor([[1, 2, 3], [4, 5, torch.inf]]), "^exp_avg_sq has values"),
        ("step", torch.tensor(torch.nan), "^step has values that are not finite$"),
    ],
)
def test_moments_that_are_none_are_refused(name: str, value: torch.Tensor, words: str) -> None:
    state = adam().state_dict()
    state["state"][0][name] = value
    with pytest.raises(ValueError, match=words):
        load_optimizer(adam(), state)


class Own(torch.optim.SGD):
    """Keeps what it likes."""


def test_an_optimizer_of_ones_own_may_keep_tensors_of_any_shape() -> None:
    optimizer = Own([nn.Parameter(torch.ones(2, 3))], lr=0.5)
    state = optimizer.state_dict()
    state["state"] = {0: {"history": torch.ones(7)}}
    load_optimizer(optimizer, state)
    state["state"] = {0: {"history": torch.full((7,), torch.inf)}}
    with pytest.raises(ValueError, match=r"^history has values that are not finite$"):
        load_optimizer(optimizer, state)


def test_what_an_optimizer_keeps_beside_tensors_hides_none_of_them() -> None:
    optimizer = Own([nn.Parameter(torch.ones(2, 3))], lr=0.5)
    state = optimizer.state_dict() | {"state": {0: {"note": "text", "history": torch.tensor([torch.nan])}}}
    with pytest.raises(ValueError, match=r"^history has values"):
        load_optimizer(optimizer, state)


def test_our_own_optimizer_is_known() -> None:
    def muon() -> Muon:
        groups = [{"params": [nn.Parameter(torch.ones(2, 3))], "orthogonalized": True}]
        return Muon(groups, lr=0.1)

    state = muon().state_dict()
    state["state"] = {0: {"step": torch.ones(()), "momentum": torch.ones(3, 2)}}
    with pytest.raises(ValueError, match=r"^momentum is \(3, 2\) for a weight \(2, 3\)$"):
        load_optimizer(muon(), state)
    state["state"] = {0: {"step": torch.ones(()), "momentum": torch.ones(2, 3)}}
    load_optimizer(muon(), state)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_loss_and_all_gradients_must_be_finite(number: float) -> None:
    optimizers = [adam(), adam()]
    assert is_finite(torch.tensor(1.0), optimizers)
    assert not is_finite(torch.tensor(number), optimizers)
    for optimizer in optimizers:
        (weight,) = optimizer.param_groups[0]["params"]
        weight.grad[1, 2] = number
        assert not is_finite(torch.tensor(1.0), optimizers)
        weight.grad = None
        assert is_finite(torch.tensor(1.0), optimizers)
