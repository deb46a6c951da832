"""Which windows are fused, and what a fused window is told of its network."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trifecta import Learner, LocalNetwork, Symmetric, Window, build_network, get_method
from trifecta import window as module
from trifecta.kernels.block import fused_blocks, largest_response_bytes
from trifecta.kernels.window import run_window
from trifecta.losses import ChannelSums
from trifecta.nn import conv_block, linear_block
from trifecta.schedules import DEEPLY_SUPERVISED, LAYER_WISE
from trifecta.window import window_loss

PAIR, SINGLE = Window(0, 1), Window(0, 0)


def network_of(method: str = "trifecta") -> LocalNetwork:
    return build_network(get_method(method), sample_shape=(1, 8, 8), num_classes=3, width=0.1)


def batch(network: LocalNetwork) -> tuple[Tensor, Tensor]:
    images, labels = torch.randn(4, 1, 8, 8), torch.arange(4) % 3
    if network.label_input is None:
        return images, labels
    return network.labelled(torch.cat([images, images]), torch.cat([labels, (labels + 1) % 3])), labels


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What fused windows were called with."""
    seen: list[dict[str, Any]] = []

    def spy(*arguments: Any, **settings: Any) -> Any:
        seen.append(settings)
        return run_window(*arguments, **settings)

    monkeypatch.setattr(module, "run_window", spy)
    return seen


