"""A window of blocks, each one node of the graph that keeps its activations and little else.

Shapes: N samples; a block maps x (N, C, H, W) to a response (N, O, H, W), that to activations (N, O, h, w);
a fully connected one (N, C) to (N, O). ``rows`` select samples, R of them.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trifecta._utils.devices import Rows, chunk_kept
from trifecta.kernels.block import (
    FusedBlock,
    Statistics,
    Totals,
    channel_sums,
    compute_dtype,
    memory_layout,
    respond,
    update_running_statistics,
)
from trifecta.losses.functional import at_least_float32
from trifecta.losses.goodness import ChannelSums
from trifecta.nn import convolution
from trifecta.nn.convolution import max_pool, packed_channels, patch_means, spread_patches, unpool


class _Place(NamedTuple):
    """A block in a window, and the options of its node."""

    block: FusedBlock
    is_first: bool
    is_last: bool
    constant_channels: int
    skip_zero_rows: bool
    patches: int
    wants_sums: bool

    def pieces(self, x: Tensor, kept: Tensor | None = None) -> Sequence[Rows]:
        """Return a batch ``x``, or the ``kept`` (R,) of it, in pieces."""
        return chunk_kept(kept, len(x), self.block.response_bytes(x.shape, x.dtype), x.device)


def run_window(
    blocks: Sequence[FusedBlock],
    x: Tensor,
    *,
    constant_channels: int = 0,
    skip_zero_rows: bool = False,
    patches: int = 0,
    wants_sums: bool = True,
) -> tuple[Tensor, ChannelSums]:
    """Pass a window in training mode, differentiable once; in autocast's precision where that is on.

    Args:
        blocks: consecutive blocks, see :func:`trifecta.kernels.block.fused_blocks`.
        x: (N, C, H, W) or (N, F).
        constant_channels: number of leading channels of ``x`` that need no gradient.
        skip_zero_rows: whether to run backward only over samples whose gradient is not exactly 0, and take
            batch norm's two means over those.
        patches: P for the means of P×P patches, which must be of equal size; 0 for none.
        wants_sums: whether to return the channel sums of the activations.

    Returns:
        The last block's activations, and their sums; a loss may use either.
    """
    if not blocks[0].is_convolution and x.ndim == 4:
        constant_channels *= math.prod(x.shape[2:])
    x, means = blocks[0].as_input(x, compute_dtype(x)), None
    with torch.autocast(x.device.type, enabled=False):
        sums: Sequence[Tensor] = channel_sums(x.detach()) if blocks[0].norm.reads_batch else ()
        for k, block in enumerate(blocks):
            is_last = k == len(blocks) - 1
            place = _Place(
                block=block,
                is_first=k == 0,
                is_last=is_last,
                constant_channels=0 if k else constant_channels,
                skip_zero_rows=skip_zero_rows,
                patches=patches if is_last else 0,
                wants_sums=wants_sums or not is_last,
            )
            given = (x, place, tuple(sums), block.weight, block.bias, block.scale, block.shift)
            x, *sums, means = _Block.apply(*given)  # type: ignore[no-untyped-call]
    positions = math.prod(x.shape[2:])
    return x, ChannelSums(sums=sums[0], squares=sums[1], positions=positions, patch_means=means)


class _Block(torch.autograd.Function):
    """A block in a window; ``sums`` are the channel sums of its input, if its norm reads the batch.

    Gradients between blocks are those under the ReLU: a node keeps its input, the last its activations too.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, place: _Place, sums: tuple[Tensor, ...], *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        block, positions, statistics = place.block, x.numel() // x.shape[1], Statistics()
        if block.norm.reads_batch:
            mean = sums[0].sum(0) / positions
            variance = (sums[1].sum(0) / positions - mean.square()).clamp_min_(0)
            statistics = Statistics(mean, variance)
            update_running_statistics(block.module, (mean, variance), positions)
        weight, shape, indices = block.cast_weight(x.dtype), block.output_shape(x.shape), None
        if block.pool:
            indices = _empty(x, (shape[0], packed_channels(shape[1]), *shape[2:]), torch.uint8)
        activations = _empty(x, shape, x.dtype)
        parts, no_sums = [], (x.new_empty(0), x.new_empty(0))
        for rows in place.pieces(x):
            piece = block.norm(x[rows], statistics, block.scale, block.shift)
            response = respond(piece, weight, block.bias)
            if indices is not None:
                # The maximum of four ReLUs is the ReLU of the maximum.
                response, indices[rows] = max_pool(response)
            torch.clamp_min(response, 0, out=activations[rows])
            # While the piece is in cache.
            parts.append(channel_sums(activations[rows]) if place.wants_sums else no_sums)
        ctx.place = place
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, indices, *statistics, activations if place.is_last else None, *parameters)
        means = patch_means(activations, place.patches) if place.patches else None
        # A view, so that what is saved is no output of this node and holds no graph.
        return (activations.view_as(activations), *map(torch.cat, zip(*parts, strict=True)), means)

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        place, (x, indices, mean, variance, activations, *_) = ctx.place, ctx.saved_tensors
        statistics, kept = Statistics(mean, variance), None
        if place.skip_zero_rows:
            # Samples for which some gradient is not 0, (R,); this waits for the device.
            some = [(g != 0).flatten(1).any(1) for g in given if g is not None]
            kept = torch.stack(some).any(0).nonzero().squeeze(1)

        def of_response(rows: Rows) -> Tensor:
            parts = [None if g is None else g[rows] for g in given]
            found = _under_last_relu(activations[rows], parts) if place.is_last else parts[0]
            assert found is not None
            return found if indices is None else unpool(found, indices[rows], *x.shape[2:])

        of_x = None
        with torch.autocast(x.device.type, enabled=False):
            gradients, totals = _parameter_gradients(place, x, statistics, of_response, kept)
            if ctx.needs_input_grad[0]:
                of_x = _input_gradient(place, x, statistics, of_response, kept, totals)
        return (of_x, None, None, *gradients)


