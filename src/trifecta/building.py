"""Building a network by its name, its weights drawn from a seed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trifecta._utils.checks import require_memory
from trifecta._utils.draws import SeededDraws
from trifecta._utils.references import blamed, name_of, own_parts, part_of
from trifecta.method import Method
from trifecta.network import LocalNetwork
from trifecta.nn.blocks import BlockStyle
from trifecta.nn.networks import NETWORKS, NetworkBuilder
from trifecta.nn.shapes import SampleShape


def _check_memory(builder: NetworkBuilder, input_shape: SampleShape, width: float) -> None:
    """Refuse a network that could not be trained in the machine's memory, before any of it is allocated."""
    try:
        with torch.device("meta"):
            planned = builder(input_shape, width=width, style=BlockStyle(normalization="none"))
        weights = sum(p.numel() for p in planned.parameters())
    except Exception:  # whatever a builder of one's own cannot plan; its own errors come when it builds
        return
    # Weights, gradients and two moments of Adam's, in float32.
    require_memory(16.0 * weights, f"a network of {weights:,} weights", "use a smaller width")


def check_blocks(blocks: Any, what: str) -> None:
    """Check what is to be a network's blocks.

    Raises:
        ValueError: it is no sequence of modules.
    """
    if not isinstance(blocks, nn.Sequential | nn.ModuleList | list | tuple):
        raise ValueError(
            f"{what} must return its blocks in order, a list of modules or a Sequential: received "
            f"{type(blocks).__name__}"
        )
    strange = [block for block in blocks if not isinstance(block, nn.Module)]
    if strange:
        raise ValueError(f"{what} must return modules: one of its blocks is {type(strange[0]).__name__}")


def build_network(
    method: Method,
    network: str | NetworkBuilder = "small",
    *,
    sample_shape: SampleShape,
    num_classes: int,
    width: float = 1.0,
    channels: Sequence[int] = (),
    seed: int = 0,
) -> LocalNetwork:
    """Build a network for ``method``, its weights drawn from ``seed``.

    Args:
        method: the choices on every axis.
        network: a name in ``NETWORKS``, or a builder of your own.
        sample_shape: of one sample, without the label: (C, H, W) of images, (F,) of a table.
        num_classes: K, at least 2.
        width: multiplies the network's channels.
        channels: of each block, in place of ``width``'s, for networks that can be shrunk.
        seed: of the weights.

    Raises:
        ValueError: unknown network, samples that it does not take, or as :class:`LocalNetwork`.
    """
    Method.require(method)
    builder = part_of(NETWORKS, network, "network")
    with SeededDraws(seed):
        style = method.block_style(num_classes)
        _check_memory(builder, method.input_shape(sample_shape, num_classes), width)
        own: dict[str, Any] = {"channels": tuple(channels)} if channels else {}
        shape = method.input_shape(sample_shape, num_classes)
        what = f"network {name_of(network)}(input_shape, width=…, style=…)"
        with blamed(what, own=bool(own_parts(builder))):
            blocks = builder(shape, width=width, style=style, **own)
        check_blocks(blocks, what)
        return LocalNetwork(blocks, method, sample_shape=sample_shape, num_classes=num_classes)
