"""Windows of blocks as one operation: exact gradients in less time and memory than the plain graph."""

from trifecta.fused.compiling import compiled_kernels, compiled_windows
from trifecta.fused.pointwise import EAGER, Kernels
from trifecta.fused.scoring import infer_block, infer_first_block, inferred_stage
from trifecta.fused.stages import Stage, largest_response_bytes, stages_of
from trifecta.fused.window import run_window

__all__ = [
    "EAGER",
    "Kernels",
    "Stage",
    "compiled_kernels",
    "compiled_windows",
    "infer_block",
    "infer_first_block",
    "inferred_stage",
    "largest_response_bytes",
    "run_window",
    "stages_of",
]
