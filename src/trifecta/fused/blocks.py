"""One block of a window in the middle of a pass: what it received, what it made of it, and with what.

Shapes: N samples; the block maps x (N, C, H, W) to a response (N, O, H, W), that to activations
(N, O, h, w); a linear block (N, C) to (N, O). ``rows`` select samples, R of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

import torch
from torch import Tensor

from trifecta.fused.chunks import Rows, chunk_kept
from trifecta.fused.norms import Statistics
from trifecta.fused.pointwise import Kernels, relu_pool
from trifecta.fused.stages import Parameters, Stage


@dataclass(frozen=True, kw_only=True)
class BlockPass:
    """A block, its tensors and what they were made with.

    Attributes:
        stage: the block's parts.
        kernels: its elementwise work, eager or compiled.
        parameters: as the optimizer holds them.
        weight: the weight in the precision of ``x``.
        x: what the block received, or how to make it again.
        activations: what it made of it, after ReLU and pool; None where that was not kept.
        places: which of four each maximum was, packed; None without a pool.
        statistics: of ``x``, for norms that read the batch.
    """

    stage: Stage
    kernels: Kernels
    parameters: Parameters
    weight: Tensor
    x: Union[Tensor, "Recomputed"]
    activations: Tensor | None
    places: Tensor | None
    statistics: Statistics

    @property
    def device(self) -> torch.device:
        """Where the block's tensors are."""
        return self.weight.device

    @property
    def positions(self) -> int:
        """Positions a channel that batch statistics run over."""
        return self.x.shape.numel() // self.x.shape[1]

    def pieces(self, kept: Tensor | None) -> Sequence[Rows]:
        """The batch, or the ``kept`` (R,) of it, in pieces."""
        bytes_per_row = self.stage.response_bytes(self.x.shape, self.weight.dtype)
        return chunk_kept(kept, self.x.shape[0], bytes_per_row, self.device)

    def respond(self, x: Tensor) -> Tensor:
        """The response to some rows of ``x``."""
        _, bias, scale, shift = self.parameters
        response = self.stage.linear(self.stage.norm(x, self.statistics, scale, shift), self.weight)
        return response if bias is None else response.add_(bias)

    def response_gradient(self, gradient: Tensor, rows: Rows) -> Tensor:
        """From the gradient under the ReLU, at the pooled places, to that of the response."""
        if self.places is None:
            return gradient
        return self.kernels.unpool(gradient, self.places[rows], *self.x.shape[2:])


class Recomputed:
    """The activations of ``block``, made again from its input whenever some rows are read."""

    shape: torch.Size

    def __init__(self, block: BlockPass) -> None:
        self._block = block
        self.shape = torch.Size(block.stage.output_shape(block.x.shape))

    def __getitem__(self, rows: Rows) -> Tensor:
        """(R, O, h, w), bit for bit what the forward pass saw if its pieces were the same."""
        return relu_pool(self._block.respond(self._block.x[rows]), pool=self._block.stage.pool)


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for activations, in the layout of the products."""
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=device, memory_format=layout)
