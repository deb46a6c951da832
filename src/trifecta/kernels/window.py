"""A window of blocks as one node of the graph, which keeps each block's activations and little else.

Shapes: N samples; a block maps x (N, C, H, W) to a response (N, O, H, W), that to activations (N, O, h, w);
a fully connected one (N, C) to (N, O). ``rows`` select samples, R of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trifecta._utils.devices import Rows, chunk_kept
from trifecta.kernels.block import (
    FusedBlock,
    Parameters,
    channel_sums,
    compute_dtype,
    input_gradient,
    memory_layout,
    respond,
    tap_sums,
    weight_gradient,
)
from trifecta.kernels.norms import Statistics, Totals, update_running_statistics
from trifecta.losses.goodness import ChannelSums
from trifecta.nn.convolution import max_pool, packed_channels, unpool
from trifecta.nn.pooling import patch_means, spread_patches

# The gradient of some rows of a tensor.
Source = Callable[[Rows], Tensor]


class Options(NamedTuple):
    """Arguments of :func:`run_window`, and the precision of activations and products."""

    blocks: Sequence[FusedBlock]
    dtype: torch.dtype
    constant_channels: int
    skip_zero_rows: bool
    patches: int
    wants_sums: bool


class BlockPass(NamedTuple):
    """A block with its input ``x``, its output and what made it."""

    block: FusedBlock
    weight: Tensor  # in the precision of x
    x: Tensor
    activations: Tensor  # after ReLU and pool
    indices: Tensor | None  # places of the maxima among their four pixels, packed
    statistics: Statistics  # of x, for norms that read the batch

    @property
    def positions(self) -> int:
        """Number of positions in a channel of the batch."""
        return self.x.shape.numel() // self.x.shape[1]

    def pieces(self, kept: Tensor | None) -> Sequence[Rows]:
        """Return the batch, or the ``kept`` (R,) of it, in pieces."""
        row_bytes = self.block.response_bytes(self.x.shape, self.weight.dtype)
        return chunk_kept(kept, len(self.x), row_bytes, self.weight.device)

    def response_gradient(self, gradient: Tensor, rows: Rows) -> Tensor:
        """Return the gradient of the response from that under the ReLU, at the pooled positions."""
        if self.indices is None:
            return gradient
        return unpool(gradient, self.indices[rows], *self.x.shape[2:])


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
    options = Options(blocks, compute_dtype(x), constant_channels, skip_zero_rows, patches, wants_sums)
    parameters = [p for block in blocks for p in block.parameters]
    features, sums, squares, means = _Window.apply(x, options, *parameters)  # type: ignore[no-untyped-call]
    positions = math.prod(features.shape[2:])
    return features, ChannelSums(sums=sums, squares=squares, positions=positions, patch_means=means)


class _Window(torch.autograd.Function):
    """Saved: the input, then activations, indices, mean and variance of each block, then parameters."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, options: Options, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.options, ctx.input_dtype, ctx.input_shape = options, x.dtype, x.shape
        blocks = options.blocks
        x = blocks[0].as_input(x, options.dtype)
        saved: list[Tensor | None] = [x]
        with torch.autocast(x.device.type, enabled=False):
            sums = channel_sums(x) if blocks[0].norm.reads_batch else None
            for block in blocks:
                wants_sums = options.wants_sums or block is not blocks[-1]
                done, sums = _forward(block, x, sums, wants_sums=wants_sums)
                x = done.activations
                saved += [x, done.indices, *done.statistics]
        assert sums is not None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*saved, *parameters)
        means = patch_means(x, options.patches) if options.patches else None
        # A view, so that what is saved is no output of this node and holds no graph.
        return (x.view_as(x), *sums, means)

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        options: Options = ctx.options
        passes = _restored(ctx)
        kept = _rows_with_gradient(given) if options.skip_zero_rows else None
        source = _closing_source(passes[-1], *given)
        gradients: list[Tensor | None] = []
        of_x = None
        with torch.autocast(passes[0].x.device.type, enabled=False):
            for k, done in reversed(list(enumerate(passes))):
                goes_on = k > 0 or ctx.needs_input_grad[0]
                # The last block's gradient is made from its activations each time it is wanted.
                store = goes_on and k < len(passes) - 1
                found, totals, source = _parameter_gradients(done, source, kept, store=store)
                gradients = [*found, *gradients]
                if goes_on:
                    first = 0 if k else options.constant_channels
                    source = _input_source(done, source, totals, first=first, rectified=k > 0)
            if ctx.needs_input_grad[0]:
                # 0 for constant channels and skipped samples.
                of_x = torch.zeros_like(passes[0].x)
                for rows in passes[0].pieces(kept):
                    part = source(rows)
                    of_x[rows, -part.shape[1] :] = part
                of_x = of_x.view(ctx.input_shape).to(ctx.input_dtype)
        return (of_x, None, *gradients)


def _restored(ctx: Any) -> list[BlockPass]:
    """Return the blocks of the forward pass, from what the graph kept."""
    x, *saved = ctx.saved_tensors
    passes = []
    for block in ctx.options.blocks:
        activations, indices, mean, variance, *saved = saved
        weight = block.cast_weight(ctx.options.dtype)
        passes.append(BlockPass(block, weight, x, activations, indices, Statistics(mean, variance)))
        x = activations
    return passes


