"""One block of a window in the middle of a pass: what it received and made, and its own gradients.

Shapes: N samples; the block maps x (N, C, H, W) to a response (N, O, H, W), that to activations
(N, O, h, w); a linear block (N, C) to (N, O). ``rows`` select samples, R of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trifecta.fused.chunks import Rows, chunk_kept, chunk_rows
from trifecta.fused.norms import NormContext, Statistics, Totals, update_running_statistics
from trifecta.fused.pointwise import Kernels
from trifecta.fused.stages import Parameters, Stage

Source = Callable[[Rows], Tensor]


@dataclass(frozen=True, kw_only=True)
class BlockPass:
    """A block, its tensors and what they were made with.

    Attributes:
        stage: the block's parts.
        kernels: its elementwise work, eager or compiled.
        parameters: as the optimizer holds them.
        weight: the weight in the precision of ``x``.
        x: what the block received.
        activations: what it made of it, after ReLU and pool.
        places: which of four each maximum was, packed; None without a pool.
        statistics: of ``x``, for norms that read the batch.
    """

    stage: Stage
    kernels: Kernels
    parameters: Parameters
    weight: Tensor
    x: Tensor
    activations: Tensor
    places: Tensor | None
    statistics: Statistics

    @property
    def positions(self) -> int:
        """Positions a channel that batch statistics run over."""
        return self.x.numel() // self.x.shape[1]

    def pieces(self, kept: Tensor | None) -> Sequence[Rows]:
        """The batch, or the ``kept`` (R,) of it, in pieces."""
        return chunk_kept(kept, len(self.x), self.stage.response_bytes(self.x), self.x.device)

    def response_gradient(self, gradient: Tensor, rows: Rows) -> Tensor:
        """From the gradient under the ReLU, at the pooled places, to that of the response."""
        if self.places is None:
            return gradient
        return self.kernels.unpool(gradient, self.places[rows], *self.x.shape[2:])


def forward_block(
    stage: Stage,
    kernels: Kernels,
    parameters: Parameters,
    x: Tensor,
    moments: tuple[Tensor, Tensor] | None,
) -> tuple[BlockPass, tuple[Tensor, Tensor]]:
    """One block over the whole batch, in train mode.

    Args:
        stage: its parts.
        kernels: its elementwise work.
        parameters: as the optimizer holds them.
        x: its input, in the precision of the products.
        moments: channel sums of ``x``, where the norm reads the batch.

    Returns:
        The pass, and the channel sums (N, O) of its activations and of their squares.
    """
    statistics = _statistics(moments, x.numel() // x.shape[1]) if stage.norm.reads_batch else Statistics()
    update_running_statistics(stage.module, statistics, x.numel() // x.shape[1])
    weight = parameters.cast_weight(x.dtype)
    activations, places = _allocate(stage, x, len(weight))
    block = BlockPass(
        stage=stage,
        kernels=kernels,
        parameters=parameters,
        weight=weight,
        x=x,
        activations=activations,
        places=places,
        statistics=statistics,
    )
    parts = []
    for rows in chunk_rows(len(x), stage.response_bytes(x), x.device):
        standard = stage.norm(x[rows], statistics, parameters.scale, parameters.shift)
        response = stage.linear(standard, weight)
        if parameters.bias is not None:
            response.add_(parameters.bias)
        if places is None:
            parts.append(kernels.relu_into(response, activations[rows]))
        else:
            parts.append(kernels.relu_pool_into(response, activations[rows], places[rows]))
    sums, squares = (torch.cat(values) for values in zip(*parts, strict=True))
    return block, (sums, squares)


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
    stored = torch.empty_like(block.activations) if store else None
    for rows in block.pieces(kept):
        gradient = source(rows)
        if stored is not None:
            stored[rows] = gradient
        gradient = block.response_gradient(gradient, rows)
        standard = block.stage.norm.standardize(block.x[rows], block.statistics)
        against_standard += block.stage.linear.weight_gradient(gradient, standard, block.weight)
        if scale is not None or bias is not None:
            taps += block.stage.linear.tap_sums(gradient)
    again = source if stored is None else stored.__getitem__
    of_bias = None if bias is None else taps
    if scale is None or shift is None:
        return Parameters(against_standard, of_bias, None, None), None, again
    others = [0, *range(2, weight.ndim)]
    of_scale = (weight * against_standard).sum(others)
    of_shift = (weight * taps.unsqueeze(1)).sum(others)
    channel = (1, -1, *[1] * (weight.ndim - 2))
    of_weight = against_standard.mul_(scale.view(channel)).add_(taps.unsqueeze(1) * shift.view(channel))
    return (
        Parameters(of_weight, of_bias, of_scale, of_shift),
        Totals(of_scale, of_shift, block.positions),
        again,
    )


def input_source(
    block: BlockPass, source: Source, totals: Totals | None, *, first: int, rectified: bool
) -> Source:
    """The gradient of a block's input from channel ``first`` on, by rows.

    With ``rectified`` that of what stood under the ReLU which made the input.
    """
    norm, linear = block.stage.norm, block.stage.linear
    if not norm.separable:
        first = 0
    weight, scale = block.weight[:, first:], block.parameters.scale
    statistics = Statistics(*(None if s is None else s[first:] for s in block.statistics))
    if scale is not None and totals is not None:
        scale = scale[first:]
        totals = Totals(totals.scaled[first:], totals.plain[first:], totals.positions)

    context = NormContext(statistics, scale, totals, block.kernels)

    def input_gradient(rows: Rows) -> Tensor:
        dy = linear.input_gradient(block.response_gradient(source(rows), rows), weight)
        return norm.input_gradient(dy, block.x[rows][:, first:], context, rectified=rectified)

    return input_gradient


def _statistics(moments: tuple[Tensor, Tensor] | None, count: int) -> Statistics:
    """Mean and variance of each channel from its sums over rows and positions."""
    assert moments is not None
    sums, squares = moments
    mean = sums.sum(0) / count
    return Statistics(mean, (squares.sum(0) / count - mean.square()).clamp_min_(0))


def _allocate(stage: Stage, x: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Empty activations and, for a pool, empty packed places."""
    if x.ndim == 2:
        return x.new_empty(len(x), channels), None
    size = [n // 2 if stage.pool else n for n in x.shape[2:]]
    activations = torch.empty(
        (len(x), channels, *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    if not stage.pool:
        return activations, None
    packed = channels if channels % 4 else channels // 4
    places = torch.empty(
        (len(x), packed, *size), dtype=torch.uint8, device=x.device, memory_format=torch.channels_last
    )
    return activations, places
