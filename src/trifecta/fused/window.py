"""A window of blocks as one node of the graph, with its gradient written out.

The plain graph of a block keeps its normalised input, its response before the pool and eight bytes of
index per pooled output, and lets every intermediate result travel through memory. Here a window keeps
its input, each block's activations and two bits per pooled output; all else is made again piece by piece
(:mod:`trifecta._utils.chunks`) while it is in cache. The mathematics is that of the blocks: the float64
gradients agree to rounding (``tests/fused``).

Shapes: N samples; a window's input (N, C, H, W) or (N, F), its features (N, O, h, w) or (N, O).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trifecta._utils.chunks import Rows
from trifecta.fused.block_pass import BlockPass
from trifecta.fused.forward import forward_block
from trifecta.fused.fused_block import FusedBlock, Parameters, as_input, compute_dtype
from trifecta.fused.gradients import Source, input_source, parameter_gradients
from trifecta.fused.maps import Matrix
from trifecta.fused.norms import Statistics
from trifecta.fused.pointwise import channel_sums, sums_gradient
from trifecta.losses.goodness import ChannelSums
from trifecta.nn.pooling import patch_means, spread_patches


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
        blocks: of consecutive blocks, see :func:`trifecta.fused.fused_block.fused_blocks`.
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
