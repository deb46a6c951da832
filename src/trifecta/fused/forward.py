"""The forward pass of one block in train mode, piece by piece.

Shapes: as in :mod:`trifecta.fused.blocks`.
"""

import torch
from torch import Tensor

from trifecta.fused.blocks import BlockPass, empty
from trifecta.fused.norms import Statistics, update_running_statistics
from trifecta.fused.pointwise import Kernels, channel_moments
from trifecta.fused.stages import Parameters, Stage


def forward_block(
    stage: Stage,
    kernels: Kernels,
    parameters: Parameters,
    x: Tensor,
    moments: tuple[Tensor, Tensor] | None,
    *,
    overwrite: bool = False,
    sums_up: bool = True,
) -> tuple[BlockPass, tuple[Tensor, Tensor]]:
    """One block over the whole batch.

    Args:
        stage: its parts.
        kernels: its elementwise work.
        parameters: as the optimizer holds them.
        x: its input, in the precision of the products.
        moments: channel sums of ``x``, where the norm reads the batch.
        overwrite: put the activations into the memory of ``x`` where they fit.
        sums_up: whether anybody reads the moments of the activations.

    Returns:
        The pass, and the channel sums (N, O) of its activations and of their squares; else (0,).
    """
    statistics = _statistics(moments, x.numel() // x.shape[1]) if stage.norm.reads_batch else Statistics()
    update_running_statistics(stage.module, statistics, x.numel() // x.shape[1])
    shape = stage.output_shape(x.shape)
    activations = x if overwrite and shape == tuple(x.shape) else empty(shape, x.dtype, x.device)
    places = None
    if stage.pool:
        packed = shape[1] if shape[1] % 4 else shape[1] // 4
        places = empty((shape[0], packed, *shape[2:]), torch.uint8, x.device)
    block = BlockPass(
        stage=stage,
        kernels=kernels,
        parameters=parameters,
        weight=parameters.cast_weight(x.dtype),
        x=x,
        activations=activations,
        places=places,
        statistics=statistics,
    )
    parts = []
    for rows in block.pieces(None):
        response = block.respond(x[rows])
        if places is None:
            kernels.relu_into(response, activations[rows])
        else:
            kernels.relu_pool_into(response, activations[rows], places[rows])
        if sums_up:
            # While the piece is in cache.
            parts.append(channel_moments(activations[rows]))
    if not sums_up:
        return block, (x.new_empty(0), x.new_empty(0))
    sums, squares = (torch.cat(values) for values in zip(*parts, strict=True))
    return block, (sums, squares)


def _statistics(moments: tuple[Tensor, Tensor] | None, count: int) -> Statistics:
    """Mean and variance of each channel from its sums over rows and positions."""
    assert moments is not None
    sums, squares = moments
    mean = sums.sum(0) / count
    return Statistics(mean, (squares.sum(0) / count - mean.square()).clamp_min_(0))
