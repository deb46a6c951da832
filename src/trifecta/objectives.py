"""Local losses: what a block is trained for. Pure functions of goodness.

Shapes: B pairs; ``positive`` and ``negative`` are the goodness (B,) of the same images with their
true and with a wrong label. Every loss is a mean over the batch, a scalar.
"""

import torch.nn.functional as F
from torch import Tensor


def threshold_loss(positive: Tensor, negative: Tensor, *, threshold: float = 2.0) -> Tensor:
    """Goodness above a threshold for positives, below it for negatives, (B,), (B,) → ().

    ``mean(softplus(threshold − positive) + softplus(negative − threshold))``.
    Source: Hinton 2022 (arXiv 2212.13345), equation 1 as a negative log-likelihood.
    """
    return (F.softplus(threshold - positive) + F.softplus(negative - threshold)).mean()


def symmetric_loss(positive: Tensor, negative: Tensor, *, alpha: float = 4.0) -> Tensor:
    """Goodness of the true label above that of the wrong one, (B,), (B,) → ().

    ``mean(softplus(−alpha · (positive − negative)))``; no threshold, and equal and opposite gradients
    for the two halves. Source: Lee & Song 2023 (SymBa, arXiv 2303.08418).
    """
    return F.softplus(-alpha * (positive - negative)).mean()