def _forward(
    block: FusedBlock, x: Tensor, input_sums: tuple[Tensor, Tensor] | None, *, wants_sums: bool
) -> tuple[BlockPass, tuple[Tensor, Tensor]]:
    """Pass the whole batch through a block; return the channel sums (N, O) of the activations too, or (0,).

    ``input_sums`` are those of ``x``, if the norm reads the batch.
    """
    positions, statistics = x.numel() // x.shape[1], Statistics()
    if block.norm.reads_batch and input_sums is not None:
        mean = input_sums[0].sum(0) / positions
        variance = (input_sums[1].sum(0) / positions - mean.square()).clamp_min_(0)
        statistics = Statistics(mean, variance)
    update_running_statistics(block.module, statistics, positions)
    shape, indices = block.output_shape(x.shape), None
    if block.pool:
        indices = _empty((shape[0], packed_channels(shape[1]), *shape[2:]), torch.uint8, x.device)
    activations = _empty(shape, x.dtype, x.device)
    done = BlockPass(block, block.cast_weight(x.dtype), x, activations, indices, statistics)
    _, bias, scale, shift = block.parameters
    parts = []
    for rows in done.pieces(None):
        response = respond(block.norm(x[rows], statistics, scale, shift), done.weight, bias)
        if indices is not None:
            # The maximum of four ReLUs is the ReLU of the maximum.
            response, index = max_pool(response)
            indices[rows] = index
        torch.clamp_min(response, 0, out=activations[rows])
        if wants_sums:
            # While the piece is in cache.
            parts.append(channel_sums(activations[rows]))
    if not wants_sums:
        return done, (x.new_empty(0), x.new_empty(0))
    sums, squares = (torch.cat(values) for values in zip(*parts, strict=True))
    return done, (sums, squares)


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device, memory_format=memory_layout(len(shape)))


def _rows_with_gradient(gradients: Sequence[Tensor | None]) -> Tensor:
    """Return the indices (R,) of the samples for which some gradient is not 0; wait for the device."""
    some = [(g != 0).flatten(1).any(1) for g in gradients if g is not None]
    return torch.stack(some).any(0).nonzero().squeeze(1)


def _closing_source(
    done: BlockPass,
    of_features: Tensor | None,
    of_sums: Tensor | None,
    of_squares: Tensor | None,
    of_means: Tensor | None,
) -> Source:
    """Return the gradient under the last ReLU, from those of what the window returned.

    ``2 · a · of_squares + [a > 0] · (of_sums + of_features)``: the first needs no mask, since a closed
    ReLU has a = 0.
    """

    def source(rows: Rows) -> Tensor:
        piece = done.activations[rows]
        row = (*piece.shape[:2], *[1] * (piece.ndim - 2))
        sums, squares, features, means = (
            None if g is None else g[rows] for g in (of_sums, of_squares, of_features, of_means)
        )
        spread = None if means is None else spread_patches(means, piece.shape)
        even = None if sums is None else sums.to(piece.dtype).view(row).expand_as(piece)
        masked = _added(even, _added(features, spread))
        open_part = None if masked is None else _under_relu(masked, piece)
        found = _added(
            open_part, None if squares is None else piece * (2 * squares).to(piece.dtype).view(row)
        )
        return torch.zeros_like(piece) if found is None else found

    return source


def _added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Return the sum of what is not None."""
    return b if a is None else a if b is None else a + b


def _under_relu(gradient: Tensor, activations: Tensor) -> Tensor:
    """Return ``gradient`` where the ReLU was open, else 0."""
    open_part: Tensor = torch.ops.aten.threshold_backward(gradient, activations, 0)
    return open_part


def _parameter_gradients(
    done: BlockPass, source: Source, kept: Tensor | None, *, store: bool
) -> tuple[Parameters, Totals | None, Source]:
    """Return the gradients of a block's parameters, and the norm's batch sums, in one sweep over the batch.

    ``source`` is the gradient under the ReLU, and ``kept`` the rows (R,) that have one. It is returned too,
    from memory if ``store``, because making it twice would cost too much.
    """
    block, (weight, bias, scale, shift) = done.block, done.block.parameters
    against_standard = torch.zeros_like(weight)
    taps = weight.new_zeros(weight.shape[0], *weight.shape[2:])
    stored = torch.empty_like(done.activations) if store else None
    for rows in done.pieces(kept):
        gradient = source(rows)
        if stored is not None:
            stored[rows] = gradient
        gradient = done.response_gradient(gradient, rows)
        standard = block.norm.standardize(done.x[rows], done.statistics)
        against_standard += weight_gradient(gradient, standard, done.weight)
        if scale is not None or bias is not None:
            taps += tap_sums(gradient)
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
    share = 1.0 if kept is None else len(kept) / len(done.x)
    totals = Totals(of_scale, of_shift, max(1, round(share * done.positions)))
    return Parameters(of_weight, of_bias, of_scale, of_shift), totals, again


def _input_source(
    done: BlockPass, source: Source, totals: Totals | None, *, first: int, rectified: bool
) -> Source:
    """Return the gradient of a block's input from channel ``first`` on.

    If ``rectified``, the gradient under the ReLU that made the input.
    """
    norm, scale = done.block.norm, done.block.parameters.scale
    if not norm.separable:
        first = 0
    weight = done.weight[:, first:]
    statistics = Statistics(*(None if s is None else s[first:] for s in done.statistics))
    if scale is not None and totals is not None:
        scale = scale[first:]
        totals = Totals(totals.scaled[first:], totals.plain[first:], totals.positions)

    def gradient(rows: Rows) -> Tensor:
        x = done.x[rows][:, first:]
        dy = input_gradient(done.response_gradient(source(rows), rows), weight)
        dx = norm.input_gradient(dy, x, statistics, scale, totals)
        return _under_relu(dx, x) if rectified else dx

    return gradient
