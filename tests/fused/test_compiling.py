"""``--compile``: the same numbers where a compiler works, a warning where none does."""

import copy
from typing import NoReturn

import pytest
import torch
from torch import Tensor

from trifecta import Learner, build_network, get_method
from trifecta.fused import EAGER, compiled_kernels, compiled_windows
from trifecta.local_network import LocalNetwork

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fused_however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trifecta.learner.LEAST_FUSED_BYTES", 0)


def network_of() -> LocalNetwork:
    return build_network(
        get_method("trifecta"), "small", image_shape=(1, 8, 8), num_classes=3, width=0.03
    ).double()


def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(8, 1, 8, 8, generator=draw, dtype=torch.float64), torch.arange(8) % 3


def learner_of(network: LocalNetwork, *, compiled: bool) -> Learner:
    return Learner(network, generator=torch.Generator().manual_seed(0), compiled=compiled)


def assert_same_steps(first: Learner, second: Learner) -> None:
    for _ in range(2):
        first.step(*batch())
        second.step(*batch())
    for expected, found in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_compiled_kernels_move_weights_as_eager_ones_do() -> None:
    network = network_of()
    compiled = learner_of(copy.deepcopy(network), compiled=True)
    assert compiled.kernels != EAGER
    assert_same_steps(learner_of(network, compiled=False), compiled)


def test_compiled_windows_move_weights_as_the_plain_graph_does() -> None:
    network = network_of()
    compiled = learner_of(copy.deepcopy(network), compiled=False)
    windows = compiled_windows(compiled.plain_window_loss, CPU, mode="default")
    compiled.window_loss = windows  # type: ignore[assignment]
    assert_same_steps(learner_of(network, compiled=False), compiled)


def test_without_a_compiler_the_eager_kernels_run_and_a_warning_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match=r"--compile is ignored.*no C\+\+ compiler$"):
        assert compiled_kernels(CPU) == EAGER
    plain = learner_of(network_of(), compiled=False).plain_window_loss
    with pytest.warns(UserWarning, match="--compile is ignored"):
        assert compiled_windows(plain, CPU, mode="default") == plain
