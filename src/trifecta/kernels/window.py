"""One block of a window in the middle of a pass: what it received, what it made of it, and with what.

Shapes: N samples; the block maps x (N, C, H, W) to a response (N, O, H, W), that to activations
(N, O, h, w); a linear block (N, C) to (N, O). ``rows`` select samples, R of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trifecta._utils.checks import Rows, chunk_kept
from trifecta.kernels.block import FusedBlock, Matrix, Parameters, as_input, compute_dtype
from trifecta.kernels.norms import (
    NormContext,
    Statistics,
    Totals,
    channel_sums,
    relu_into,
    relu_pool_into,
    sums_gradient,
    update_running_statistics,
)
from trifecta.losses.goodness import ChannelSums
from trifecta.nn.convolution import packed_channels, unpool
from trifecta.nn.pooling import patch_means, spread_patches


@dataclass(frozen=True, kw_only=True)
class BlockPass:
    """A block, its tensors and what they were made with.

    Attributes:
        layers: the block's parts.
        parameters: as the optimizer holds them.
        weight: the weight in the precision of ``x``.
        x: its input.
        activations: its output, after ReLU and pool.
        indices: of the maxima among their four pixels, packed; None without a pool.
        statistics: of ``x``, for norms that read the batch.
    """

    layers: FusedBlock
    parameters: Parameters
    weight: Tensor
    x: Tensor
    activations: Tensor
    indices: Tensor | None
    statistics: Statistics

    @property
    def device(self) -> torch.device:
        """The device of the block's tensors."""
        return self.weight.device

    @property
    def positions(self) -> int:
        """Positions a channel that batch statistics run over."""
        return self.x.shape.numel() // self.x.shape[1]

    def pieces(self, kept: Tensor | None) -> Sequence[Rows]:
        """The batch, or the ``kept`` (R,) of it, in pieces."""
        bytes_per_row = self.layers.response_bytes(self.x.shape, self.weight.dtype)
        return chunk_kept(kept, self.x.shape[0], bytes_per_row, self.device)

    def respond(self, x: Tensor) -> Tensor:
        """The response to some rows of ``x``."""
        _, bias, scale, shift = self.parameters
        response = self.layers.linear(self.layers.norm(x, self.statistics, scale, shift), self.weight)
        return response if bias is None else response.add_(bias)

    def response_gradient(self, gradient: Tensor, rows: Rows) -> Tensor:
        """Gradient of the response from that under the ReLU, at the pooled positions."""
        if self.indices is None:
            return gradient
        return unpool(gradient, self.indices[rows], *self.x.shape[2:])


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for activations, in the layout of the products."""
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=device, memory_format=layout)


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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of a window's pass.

    Attributes:
        blocks: its blocks.
        dtype: of activations and products.
        constant_channels: leading channels of the input that need no gradient.
        skip_zero_rows: run backward only over samples whose gradient is not exactly 0, and take batch
            norm's two means over those.
        patches: P where the means of P×P patches are wanted, else 0.
        wants_sums: whether the channel sums of the features are wanted.
    """

    blocks: tuple[FusedBlock, ...]
    dtype: torch.dtype
    constant_channels: int = 0
    skip_zero_rows: bool = False
    patches: int = 0
    wants_sums: bool = True

    def is_last(self, block: int) -> bool:
        """Whether the window ends with ``block``."""
        return block == len(self.blocks) - 1


def run_window(
    blocks: Sequence[FusedBlock],
    x: Tensor,
    *,
    constant_channels: int = 0,
    skip_zero_rows: bool = False,
    patches: int = 0,
    wants_sums: bool = True,
) -> tuple[Tensor, ChannelSums]:
    """Forward pass of a window in train mode, differentiable once.

    Args:
        blocks: of consecutive blocks, see :func:`trifecta.kernels.block.fused_blocks`.
        x: (N, C, H, W) or (N, F); computed in autocast's precision where that is on.
        constant_channels: see :class:`Plan`.
        skip_zero_rows: see :class:`Plan`.
        patches: see :class:`Plan`; they must be of equal size.
        wants_sums: see :class:`Plan`.

    Returns:
        The last block's activations, and those of their sums that were wanted; a loss may use either.
    """
    if isinstance(blocks[0].linear, Matrix) and x.ndim == 4:
        constant_channels *= math.prod(x.shape[2:])
    plan = Plan(
        blocks=tuple(blocks),
        dtype=compute_dtype(x),
        constant_channels=constant_channels,
        skip_zero_rows=skip_zero_rows,
        patches=patches,
        wants_sums=wants_sums,
    )
    parameters = [p for layers in plan.blocks for p in layers.parameters]
    features, sums, squares, means = _Window.apply(x, plan, *parameters)  # type: ignore[no-untyped-call]
    positions = math.prod(features.shape[2:])
    return features, ChannelSums(sums=sums, squares=squares, positions=positions, patch_means=means)


