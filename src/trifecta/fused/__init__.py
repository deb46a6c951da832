"""Windows of blocks as one operation: exact gradients in less time and memory than the plain graph."""

from trifecta.fused.compiling import compiled_kernels, compiled_windows
from trifecta.fused.pointwise import EAGER, Kernels
from trifecta.fused.scoring import infer_block, infer_first_block, inferred_stage
from trifecta.fused.stages import Stage, stages_of
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
    "run_window",
    "stages_of",
]
