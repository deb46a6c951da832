"""What a learner's state holds, and which states it refuses."""

from typing import Any

import pytest
import torch
from torch import nn

from trifecta import Learner, build_network, get_method
from trifecta.learner import KeptBuffers, is_finite, load_optimizer, whole_number
from trifecta.optim import Muon


def learner_of(seed: int | None = 0, steps: int = 2, **options: Any) -> Learner:
    network = build_network(get_method("ff"), "mlp", sample_shape=(1, 4, 4), num_classes=3, width=0.005)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    learner = Learner(network, generator=generator, total_steps=10, **options)
    for _ in range(steps):
        learner.step(torch.randn(6, 1, 4, 4), torch.arange(6) % 3)
    return learner


def test_a_state_is_everything_beside_the_weights() -> None:
    learner = learner_of()
    learner.skipped = {1, 0}
    state = learner.state_dict()
    assert {"steps": 2, "skipped": [0, 1], "device": "cpu", "precision": "fp32"}.items() <= state.items()
    assert learner.generator is not None
    assert torch.equal(state["generator"], learner.generator.get_state())
    assert state["optimizers"].keys() == learner.optimizers.keys()
    other = learner_of(seed=5, steps=0)
    other.load_state_dict(state)
    assert (other.steps, other.skipped) == (2, {0, 1})
    assert other.generator is not None
    assert other.generator.initial_seed() == 0
    assert torch.equal(other.generator.get_state(), state["generator"])
    for owner, optimizer in other.optimizers.items():
        own, theirs = optimizer.state_dict(), learner.optimizers[owner].state_dict()
        assert own["param_groups"] == theirs["param_groups"]
        for parameter, values in theirs["state"].items():
            assert values["step"] == own["state"][parameter]["step"] == 2
            assert torch.equal(values["exp_avg"], own["state"][parameter]["exp_avg"])


def test_a_run_goes_on_in_the_precision_in_which_it_began() -> None:
    state = learner_of().state_dict() | {"precision": "fp32"}
    automatic = learner_of(steps=0, precision="auto")
    automatic.load_state_dict(state)
    assert automatic.precision == "fp32"
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


def test_random_numbers_of_another_kind_of_device_do_not_continue() -> None:
    state = learner_of().state_dict() | {"device": "cuda"}
    other = learner_of(seed=3, steps=0)
    with pytest.warns(
        UserWarning, match=r"^random numbers of cuda do not continue on cpu: the run goes on,"
    ):
        other.load_state_dict(state)
    assert other.generator is not None
    assert other.generator.initial_seed() == 3


@pytest.mark.parametrize("value", [-1, 1.0, True, "2", None])
def test_a_count_is_a_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match=rf"^a count is a whole number, 0 or more: received {value!r}$"):
        whole_number(value)
    assert (whole_number(0), whole_number(7)) == (0, 7)


def adam() -> torch.optim.Adam:
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2, 3))], lr=0.5, betas=(0.8, 0.9))
    (weight,) = optimizer.param_groups[0]["params"]
    weight.grad = torch.ones(2, 3)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": "0.5"}, "lr is '0.5' in place of 0.5"),
        ({"lr": True}, "lr is True in place of 0.5"),
        ({"betas": (0.8,)}, r"betas is \(0.8,\) in place of \(0.8, 0.9\)"),
        ({"betas": (0.8, "b")}, "betas is .* in place of"),
        ({"amsgrad": True}, "amsgrad is True in place of False"),
        ({"fused": 1}, "fused is 1 in place of None"),
        ({"weight_decay": None}, "weight_decay is None in place of 0"),
    ],
)
def test_settings_of_other_types_are_refused(change: dict[str, Any], words: str) -> None:
    state = adam().state_dict()
    state["param_groups"][0] |= change
    with pytest.raises(ValueError, match=f"^{words}"):
        load_optimizer(adam(), state)


def test_settings_of_the_same_types_are_taken() -> None:
    state = adam().state_dict()
    state["param_groups"][0] |= {"lr": 1, "betas": [0.1, 0.2], "weight_decay": 0.25}
    optimizer = adam()
    load_optimizer(optimizer, state)
    assert optimizer.param_groups[0]["lr"] == 1
    with pytest.raises(ValueError, match="zip"):
        load_optimizer(optimizer, state | {"param_groups": state["param_groups"] * 2})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("exp_avg", torch.ones(3, 2), r"^exp_avg is \(3, 2\) for a weight \(2, 3\)$"),
        ("exp_avg", torch.full((2, 3), torch.nan), "^exp_avg has values that are not finite$"),
        ("exp_avg_sq", torch.tensor([[1, 2, 3], [4, 5, torch.inf]]), "^exp_avg_sq has values"),
        ("step", torch.tensor(torch.nan), "^step is nan$"),
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


def test_our_own_optimizer_is_known_and_texts_stay_texts() -> None:
    def muon() -> Muon:
        groups = [{"params": [nn.Parameter(torch.ones(2, 3))], "orthogonalized": True, "kind": "text"}]
        return Muon(groups, lr=0.1)

    state = muon().state_dict()
    state["state"] = {0: {"step": torch.ones(()), "momentum": torch.ones(3, 2)}}
    with pytest.raises(ValueError, match=r"^momentum is \(3, 2\) for a weight \(2, 3\)$"):
        load_optimizer(muon(), state)
    state["state"] = {0: {"step": torch.ones(()), "momentum": torch.ones(2, 3)}}
    load_optimizer(muon(), state)
    state["param_groups"][0]["kind"] = b"text"
    with pytest.raises(ValueError, match=r"^kind is b'text' in place of 'text'$"):
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


def test_buffers_are_set_back_where_one_is_not_finite() -> None:
    modules = [nn.BatchNorm1d(2), nn.BatchNorm1d(2)]
    kept = KeptBuffers(modules)
    for module in modules:
        module(torch.randn(4, 2))
    kept.restore_unless_finite()
    assert all(module.running_mean.any() for module in modules if module.running_mean is not None)
    modules[1](torch.full((4, 2), torch.nan))
    kept.restore_unless_finite()
    for module in modules:
        assert module.running_mean is not None
        assert not module.running_mean.any()
        assert module.num_batches_tracked == 0