class _Window(torch.autograd.Function):
    """Saved: the input, then activations, indices, mean and variance of each block, then parameters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.plan, ctx.input_dtype, ctx.input_shape = plan, x.dtype, x.shape
        x = as_input(plan.blocks[0], x, plan.dtype)
        saved: list[Tensor | None] = [x]
        with torch.autocast(x.device.type, enabled=False):
            sums = channel_sums(x) if plan.blocks[0].norm.reads_batch else None
            for k, (layers, own) in enumerate(zip(plan.blocks, _by_block(parameters), strict=True)):
                block, sums = forward_block(
                    layers,
                    own,
                    x,
                    sums,
                    wants_sums=plan.wants_sums or not plan.is_last(k),
                )
                x = block.activations
                saved += [x, block.indices, *block.statistics]
        assert sums is not None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*saved, *parameters)
        means = patch_means(x, plan.patches) if plan.patches else None
        # A view, so that what is saved is no output of this node and holds no graph.
        return (x.view_as(x), *sums, means)

    @staticmethod
    def backward(
        ctx: Any,
        of_features: Tensor | None,
        of_sums: Tensor | None,
        of_squares: Tensor | None,
        of_means: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        given = (of_features, of_sums, of_squares, of_means)
        blocks = _restore(ctx)
        wants_input = ctx.needs_input_grad[0]
        kept = _rows_with_gradient(*given) if plan.skip_zero_rows else None
        source = _closing_source(blocks[-1], *given)
        gradients: list[Tensor | None] = []
        with torch.autocast(blocks[0].device.type, enabled=False):
            for k in reversed(range(len(blocks))):
                goes_on = k > 0 or wants_input
                # The last block's gradient is made from its activations each time it is wanted.
                store = goes_on and k < len(blocks) - 1
                found, totals, source = parameter_gradients(blocks[k], source, kept, store=store)
                gradients = [*found, *gradients]
                if goes_on:
                    first = 0 if k else plan.constant_channels
                    source = input_source(blocks[k], source, totals, first=first, rectified=k > 0)
            of_x = _input_gradient(ctx, blocks[0], source, kept) if wants_input else None
        return (of_x, None, *gradients)


def _by_block(parameters: Sequence[Tensor | None]) -> list[Parameters]:
    size = len(Parameters._fields)
    blocks = []
    for k in range(0, len(parameters), size):
        weight, *others = parameters[k : k + size]
        assert weight is not None
        blocks.append(Parameters(weight, *others))
    return blocks


def _restore(ctx: Any) -> list[BlockPass]:
    """The blocks of the forward pass, from what the graph kept."""
    plan: Plan = ctx.plan
    size = 4
    split = 1 + size * len(plan.blocks)
    saved = ctx.saved_tensors
    x: Tensor = saved[0]
    blocks = []
    for k, (layers, own) in enumerate(zip(plan.blocks, _by_block(saved[split:]), strict=True)):
        activations, indices, mean, variance = saved[1 + size * k : 1 + size * (k + 1)]
        block = BlockPass(
            layers=layers,
            parameters=own,
            weight=own.cast_weight(plan.dtype),
            x=x,
            activations=activations,
            indices=indices,
            statistics=Statistics(mean, variance),
        )
        blocks.append(block)
        x = activations
    return blocks


def _closing_source(
    block: BlockPass,
    of_features: Tensor | None,
    of_sums: Tensor | None,
    of_squares: Tensor | None,
    of_means: Tensor | None,
) -> Source:
    """The gradient under the last ReLU, from those of what the window returned."""
    activations = block.activations

    def source(rows: Rows) -> Tensor:
        piece = activations[rows]
        sums, squares, direct = (None if g is None else g[rows] for g in (of_sums, of_squares, of_features))
        if of_means is not None:
            spread = spread_patches(of_means[rows], piece.shape)
            direct = spread if direct is None else direct + spread
        return sums_gradient(piece, sums, squares, direct)

    return source


def _rows_with_gradient(*gradients: Tensor | None) -> Tensor:
    """Indices (R,) of the samples that some gradient is not 0 for. Waits for the device."""
    some = [(g != 0).flatten(1).any(1) for g in gradients if g is not None]
    return torch.stack(some).any(0).nonzero().squeeze(1)


def _input_gradient(ctx: Any, block: BlockPass, source: Source, kept: Tensor | None) -> Tensor:
    """The gradient of the window's input as a whole; 0 for constant channels and skipped samples."""
    gradient = torch.zeros_like(block.x)
    for rows in block.pieces(kept):
        part = source(rows)
        gradient[rows, -part.shape[1] :] = part
    return gradient.view(ctx.input_shape).to(ctx.input_dtype)