def _empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=memory_layout(len(shape)))


def _under_last_relu(piece: Tensor, given: Sequence[Tensor | None]) -> Tensor:
    """Return the gradient under the ReLU of activations ``piece``, from those of what the window returned.

    ``2 · a · of_squares + [a > 0] · (of_sums + of_features)``: the first needs no mask, since a closed
    ReLU has a = 0.
    """
    (features, sums, squares, means), row = given, (*piece.shape[:2], *[1] * (piece.ndim - 2))
    masked = [] if features is None else [features]
    if means is not None:
        masked.append(spread_patches(means, piece.shape))
    if sums is not None:
        masked.append(sums.to(piece.dtype).view(row).expand_as(piece))
    parts = [_under_relu(reduce(torch.add, masked), piece)] if masked else []
    if squares is not None:
        parts.append(piece * (2 * squares).to(piece.dtype).view(row))
    return reduce(torch.add, parts) if parts else torch.zeros_like(piece)


def _under_relu(gradient: Tensor, activations: Tensor) -> Tensor:
    """Return ``gradient`` where the ReLU was open, else 0."""
    open_part: Tensor = torch.ops.aten.threshold_backward(gradient, activations, 0)
    return open_part


def _parameter_gradients(
    place: _Place,
    x: Tensor,
    statistics: Statistics,
    of_response: Callable[[Rows], Tensor],
    kept: Tensor | None,
) -> tuple[tuple[Tensor | None, ...], Totals | None]:
    """Return the gradients of a block's parameters, and the norm's batch sums, over ``kept`` rows (R,)."""
    block, weight, scale, shift = place.block, place.block.weight, place.block.scale, place.block.shift
    against_standard = torch.zeros_like(weight)
    taps = weight.new_zeros(weight.shape[0], *weight.shape[2:])
    for rows in place.pieces(x, kept):
        gradient, standard = of_response(rows), block.norm(x[rows], statistics)
        if block.is_convolution:
            against_standard += convolution.weight_gradient(gradient, standard, weight)
        else:
            against_standard += gradient.T @ standard
        if scale is not None or block.bias is not None:
            taps += _tap_sums(gradient)
    of_bias = None if block.bias is None else taps
    if scale is None or shift is None:
        return (against_standard, of_bias, None, None), None
    others = [0, *range(2, weight.ndim)]
    of_scale = (weight * against_standard).sum(others)
    of_shift = (weight * taps.unsqueeze(1)).sum(others)
    channel = (1, -1, *[1] * (weight.ndim - 2))
    of_weight = against_standard.mul_(scale.view(channel)).add_(taps.unsqueeze(1) * shift.view(channel))
    # Over the rows that have a gradient: then it still sums to 0, as behind a batch norm it must.
    share = 1.0 if kept is None else len(kept) / len(x)
    totals = Totals(of_scale, of_shift, max(1, round(share * (x.numel() // x.shape[1]))))
    return (of_weight, of_bias, of_scale, of_shift), totals


def _input_gradient(
    place: _Place,
    x: Tensor,
    statistics: Statistics,
    of_response: Callable[[Rows], Tensor],
    kept: Tensor | None,
    totals: Totals | None,
) -> Tensor:
    """Return the gradient of a block's input, under the ReLU that made it; 0 for constant channels."""
    block, norm, found = place.block, place.block.norm, torch.zeros_like(x)
    channels = slice(place.constant_channels if norm.separable else 0, None)
    weight = block.cast_weight(x.dtype)[:, channels]
    scale = None if block.scale is None else block.scale[channels]
    statistics = Statistics(*(None if s is None else s[channels] for s in statistics))
    if totals is not None:
        totals = Totals(totals.scaled[channels], totals.plain[channels], totals.positions)
    for rows in place.pieces(x, kept):
        gradient, piece = of_response(rows), x[rows][:, channels]
        dy = convolution.input_gradient(gradient, weight) if block.is_convolution else gradient @ weight
        dx = norm.input_gradient(dy, piece, statistics, scale, totals)
        found[rows, channels] = dx if place.is_first else _under_relu(dx, piece)
    return found


def _tap_sums(gradient: Tensor) -> Tensor:
    """Return the weight's gradient for an input of ones in a channel, (O, 3, 3) or (O,), float32 or wider.

    With it the gradient of a shift before the map follows without the input gradient. Taps of a convolution
    sum all pixels, but for the border rows and columns that they miss.
    """
    if gradient.ndim == 2:
        return at_least_float32(gradient).sum(0)
    taps = _sum_pixels(gradient).view(-1, 1, 1).repeat(1, 3, 3)
    for tap, end in ((0, slice(None, 1)), (2, slice(-1, None))):
        taps[:, tap] -= _sum_pixels(gradient[:, :, end]).unsqueeze(1)
        taps[:, :, tap] -= _sum_pixels(gradient[:, :, :, end]).unsqueeze(1)
        # Corners have been subtracted twice by then.
        taps[:, tap, 0] += at_least_float32(gradient[:, :, end, 0]).sum((0, 2))
        taps[:, tap, 2] += at_least_float32(gradient[:, :, end, -1]).sum((0, 2))
    return taps


def _sum_pixels(x: Tensor) -> Tensor:
    """(R, O, H, W) → (O,)."""
    return at_least_float32(x.sum((2, 3))).sum(0)
