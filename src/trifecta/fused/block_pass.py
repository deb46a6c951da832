"""One block of a window in the middle of a pass: what it received, what it made of it, and with what.

Shapes: N samples; the block maps x (N, C, H, W) to a response (N, O, H, W), that to activations
(N, O, h, w); a linear block (N, C) to (N, O). ``rows`` select samples, R of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trifecta._utils.chunks import Rows, chunk_kept
from trifecta.fused.fused_block import FusedBlock, Parameters
from trifecta.fused.norms import Statistics
from trifecta.nn.products import unpool


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