@pytest.mark.parametrize(("window", "divisor"), [(PAIR, 1), (SINGLE, module.SINGLE_BLOCK_DIVISOR)])
def test_a_window_is_fused_from_a_size_on(
    window: Window, divisor: int, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of()
    x, labels = batch(network)
    blocks = fused_blocks(network.blocks[: window.last + 1])
    assert blocks is not None
    size = largest_response_bytes(blocks, x)
    for least, is_fused in ((size * divisor, 1), ((size + 1) * divisor, 0)):
        calls.clear()
        monkeypatch.setattr(module, "LEAST_KERNEL_BYTES", least)
        window_loss(network, window, x, labels)
        assert len(calls) == is_fused


def test_only_the_first_window_has_channels_without_a_gradient(calls: list[dict[str, Any]]) -> None:
    network = network_of()
    x, labels = batch(network)
    for first in (0, 1):
        _, x = window_loss(network, Window(first, first), x, labels, kernels=True)
    assert network.constant_channels == 1
    assert [call["constant_channels"] for call in calls] == [1, 0]
    assert [call["skip_zero_rows"] for call in calls] == [False, False]


@pytest.mark.parametrize(
    ("method", "sums", "patches"),
    [("trifecta", True, 0), ("superfecta", False, 4), ("mono-forward", False, 0)],
)
def test_a_head_reads_sums_where_it_can(
    method: str, sums: bool, patches: int, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(method)
    head, read = network.head(0), []
    loss = head.loss

    def noting(features: Any, labels: Tensor) -> Tensor:
        read.append(features)
        return loss(features, labels)

    monkeypatch.setattr(head, "loss", noting)
    x, labels = batch(network)
    window_loss(network, SINGLE, x, labels, kernels=True)
    assert isinstance(read[0], ChannelSums) == (sums or patches > 0)
    assert calls[0]["wants_sums"] == sums
    assert (calls[0]["patches"] or 0) == patches


def two_blocks(kind: str = "convolutions", **changes: Any) -> LocalNetwork:
    """Responses of 4·64 values, then of 6·16, with 2·64 values before them."""
    method = replace(get_method("trifecta"), **changes)
    blocks = [conv_block((2, 8, 8), 4, pool=True), conv_block((4, 4, 4), 6)]
    if kind == "linear":
        blocks = [linear_block(2 * 64, 4), linear_block(4, 6)]
    if kind == "own":
        blocks[1].append(nn.Identity())
    network = LocalNetwork(blocks, method, sample_shape=(1, 8, 8), num_classes=3)
    if kind == "evaluation":
        network.blocks[1].get_submodule("normalize").eval()
    elif kind in ("is_compiled", "renews_pairs", "has_side_values"):
        setattr(network, kind, True)
    elif kind == "reads":
        network.reads = "response"
    return network


LARGEST, BOUND, HUGE = 8 * 4 * 64 * 4, 8 * 6 * 64 * 4, 2**60
SKIPS = Symmetric(skip_settled=0.1)


@pytest.mark.parametrize(
    ("settings", "window", "kernels", "device", "least", "is_searched", "is_found"),
    [
        ({}, PAIR, None, "cpu", LARGEST, True, True),
        ({}, PAIR, None, "cpu", LARGEST + 1, True, False),
        # Larger than any response may be.
        ({}, PAIR, None, "cpu", BOUND, True, False),
        ({}, PAIR, None, "cpu", BOUND + 1, False, False),
        ({}, SINGLE, None, "cpu", 4 * LARGEST + 3, True, True),
        ({}, SINGLE, None, "cpu", 4 * (LARGEST + 1), False, False),
        ({}, PAIR, False, "cpu", 0, False, False),
        ({}, PAIR, None, "meta", 0, False, False),
        ({}, PAIR, True, "cpu", HUGE, True, True),
        ({}, PAIR, True, "meta", HUGE, True, True),
        ({"objective": SKIPS}, PAIR, None, "cpu", HUGE, True, True),
        ({"objective": SKIPS}, PAIR, None, "meta", 0, False, False),
        ({"kind": "linear"}, PAIR, None, "cpu", 0, True, False),
        ({"kind": "linear"}, PAIR, True, "cpu", HUGE, True, True),
        ({"kind": "evaluation"}, PAIR, True, "cpu", 0, True, False),
        ({"kind": "evaluation"}, SINGLE, True, "cpu", 0, True, True),
        ({"kind": "own"}, PAIR, True, "cpu", 0, True, False),
        ({"kind": "is_compiled"}, PAIR, True, "cpu", 0, False, False),
        ({"kind": "renews_pairs"}, PAIR, True, "cpu", 0, False, False),
        ({"kind": "has_side_values"}, PAIR, True, "cpu", 0, False, False),
        ({"kind": "reads"}, PAIR, True, "cpu", 0, False, False),
        ({"schedule": DEEPLY_SUPERVISED}, PAIR, True, "cpu", 0, False, False),
    ],
)
def test_kernels_run_where_they_can_and_are_wanted_or_faster(
    settings: dict[str, Any],
    window: Window,
    kernels: bool | None,
    device: str,
    least: int,
    is_searched: bool,
    is_found: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched = []

    def spy(blocks: Any) -> Any:
        searched.append(blocks)
        return fused_blocks(blocks)

    monkeypatch.setattr(module, "fused_blocks", spy)
    monkeypatch.setattr(module, "LEAST_KERNEL_BYTES", least)
    x = torch.empty(8, 2, 8, 8, device=device)
    found = module._kernel_blocks(two_blocks(**settings), window, x, kernels)
    assert (bool(searched), found is not None) == (is_searched, is_found)
    assert not found or len(found) == len(window.blocks)


def test_kernels_are_for_windows_of_megabytes() -> None:
    assert (module.LEAST_KERNEL_BYTES, module.SINGLE_BLOCK_DIVISOR) == (4 * 2**20, 4)


@pytest.mark.parametrize(("kernels", "least", "runs"), [(True, HUGE, 2), (None, 0, 2), (False, 0, 0)])
def test_a_learner_runs_windows_as_it_is_told(
    kernels: bool | None, least: int, runs: int, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_KERNEL_BYTES", least)
    network = two_blocks(schedule=LAYER_WISE)
    Learner(network, kernels=kernels).step(torch.randn(4, 1, 8, 8), torch.arange(4) % 3)
    assert len(calls) == runs
