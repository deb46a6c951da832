"""Blocks where nothing trains: evaluation mode, no graph, every intermediate result in pieces.

Shapes: N samples, G images, K labels; a block maps (N, C, H, W) to activations (N, O, h, w), or (N, F) to
(N, O).
"""

import math

import torch
from torch import Tensor, nn

from trifecta._utils.devices import chunk_rows
from trifecta.kernels.block import (
    FusedBlock,
    channel_sums,
    compute_dtype,
    fused_block,
    memory_layout,
    respond,
)
from trifecta.kernels.norms import running_statistics
from trifecta.losses.goodness import ChannelSums


def inference_block(block: nn.Module) -> FusedBlock | None:
    """Return the layers of a block that may run without a graph here; None where the plain one must."""
    return None if block.training or torch.is_grad_enabled() else fused_block(block)


def infer_block(block: FusedBlock, x: Tensor) -> tuple[Tensor, ChannelSums]:
    """Return a block's activations and their channel sums, (N, …) → (N, …)."""
    x = block.as_input(x, compute_dtype(x))
    with torch.autocast(x.device.type, enabled=False):
        weight, bias = block.cast_weight(x.dtype), block.parameters.bias
        parts = [
            _activations(block, respond(_normalized(block, x[rows]), weight, bias))
            for rows in chunk_rows(max(1, len(x)), block.response_bytes(x.shape, x.dtype), x.device)
        ]
    return _join(parts)


def infer_first_block(block: FusedBlock, base: Tensor, maps: Tensor) -> tuple[Tensor, ChannelSums]:
    """Return the same of the first block for every image with every label, (G, …), (K, …) → (G·K, …).

    In evaluation mode a norm that treats every channel apart (``norm.separable``) is affine, and so is the
    linear map: the response to ``base + maps`` is that to ``base`` plus the linear map of
    ``norm(maps) − norm(0)``. G + K products stand for G·K.
    """
    dtype = compute_dtype(base)
    base = block.as_input(base, dtype)
    maps = block.as_input(maps, torch.promote_types(dtype, torch.float32))
    row_bytes = block.response_bytes(base.shape, dtype) * len(maps)
    with torch.autocast(base.device.type, enabled=False):
        weight, bias = block.cast_weight(dtype), block.parameters.bias
        added = _normalized(block, maps) - _normalized(block, torch.zeros_like(maps[:1]))
        added = respond(added.to(dtype), weight, None)
        layout, parts = memory_layout(added.ndim), []
        for rows in chunk_rows(max(1, len(base)), row_bytes, base.device):
            response = respond(_normalized(block, base[rows]), weight, bias).unsqueeze(1) + added
            parts.append(_activations(block, response.flatten(0, 1).contiguous(memory_format=layout)))
    return _join(parts)


def _normalized(block: FusedBlock, x: Tensor) -> Tensor:
    _, _, scale, shift = block.parameters
    return block.norm(x, running_statistics(block.module), scale, shift)


def _activations(block: FusedBlock, response: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ReLU and 2×2 maximum, and the sums of the result."""
    if block.pool:
        height, width = (n // 2 * 2 for n in response.shape[2:])
        rows = torch.maximum(response[:, :, 0:height:2], response[:, :, 1:height:2])
        response = torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])
    activations = response.clamp_(min=0)
    return (activations, *channel_sums(activations))


def _join(parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, ChannelSums]:
    activations, sums, squares = (torch.cat(values) for values in zip(*parts, strict=True))
    return activations, ChannelSums(sums=sums, squares=squares, positions=math.prod(activations.shape[2:]))
