"""Muon against its formula, and beside Adam."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trifecta.learner import Learner
from trifecta.methods import get_method
from trifecta.network import build_network
from trifecta.optim import Muon, OptimizerConfig, orthogonalised

SHAPE = (3, 32, 32)


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16), (1, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_orthogonalised_matrix_keeps_its_directions_and_loses_their_lengths(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    # Singular values over two orders of magnitude, in directions that are known.
    size = min(shape)
    draw = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(shape[0], size, generator=draw, dtype=dtype))
    right, _ = torch.linalg.qr(torch.randn(shape[1], size, generator=draw, dtype=dtype))
    values = torch.logspace(-1, 1, size, dtype=dtype)
    result = orthogonalised(left * values @ right.T)
    assert result.dtype == dtype
    core = left.T @ result @ right
    assert ((core.diagonal() > 0.6) & (core.diagonal() < 1.3)).all()
    torch.testing.assert_close(core, torch.diag(core.diagonal()), atol=1e-4, rtol=0)
    torch.testing.assert_close(left @ core @ right.T, result, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rounds", [1, 3, 5])
@pytest.mark.parametrize("shape", [(6, 30), (30, 6)])
def test_rounds_on_the_gram_matrix_are_rounds_on_the_matrix(shape: tuple[int, int], rounds: int) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = matrix / matrix.norm()
    for _ in range(rounds):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    torch.testing.assert_close(orthogonalised(matrix, rounds), x)
    for scale in (1.0, 1e-18):
        single = orthogonalised(matrix.float() * scale, rounds)
        torch.testing.assert_close(single, x.float(), atol=1e-4, rtol=0)


def test_half_precision_around_the_step_does_not_reach_it() -> None:
    # Filters that are nearly alike: most singular values are a thousandth of the largest.
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(1, 128, generator=draw) + 1e-3 * torch.randn(64, 128, generator=draw)
    expected = orthogonalised(matrix)
    with torch.autocast("cpu", torch.bfloat16):
        result = orthogonalised(matrix)
    assert torch.equal(result, expected)
    assert torch.linalg.svdvals(result).max() < 1.3


def test_half_precision_gradients_are_orthogonalised_in_float32() -> None:
    matrix = torch.randn(6, 30, generator=torch.Generator().manual_seed(0)).bfloat16()
    result = orthogonalised(matrix)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, orthogonalised(matrix.float()).bfloat16())


def test_no_gradient_is_no_direction() -> None:
    assert torch.equal(orthogonalised(torch.zeros(3, 5)), torch.zeros(3, 5))


def gradients(step: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return {
        "hidden": torch.randn(4, 3, 3, 3, generator=draw, dtype=torch.float64),
        "classifier": torch.randn(5, 4, generator=draw, dtype=torch.float64),
    }


def parameters() -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.ones_like(value)) for name, value in gradients(0).items()}


def take_steps(optimizer: torch.optim.Optimizer, members: dict[str, nn.Parameter], steps: range) -> None:
    for step in steps:
        for name, gradient in gradients(step).items():
            if name in members:
                members[name].grad = gradient.clone()
        optimizer.step()


def muon_of(members: dict[str, nn.Parameter]) -> Muon:
    groups: list[dict[str, Any]] = [
        {"params": [members["hidden"]], "orthogonalized": True},
        {"params": [members["classifier"]]},
    ]
    return Muon(groups, lr=0.01)


def test_hidden_weights_follow_the_formula_and_others_adam() -> None:
    members = parameters()
    optimizer = muon_of(members)
    take_steps(optimizer, members, range(3))

    alone = {"classifier": parameters()["classifier"]}
    take_steps(torch.optim.Adam(alone.values(), lr=0.01, fused=True), alone, range(3))
    assert torch.equal(members["classifier"], alone["classifier"])

    weight, momentum = parameters()["hidden"].detach().flatten(1), torch.zeros(4, 27, dtype=torch.float64)
    for step in range(3):
        gradient = gradients(step)["hidden"].flatten(1)
        momentum = 0.95 * momentum + 0.05 * gradient
        nesterov = 0.05 * gradient + 0.95 * momentum
        weight = weight - 0.01 * 0.2 * 27**0.5 * orthogonalised(nesterov)
    torch.testing.assert_close(members["hidden"].flatten(1), weight)
    assert optimizer.state[members["hidden"]]["step"] == 3


@pytest.mark.parametrize("matched", [True, False])
def test_matrices_keep_their_norm_and_adam_has_a_rate_of_its_own(matched: bool) -> None:
    members = parameters()
    groups: list[dict[str, Any]] = [
        {"params": [members["hidden"]], "orthogonalized": True},
        {"params": [members["classifier"]]},
    ]
    settings: dict[str, Any] = {"momentum": 0.6, "normalized": True, "adam_scale": 0.1, "rounds": 3}
    optimizer = Muon(groups, lr=0.01, matched=matched, **settings)
    copied, others = copy.deepcopy((optimizer, members))
    take_steps(optimizer, members, range(3))

    alone = {"classifier": parameters()["classifier"]}
    take_steps(torch.optim.Adam(alone.values(), lr=0.001, fused=True), alone, range(3))
    assert torch.equal(members["classifier"], alone["classifier"])
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}

    weight, momentum = parameters()["hidden"].detach().flatten(1), torch.zeros(4, 27, dtype=torch.float64)
    for step in range(3):
        gradient = gradients(step)["hidden"].flatten(1)
        momentum = 0.6 * momentum + 0.4 * gradient
        nesterov = 0.4 * gradient + 0.6 * momentum
        weight = weight * 4**0.5 / weight.norm()
        scale = 0.2 * 27**0.5 if matched else 1.0
        weight = weight - 0.01 * scale * orthogonalised(nesterov, 3)
    torch.testing.assert_close(members["hidden"].flatten(1), weight)
    # A copy has the same settings.
    take_steps(copied, others, range(3))
    assert torch.equal(others["hidden"], members["hidden"])


def test_a_rate_may_be_a_tensor_and_a_group_of_an_earlier_checkpoint_has_the_usual_settings() -> None:
    expected = parameters()
    take_steps(muon_of(expected), expected, range(3))
    members, earlier = parameters(), parameters()
    optimizer, restored = muon_of(members), muon_of(earlier)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.01, dtype=torch.float64)
    for group in restored.param_groups:
        for name in ("momentum", "normalized", "matched", "adam_scale", "rounds"):
            del group[name]
    take_steps(optimizer, members, range(3))
    take_steps(restored, earlier, range(3))
    for name, weight in expected.items():
        torch.testing.assert_close(members[name], weight)
        assert torch.equal(earlier[name], weight)


def test_settings_at_their_bounds_are_taken() -> None:
    weights = [nn.Parameter(torch.ones(2, 3))]
    assert Muon(weights, momentum=0.0, rounds=1).param_groups[0]["rounds"] == 1
    for wrong in ({"momentum": -0.1}, {"momentum": 1.0}, {"adam_scale": 0.0}, {"rounds": 0}):
        with pytest.raises(ValueError, match="muon's momentum is"):
            Muon(weights, **wrong)


def test_a_closure_is_called_before_any_weight_moves() -> None:
    members, expected = parameters(), parameters()
    take_steps(muon_of(expected), expected, range(1))

    def closure() -> float:
        assert torch.is_grad_enabled()
        for name, gradient in gradients(0).items():
            assert torch.equal(members[name], parameters()[name])
            members[name].grad = gradient
        return 0.5

    assert muon_of(members).step(closure) == 0.5
    assert all(torch.equal(members[name], expected[name]) for name in members)


def test_its_state_is_saved_and_restored() -> None:
    members = parameters()
    optimizer = muon_of(members)
    take_steps(optimizer, members, range(2))
    saved = copy.deepcopy((optimizer.state_dict(), {k: p.detach() for k, p in members.items()}))
    take_steps(optimizer, members, range(2, 4))

    again = {name: nn.Parameter(value) for name, value in saved[1].items()}
    restored = muon_of(again)
    restored.load_state_dict(saved[0])
    take_steps(restored, again, range(2, 4))
    assert all(torch.equal(again[name], members[name]) for name in members)


@pytest.mark.parametrize("ownership", ["weight", "objective"])
def test_matrices_of_blocks_are_hidden_and_classifiers_are_not(ownership: str) -> None:
    method = replace(
        get_method("mono-forward"), optimizer=OptimizerConfig(algorithm="muon", ownership=ownership)
    )
    network = build_network(method, "small", sample_shape=SHAPE, num_classes=3, width=0.05)
    learner = Learner(network)
    learner.step(torch.rand(4, *SHAPE), torch.tensor([0, 1, 2, 0]))
    for name, parameter in network.named_parameters():
        states = [o.state[parameter] for o in learner.optimizers.values() if parameter in o.state]
        by_muon = name.endswith("weights.weight")
        assert states, name
        assert all(("momentum" in state) is by_muon for state in states), name


def test_a_copied_or_pickled_learner_goes_on_as_the_original() -> None:
    network = build_network(
        get_method("superfecta"), "small", sample_shape=SHAPE, num_classes=3, width=0.05
    )
    learner = Learner(network, generator=torch.Generator().manual_seed(0))
    images, labels = torch.rand(4, *SHAPE), torch.tensor([0, 1, 2, 0])
    learner.step(images, labels)
    twins = [learner, copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))]
    for twin in twins:
        twin.step(images, labels)
    for twin in twins[1:]:
        for name, value in network.state_dict().items():
            assert torch.equal(twin.network.state_dict()[name], value), name


def test_parameters_that_are_not_said_to_be_hidden_are_adams() -> None:
    weights = [nn.Parameter(torch.ones(2, 3)) for _ in range(2)]
    optimizers = (Muon(weights[:1]), torch.optim.Adam(weights[1:], lr=3e-3))
    for weight, optimizer in zip(weights, optimizers, strict=True):
        weight.grad = torch.arange(6.0).view(2, 3)
        optimizer.step()
    assert optimizers[0].param_groups[0]["orthogonalized"] is False
    torch.testing.assert_close(*weights)
