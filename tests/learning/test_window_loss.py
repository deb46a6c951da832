"""Which windows are fused, and what a fused window is told of its network."""

from typing import Any

import pytest
import torch
from torch import Tensor

from trifecta import LocalNetwork, Window, build_network, get_method
from trifecta import window as module
from trifecta.kernels import fused_blocks, largest_response_bytes, run_window
from trifecta.losses import ChannelSums
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
