"""Local losses as pure functions of goodness or of features.

Shapes: B pairs or samples; ``positive`` and ``negative`` are the goodness (B,) of the same images with
their true and with a wrong label; ``features`` are (B, F). Every loss is a mean over the batch, ().
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def threshold_loss(
    positive: Tensor,
    negative: Tensor,
    *,
    threshold: float = 2.0,
    settled: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Push positives above a threshold and negatives below it, (B,), (B,) → ().

    ``mean(softplus(threshold − positive) + softplus(negative − threshold)) / 2``: the mean over 2B samples,
    as in the published code of Dooms et al. 2023.
    Samples are left out by :func:`unsettled` in each half separately, none if ``settled`` is 0; ``weights``
    are those of the pairs, (B,), with mean 1.
    Source: Hinton 2022 (arXiv 2212.13345), equation 1 as a negative log-likelihood.
    """
    losses = _softplus(threshold - positive, settled) + _softplus(negative - threshold, settled)
    return _mean(losses, weights) / 2


def symmetric_loss(
    positive: Tensor,
    negative: Tensor,
    *,
    alpha: float = 4.0,
    settled: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Push the goodness of the true label above that of the wrong one, (B,), (B,) → ().

    ``mean(softplus(−alpha · (positive − negative)))``: no threshold, and equal and opposite gradients for
    the two halves. ``settled`` and ``weights`` as in :func:`threshold_loss`.
    Source: Lee & Song 2023 (SymBa, arXiv 2303.08418).
    """
    return _mean(_softplus(-alpha * (positive - negative), settled), weights)


def position_loss(
    positive: Tensor, negative: Tensor, *, thresholds: tuple[float, ...], penalty: float
) -> Tensor:
    """Push goodness maps (B, P) of positives above one threshold, of negatives below another, → ().

    ``mean softplus(thresholds[0] − positive) + mean softplus(negative − thresholds[1])
    + penalty · mean_i |positive_i|``, with means over images and positions, ``|·|`` the length of a map.
    Source: the published code of Chen et al. 2025 (SCFF).
    """
    length: Tensor = positive.norm(dim=1)
    above, below = F.softplus(thresholds[0] - positive), F.softplus(negative - thresholds[1])
    return above.mean() + below.mean() + penalty * length.mean()


def similarity_loss(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Match similarities within a batch to those of the labels, (B, F), (B,) → ().

    ``mean_ij (S(features)_ij − S(one-hot labels)_ij)²`` over all pairs including the diagonal, with S as in
    :func:`similarities`. Source: Nøkland & Eidnes 2019, *Training Neural Networks with Local Error Signals*
    (arXiv 1901.06656), and their published code.
    """
    targets = F.one_hot(labels, num_classes).to(features.dtype)
    return F.mse_loss(similarities(features), similarities(targets))


def similarities(rows: Tensor) -> Tensor:
    """Return cosine similarities (B, B) of rows (B, F), each centred over its features.

    ``r_i · r_j`` clamped to −1 … 1, with ``r = (row − mean(row)) / (1e-8 + |row − mean(row)|)``.
    """
    with torch.autocast(rows.device.type, enabled=False):
        wide = at_least_float32(rows)
        centred = wide - wide.mean(1, keepdim=True)
        unit: Tensor = centred / (1e-8 + centred.norm(dim=1, keepdim=True))
        return (unit @ unit.T).clamp(-1, 1)


def supervised_contrastive_loss(features: Tensor, labels: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Pull images of a class together and push other classes away, (B, F), (B,) → ().

    ``−mean_i mean_{p: same class, p ≠ i} log softmax_{j ≠ i}(z_i·z_j / temperature)_p`` with z the
    features scaled to length 1; an image that is alone in its class counts as 0 in the mean over all.
    Source: Khosla et al. 2020, *Supervised Contrastive Learning* (arXiv 2004.11362), L_out.
    """
    with torch.autocast(features.device.type, enabled=False):
        z = F.normalize(at_least_float32(features))
        logits = z @ z.T / temperature
    itself = torch.ones_like(labels, dtype=torch.bool).diag()
    log_share = logits.masked_fill(itself, -torch.inf).log_softmax(1)
    same = (labels.unsqueeze(0) == labels.unsqueeze(1)) & ~itself
    return -(log_share.masked_fill(~same, 0).sum(1) / same.sum(1).clamp(min=1)).mean()


@torch.no_grad()
def unsettled(coefficient: Tensor, settled: float) -> Tensor:
    """Return weights (B,) of the samples that still matter, 0 for those left out.

    A sample's gradient is its ``coefficient`` c (B,), 0 … 1, times that of its goodness. Where
    c < ``settled`` the sample is kept with probability c/settled and then weighs settled/c: the expected
    gradient is unchanged. A sample is kept where the cumulative probability crosses a half-integer
    (systematic sampling), as batches are in random order.
    """
    chance = (coefficient.double() / settled).clamp(max=1)
    total = chance.cumsum(0) + 0.5
    kept = (total.floor() > (total - chance).floor()) | (chance >= 1)
    return torch.where(kept, 1 / chance, 0).to(coefficient.dtype)


def at_least_float32(values: Tensor) -> Tensor:
    """Widen half-precision values, for sums and softmax."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _softplus(excess: Tensor, settled: float) -> Tensor:
    loss = F.softplus(excess)
    return unsettled(torch.sigmoid(excess), settled) * loss if settled else loss


def _mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    return losses.mean() if weights is None else (losses * weights).mean()
