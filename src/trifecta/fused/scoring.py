"""Blocks where nothing trains: eval mode, no graph, every intermediate result in pieces.

Shapes: N samples, G images, K labels; a block maps (N, C, H, W) to activations (N, O, h, w), or (N, F) to
(N, O).
"""

import math

import torch
from torch import Tensor, nn

from trifecta.fused.chunks import chunk_rows
from trifecta.fused.norms import running_statistics
from trifecta.fused.pointwise import channel_moments, relu_pool
from trifecta.fused.stages import Stage, as_input, compute_dtype, stage_of
from trifecta.goodness import Moments


def inferred_stage(block: nn.Module) -> Stage | None:
    """The stage of a block that may be run without a graph here; None where the plain one must."""
    return None if block.training or torch.is_grad_enabled() else stage_of(block)


def infer_block(stage: Stage, x: Tensor) -> tuple[Tensor, Moments]:
    """A block's activations and their moments, (N, …) → (N, …)."""
    x = as_input(stage, x, compute_dtype(x))
    with torch.autocast(x.device.type, enabled=False):
        weight = stage.parameters.cast_weight(x.dtype)
        parts = [
            _activations(stage, _response(stage, x[rows], weight))
            for rows in chunk_rows(max(1, len(x)), stage.response_bytes(x.shape, x.dtype), x.device)
        ]
    return _join(parts)


def infer_first_block(stage: Stage, base: Tensor, maps: Tensor) -> tuple[Tensor, Moments]:
    """The first block for every image with every label, (G, …), (K, …) → (G·K, …), label by label.

    In eval mode a norm that treats every channel apart (``norm.separable``) is affine, and so is the
    linear map: the response to ``base + maps`` is that to ``base`` plus the linear map of
    ``norm(maps) − norm(0)``. G + K products stand for G·K.
    """
    dtype = compute_dtype(base)
    base, maps = (
        as_input(stage, base, dtype),
        as_input(stage, maps, torch.promote_types(dtype, torch.float32)),
    )
    with torch.autocast(base.device.type, enabled=False):
        weight = stage.parameters.cast_weight(dtype)
        added = _normalized(stage, maps) - _normalized(stage, torch.zeros_like(maps[:1]))
        added = stage.linear(added.to(dtype), weight)
        parts = []
        for rows in chunk_rows(
            max(1, len(base)), stage.response_bytes(base.shape, base.dtype) * len(maps), base.device
        ):
            response = _response(stage, base[rows], weight).unsqueeze(1) + added
            layout = torch.channels_last if added.ndim == 4 else torch.contiguous_format
            parts.append(_activations(stage, response.flatten(0, 1).contiguous(memory_format=layout)))
    return _join(parts)


def _normalized(stage: Stage, x: Tensor) -> Tensor:
    return stage.norm(x, running_statistics(stage.module), stage.parameters.scale, stage.parameters.shift)


def _response(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    response = stage.linear(_normalized(stage, x), weight)
    bias = stage.parameters.bias
    return response if bias is None else response.add_(bias)


def _activations(stage: Stage, response: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    activations = relu_pool(response, pool=stage.pool)
    return (activations, *channel_moments(activations))


def _join(parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Moments]:
    activations, sums, squares = (torch.cat(values) for values in zip(*parts, strict=True))
    return activations, Moments(sums=sums, squares=squares, positions=math.prod(activations.shape[2:]))
