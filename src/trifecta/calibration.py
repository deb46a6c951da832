"""Probabilities from class scores by a temperature and frequencies, and measures of how honest they are.

Shapes: N samples, K classes; scores and probabilities (N, K) with labels (N,), or (N, K, …) with (N, …) for
labels of positions. Everything is computed in float64.
"""

import math

import torch
from torch import Tensor

# Bins of confidence, as in Guo et al. 2017.
BINS = 15
# Largest ratio of the temperature to the spread of the scores, at which all classes are equally likely.
_WIDEST = 1e3
_STEPS, _CLOSE = 100, 1e-10
# Labels that are enough for one number.
_MOST = 50_000
# 95% of χ² with one degree of freedom are below.
_CHI_SQUARE = 3.84


def probabilities(scores: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``softmax(scores / temperature)`` over the classes, (N, K, …) → (N, K, …).

    The score of a label off a shortlist, −∞, means unlikely, not impossible. It is replaced by one as far
    below the least on the list as that is below the highest (1 below if these are equal), so that a high
    temperature makes all classes equally likely.
    """
    return _filled(scores.double() / temperature).softmax(1)


def fit_readout(scores: Tensor, labels: Tensor, *, frequencies: bool = True) -> tuple[float, Tensor]:
    """Return the temperature T and the offsets b (K,) of ``softmax(scores / T + b)`` for held-out labels.

    ``b_k = w log((n_k + 1) / (N + K))``, less its mean over the classes, where n_k of the N ``labels`` are
    of class k. The weight w is the tenth from 0 to 1 with the least cross-entropy, or 0 if a
    likelihood-ratio test at 5% does not prefer that tenth. At w = 1 and a high T, probabilities are the
    frequencies of the classes: scores that say nothing are no worse than those.

    Args:
        scores: (N, K), or (N, K, …).
        labels: (N,), or (N, …).
        frequencies: whether w may be above 0; not if classes have weights, which mean other frequencies.
    """
    rows, targets = _rows(scores, labels)
    share = (targets.bincount(minlength=rows.shape[1]) + 1).double().log()
    share -= share.mean()
    weights = torch.arange(11).div(10).tolist() if frequencies else [0.0]
    fitted = [(*_fit(rows, targets, w * share), w) for w in weights]
    best = min(fitted, key=lambda found: found[1])
    if 2 * len(rows) * (fitted[0][1] - best[1]) <= _CHI_SQUARE:
        best = fitted[0]
    return best[0], best[2] * share


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """Return the temperature T that gives held-out ``labels`` the least cross-entropy.

    Minimises ``mean_i −Σ_k q_ik log softmax(scores_i / T)_k``, convex in 1/T, by Newton's steps inside a
    bracket. Targets are smoothed by the rule of succession, q = (N + 1)/(N + 2) for the true class and an
    equal share of the rest for each other one, so that N samples without a mistake do not make one
    impossible. T is positive and never changes a prediction; it is 1 if scores are all equal, and at its
    upper bound if they are worse than that.

    Source: Guo et al. 2017, *On Calibration of Modern Neural Networks* (arXiv 1706.04599), section 4.2;
    targets of Platt 1999, *Probabilistic Outputs for Support Vector Machines*.
    """
    return _fit(*_rows(scores, labels), torch.zeros(scores.shape[1], device=scores.device))[0]


def _rows(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return one row of scores a label, (M, K), and the labels, (M,), at most ``_MOST``."""
    step = max(1, math.ceil(labels.numel() / _MOST))
    rows = scores.double().movedim(1, -1).reshape(-1, scores.shape[1])[::step]
    return _filled(rows), labels.flatten()[::step]


def _fit(rows: Tensor, targets: Tensor, offset: Tensor) -> tuple[float, float]:
    """Return T as :func:`fit_temperature` with ``offset`` added, and the cross-entropy."""
    if not len(rows) or not bool((spread := rows.amax(1) - rows.amin(1)).any()):
        return 1.0, 0.0
    count, classes = rows.shape
    true = rows.gather(1, targets.unsqueeze(1)).squeeze(1)
    # Of each row, the score under its smoothed target.
    target = ((count + 1) * true + (rows.sum(1) - true) / (classes - 1)) / (count + 2)
    low, high = 1 / (_WIDEST * spread.max().item()), _WIDEST / spread[spread > 0].min().item()
    inverse = min(max(1.0, low), high)
    for _ in range(_STEPS):
        share = (rows * inverse + offset).softmax(1)
        mean = (share * rows).sum(1)
        slope = (mean - target).mean().item()
        curvature = ((share * rows.square()).sum(1) - mean.square()).mean().item()
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        if high - low <= _CLOSE * high:
            break
        newton = inverse - slope / curvature if curvature > 0 else math.inf
        # The geometric mean, as the bracket spans many orders of magnitude.
        following = newton if low < newton < high else math.sqrt(low * high)
        if abs(following - inverse) <= _CLOSE * inverse:
            break
        inverse = following
    logits = (rows * inverse + offset).log_softmax(1)
    true = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    loss = -((count + 1) * true + (logits.sum(1) - true) / (classes - 1)) / (count + 2)
    return 1 / inverse, loss.mean().item()


def log_loss(shares: Tensor, labels: Tensor) -> float:
    """Return ``mean_i −log p_i(true class)`` in nats, of probabilities (N, K, …), not below float64's ε."""
    true = shares.double().gather(1, labels.unsqueeze(1))
    return -true.clamp(min=torch.finfo(torch.float64).eps).log().mean().item()


def calibration_error(shares: Tensor, labels: Tensor, *, bins: int = BINS) -> float:
    """Return the expected calibration error of the predicted class, 0 … 1.

    ``Σ_b |B_b|/N · |accuracy(B_b) − confidence(B_b)|`` over ``bins`` bins of equal width of the predicted
    class's probability. Source: Guo et al. 2017 (arXiv 1706.04599), equation 3.
    """
    confidence, predicted = shares.double().max(1)
    gap = (predicted == labels).double().flatten() - confidence.flatten()
    place = (confidence.flatten() * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(bins, dtype=torch.float64, device=gap.device).index_add(0, place, gap)
    return sums.abs().sum().item() / max(1, len(gap))


def _filled(scores: Tensor) -> Tensor:
    """Return scores with others, below the least of them, in place of −∞."""
    left_out = scores == -math.inf
    least = scores.masked_fill(left_out, math.inf).amin(1, keepdim=True)
    spread = scores.amax(1, keepdim=True) - least
    return torch.where(left_out, least - torch.where(spread > 0, spread, 1.0), scores)
