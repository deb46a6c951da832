"""The gradients of one block, piece by piece, from a source that makes its output's gradient by rows.

Shapes: as in :mod:`trifecta.fused.block_pass`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trifecta._utils.chunks import Rows
from trifecta.fused.block_pass import BlockPass, empty
from trifecta.fused.fused_block import Parameters
from trifecta.fused.norms import NormContext, Statistics, Totals

Source = Callable[[Rows], Tensor]


def parameter_gradients(
    block: BlockPass, source: Source, kept: Tensor | None, *, store: bool
) -> tuple[Parameters, Totals | None, Source]:
    """Gradients of a block's parameters, in one sweep over the batch.

    Args:
        block: the pass.
        source: the gradient under the block's ReLU, by rows.
        kept: rows (R,) that have a gradient; None for all.
        store: keep what ``source`` gives, because making it twice would cost too much.

    Returns:
        The gradients, the norm's batch sums, and where to find the gradient again.
    """
    weight, bias, scale, shift = block.parameters
    against_standard = torch.zeros_like(weight)
    taps = weight.new_zeros(weight.shape[0], *weight.shape[2:])
    shape = block.layers.output_shape(block.x.shape)
    stored = empty(shape, block.weight.dtype, block.device) if store else None
    for rows in block.pieces(kept):
        gradient = source(rows)
        if stored is not None:
            stored[rows] = gradient
        gradient = block.response_gradient(gradient, rows)
        standard = block.layers.norm.standardize(block.x[rows], block.statistics)
        against_standard += block.layers.linear.weight_gradient(gradient, standard, block.weight)
        if scale is not None or bias is not None:
            taps += block.layers.linear.tap_sums(gradient)
    again = source if stored is None else stored.__getitem__
    of_bias = None if bias is None else taps
    if scale is None or shift is None:
        return Parameters(against_standard, of_bias, None, None), None, again
    others = [0, *range(2, weight.ndim)]
    of_scale = (weight * against_standard).sum(others)
    of_shift = (weight * taps.unsqueeze(1)).sum(others)
    channel = (1, -1, *[1] * (weight.ndim - 2))
    of_weight = against_standard.mul_(scale.view(channel)).add_(taps.unsqueeze(1) * shift.view(channel))
    # Over the rows that have a gradient: then it still sums to 0, as behind a batch norm it must.
    share = 1.0 if kept is None else len(kept) / block.x.shape[0]
    totals = Totals(of_scale, of_shift, max(1, round(share * block.positions)))
    return Parameters(of_weight, of_bias, of_scale, of_shift), totals, again


def input_source(
    block: BlockPass, source: Source, totals: Totals | None, *, first: int, rectified: bool
) -> Source:
    """The gradient of a block's input from channel ``first`` on, by rows.

    With ``rectified`` that of what stood under the ReLU which made the input.
    """
    norm, linear = block.layers.norm, block.layers.linear
    if not norm.separable:
        first = 0
    weight, scale = block.weight[:, first:], block.parameters.scale
    statistics = Statistics(*(None if s is None else s[first:] for s in block.statistics))
    if scale is not None and totals is not None:
        scale = scale[first:]
        totals = Totals(totals.scaled[first:], totals.plain[first:], totals.positions)

    context = NormContext(statistics, scale, totals)

    def input_gradient(rows: Rows) -> Tensor:
        dy = linear.input_gradient(block.response_gradient(source(rows), rows), weight)
        return norm.input_gradient(dy, block.x[rows][:, first:], context, rectified=rectified)

    return input_gradient
