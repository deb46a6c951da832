"""The forward pass of one block in train mode, piece by piece.

Shapes: as in :mod:`trifecta.fused.block_pass`.
"""

import torch
from torch import Tensor

from trifecta.fused.block_pass import BlockPass, empty
from trifecta.fused.fused_block import FusedBlock, Parameters
from trifecta.fused.norms import Statistics, update_running_statistics
from trifecta.fused.pointwise import channel_sums, relu_into, relu_pool_into
from trifecta.nn.products import packed_channels


def forward_block(
    layers: FusedBlock,
    parameters: Parameters,
    x: Tensor,
    input_sums: tuple[Tensor, Tensor] | None,
    *,
    wants_sums: bool = True,
) -> tuple[BlockPass, tuple[Tensor, Tensor]]:
    """One block over the whole batch.

    Args:
        layers: its parts.
        parameters: as the optimizer holds them.
        x: its input, in the precision of the products.
        input_sums: channel sums of ``x``, where the norm reads the batch.
        wants_sums: whether anybody reads the channel sums of the activations.

    Returns:
        The pass, and the channel sums (N, O) of its activations and of their squares; else (0,).
    """
    statistics = (
        _statistics(input_sums, x.numel() // x.shape[1]) if layers.norm.reads_batch else Statistics()
    )
    update_running_statistics(layers.module, statistics, x.numel() // x.shape[1])
    shape = layers.output_shape(x.shape)
    activations = empty(shape, x.dtype, x.device)
    indices = None
    if layers.pool:
        indices = empty((shape[0], packed_channels(shape[1]), *shape[2:]), torch.uint8, x.device)
    block = BlockPass(
        layers=layers,
        parameters=parameters,
        weight=parameters.cast_weight(x.dtype),
        x=x,
        activations=activations,
        indices=indices,
        statistics=statistics,
    )
    parts = []
    for rows in block.pieces(None):
        response = block.respond(x[rows])
        if indices is None:
            relu_into(response, activations[rows])
        else:
            relu_pool_into(response, activations[rows], indices[rows])
        if wants_sums:
            # While the piece is in cache.
            parts.append(channel_sums(activations[rows]))
    if not wants_sums:
        return block, (x.new_empty(0), x.new_empty(0))
    sums, squares = (torch.cat(values) for values in zip(*parts, strict=True))
    return block, (sums, squares)


def _statistics(input_sums: tuple[Tensor, Tensor] | None, count: int) -> Statistics:
    """Mean and variance of each channel from its sums over rows and positions."""
    assert input_sums is not None
    sums, squares = input_sums
    mean = sums.sum(0) / count
    return Statistics(mean, (squares.sum(0) / count - mean.square()).clamp_min_(0))
