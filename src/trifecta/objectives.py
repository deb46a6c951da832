"""Local losses: what a block is trained for. Pure functions of goodness.

Shapes: B pairs; ``positive`` and ``negative`` are the goodness (B,) of the same images with their
true and with a wrong label. Every loss is a mean over the batch, a scalar.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def threshold_loss(
    positive: Tensor, negative: Tensor, *, threshold: float = 2.0, settled: float = 0.0
) -> Tensor:
    """Goodness above a threshold for positives, below it for negatives, (B,), (B,) → ().

    ``mean(softplus(threshold − positive) + softplus(negative − threshold))``; ``settled`` as in
    :func:`unsettled`, for each half on its own.
    Source: Hinton 2022 (arXiv 2212.13345), equation 1 as a negative log-likelihood.
    """
    losses = []
    for excess in (threshold - positive, negative - threshold):
        loss = F.softplus(excess)
        losses.append(unsettled(torch.sigmoid(excess), settled) * loss if settled else loss)
    return (losses[0] + losses[1]).mean()


def symmetric_loss(
    positive: Tensor, negative: Tensor, *, alpha: float = 4.0, settled: float = 0.0
) -> Tensor:
    """Goodness of the true label above that of the wrong one, (B,), (B,) → ().

    ``mean(softplus(−alpha · (positive − negative)))``; no threshold, and equal and opposite gradients
    for the two halves; ``settled`` as in :func:`unsettled`.
    Source: Lee & Song 2023 (SymBa, arXiv 2303.08418).
    """
    excess = -alpha * (positive - negative)
    loss = F.softplus(excess)
    return (unsettled(torch.sigmoid(excess), settled) * loss if settled else loss).mean()


@torch.no_grad()
def unsettled(coefficient: Tensor, settled: float) -> Tensor:
    """Weights (B,) of the samples that still matter, 0 for those left out.

    A sample's gradient is its ``coefficient`` c (B,), 0 … 1, times that of its goodness, and c is known
    before any backward pass. Where c < ``settled`` the sample is taken with probability c/settled and
    then weighs settled/c: the expected loss and its gradient stay the same, the variance grows, and no
    taken sample's coefficient is below ``settled``. Taken is whoever lifts the running sum of
    probabilities over a half-integer (systematic sampling), so nothing random is drawn: the order of the
    batch is random already.
    """
    chance = (coefficient.double() / settled).clamp(max=1)
    total = chance.cumsum(0) + 0.5
    taken = (total.floor() > (total - chance).floor()) | (chance >= 1)
    return torch.where(taken, 1 / chance, 0).to(coefficient.dtype)
