"""Compilation, where a compiler works.

Of the elementwise kernels only what gains by it: on CPU the gradients of batch norm and of the moments,
while pooling and its inverse come out slower than PyTorch's own.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from trifecta.fused.pointwise import EAGER, Kernels, combine, moment_gradient
from trifecta.schedules import Window

# Window, input, labels, and which images make pairs.
WindowLoss = Callable[[Window, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
_MOST_WINDOWS = 256


def compiled_kernels(device: torch.device) -> Kernels:
    """The kernels with some of them compiled; the eager ones, with a warning, where that fails."""
    if not compiler_works(device):
        return EAGER
    return EAGER._replace(
        combine=torch.compile(combine, dynamic=True, fullgraph=True),
        moment_gradient=torch.compile(moment_gradient, dynamic=True, fullgraph=True),
    )


def compiled_windows(window_loss: WindowLoss, device: torch.device, *, mode: str) -> WindowLoss:
    """``window_loss`` compiled once per window; as it is, with a warning, where that fails."""
    if not compiler_works(device):
        return window_loss
    # Here, not at the top: it takes a second to import.
    import torch._dynamo.config as dynamo_config

    # Windows differ in shape by design: each is worth a graph of its own.
    graph = torch.compile(window_loss, mode=mode, dynamic=False)

    def run(
        window: Window, x: Tensor, labels: Tensor, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        with warnings.catch_warnings(), dynamo_config.patch(recompile_limit=_MOST_WINDOWS):
            # The compiler looks at every input's gradient, and the first window's is no leaf.
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not")
            loss, output = graph(window, x, labels, offsets)
        # A replayed graph writes over what its last run returned.
        return loss.clone(), output.clone()

    return run


def compiler_works(device: torch.device) -> bool:
    """Compile something small and run it; a warning where that fails."""
    try:
        torch.compile(nn.functional.softplus, fullgraph=True)(torch.ones(8, device=device))
    except Exception as error:  # whatever a missing compiler, header or driver raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        warnings.warn(f"--compile is ignored, no compiler works here: {reason}", stacklevel=2)
        return False
    return True
