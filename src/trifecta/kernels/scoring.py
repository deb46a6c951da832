"""Blocks where nothing trains: eval mode, no graph, every intermediate result in pieces.

Shapes: N samples, G images, K labels; a block maps (N, C, H, W) to activations (N, O, h, w), or (N, F) to
(N, O).
"""

import math

import torch
from torch import Tensor, nn

from trifecta._utils.checks import chunk_rows
from trifecta.kernels.block import FusedBlock, as_input, compute_dtype, fused_block
from trifecta.kernels.norms import channel_sums, relu_pool, running_statistics
from trifecta.losses.goodness import ChannelSums


def inference_block(block: nn.Module) -> FusedBlock | None:
    """The layers of a block that may be run without a graph here; None where the plain one must."""
    return None if block.training or torch.is_grad_enabled() else fused_block(block)


def infer_block(layers: FusedBlock, x: Tensor) -> tuple[Tensor, ChannelSums]:
    """A block's activations and their channel sums, (N, …) → (N, …)."""
    x = as_input(layers, x, compute_dtype(x))
    with torch.autocast(x.device.type, enabled=False):
        weight = layers.parameters.cast_weight(x.dtype)
        parts = [
            _activations(layers, _response(layers, x[rows], weight))
            for rows in chunk_rows(max(1, len(x)), layers.response_bytes(x.shape, x.dtype), x.device)
        ]
    return _join(parts)


def infer_first_block(layers: FusedBlock, base: Tensor, maps: Tensor) -> tuple[Tensor, ChannelSums]:
    """The first block for every image with every label, (G, …), (K, …) → (G·K, …), label by label.

    In eval mode a norm that treats every channel apart (``norm.separable``) is affine, and so is the
    linear map: the response to ``base + maps`` is that to ``base`` plus the linear map of
    ``norm(maps) − norm(0)``. G + K products stand for G·K.
    """
    dtype = compute_dtype(base)
    base, maps = (
        as_input(layers, base, dtype),
        as_input(layers, maps, torch.promote_types(dtype, torch.float32)),
    )
    with torch.autocast(base.device.type, enabled=False):
        weight = layers.parameters.cast_weight(dtype)
        added = _normalized(layers, maps) - _normalized(layers, torch.zeros_like(maps[:1]))
        added = layers.linear(added.to(dtype), weight)
        parts = []
        for rows in chunk_rows(
            max(1, len(base)), layers.response_bytes(base.shape, base.dtype) * len(maps), base.device
        ):
            response = _response(layers, base[rows], weight).unsqueeze(1) + added
            layout = torch.channels_last if added.ndim == 4 else torch.contiguous_format
            parts.append(_activations(layers, response.flatten(0, 1).contiguous(memory_format=layout)))
    return _join(parts)


def _normalized(layers: FusedBlock, x: Tensor) -> Tensor:
    return layers.norm(
        x, running_statistics(layers.module), layers.parameters.scale, layers.parameters.shift
    )


def _response(layers: FusedBlock, x: Tensor, weight: Tensor) -> Tensor:
    response = layers.linear(_normalized(layers, x), weight)
    bias = layers.parameters.bias
    return response if bias is None else response.add_(bias)


def _activations(layers: FusedBlock, response: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    activations = relu_pool(response, pool=layers.pool)
    return (activations, *channel_sums(activations))


def _join(parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, ChannelSums]:
    activations, sums, squares = (torch.cat(values) for values in zip(*parts, strict=True))
    return activations, ChannelSums(sums=sums, squares=squares, positions=math.prod(activations.shape[2:]))
