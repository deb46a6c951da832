"""Windows of blocks as one operation: exact gradients in less time and memory than the plain graph."""

from trifecta.kernels.block import FusedBlock, fused_blocks, largest_response_bytes
from trifecta.kernels.scoring import infer_block, infer_first_block, inference_block
from trifecta.kernels.window import run_window

__all__ = [
    "FusedBlock",
    "fused_blocks",
    "infer_block",
    "infer_first_block",
    "inference_block",
    "largest_response_bytes",
    "run_window",
]
