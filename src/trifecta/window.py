"""The local loss of a window, by kernels that compute its gradient or by the blocks' own modules.

Shapes: B images; L blocks; a window's input (B, …), or (2B, …) for pairs.
"""

import math

import torch
from torch import Tensor

from trifecta.kernels.block import FusedBlock, fused_blocks, largest_response_bytes
from trifecta.kernels.window import run_window
from trifecta.network import LocalNetwork
from trifecta.schedules import Window

# A window whose largest response is smaller is a single piece anyway, and takes more calls than the graph.
# On a GPU, whose launches are large, that holds for every window.
LEAST_KERNEL_BYTES = 4 * 2**20
# Kernels pay earlier for a single block: the plain graph also computes the unused gradient of its input.
SINGLE_BLOCK_DIVISOR = 4


def window_loss(
    network: LocalNetwork,
    window: Window,
    x: Tensor,
    labels: Tensor,
    offsets: Tensor | None = None,
    *,
    kernels: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the local loss at the window's last block, (), and that block's output, both in the graph.

    Args:
        network: in training mode.
        window: blocks to pass.
        x: the window's input.
        labels: (B,).
        offsets: (L,), which images make a pair in each block; None unless blocks receive new pairs.
        kernels: see :class:`trifecta.learner.Learner`.
    """
    blocks = _kernel_blocks(network, window, x, kernels)
    if blocks is None:
        return plain_window_loss(network, window, x, labels, offsets)
    head = network.head(window.last)
    output, sums = run_window(
        blocks,
        x,
        constant_channels=network.constant_channels if window.first == 0 else 0,
        skip_zero_rows=head.skips_samples,
        patches=head.reads_patch_means,
        wants_sums=head.reads_channel_sums,
    )
    reads_sums = head.reads_channel_sums or head.reads_patch_means
    return head.loss(sums if reads_sums else output, labels), output


def plain_window_loss(
    network: LocalNetwork, window: Window, x: Tensor, labels: Tensor, offsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the same as :func:`window_loss` by the blocks' own modules; deep supervision sums losses."""
    losses = []
    for k in window.blocks:
        seen, x = network.pass_block(k, x, offsets)
        if k == window.last or network.method.schedule.deep_supervision:
            losses.append(network.loss(k, seen, labels))
    return torch.stack(losses).sum(), x


def _kernel_blocks(
    network: LocalNetwork, window: Window, x: Tensor, kernels: bool | None
) -> tuple[FusedBlock, ...] | None:
    """Return the window's blocks for kernels; None if they cannot run, or are slower than the graph."""
    needs_graph = (
        network.method.schedule.deep_supervision or network.renews_pairs or network.has_side_values
    )
    if kernels is False or needs_graph or network.is_compiled or network.reads != "output":
        return None
    is_cpu = x.device.type == "cpu"
    is_wanted = kernels or (is_cpu and network.head(window.last).skips_samples)
    least = LEAST_KERNEL_BYTES // (SINGLE_BLOCK_DIVISOR if len(window.blocks) == 1 else 1)
    # At most, as blocks keep the positions of their input or fewer: spares small windows the search below.
    channels = max(network.feature_shapes[k][0] for k in window.blocks)
    most = len(x) * channels * math.prod(x.shape[2:]) * x.itemsize
    if not is_wanted and (not is_cpu or most < least):
        return None
    blocks = fused_blocks(network.blocks[window.first : window.last + 1])
    # Kernels would use and move a batch's statistics where a normalization is held in evaluation mode.
    if blocks is None or not all(block.module.training for block in blocks):
        return None
    # Fully connected layers move more weights than activations, and kernels touch weights more often.
    is_faster = all(block.is_convolution for block in blocks)
    return blocks if is_wanted or (is_faster and largest_response_bytes(blocks, x) >= least) else None
