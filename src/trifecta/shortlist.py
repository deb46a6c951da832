"""Prediction from fewer labels: early blocks try them all, later ones only the likeliest.

Shapes: G images, K labels, S of them kept; a pass holds every image with every label, G·K samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Shortlist:
    """After block ``after`` go on with the ``labels`` labels that score best there.

    An approximation: a true label that the early block ranks too low is lost. Later blocks score the
    labels left out −∞.
    """

    labels: int
    after: int


def choose_shortlist(
    labels: int,
    *,
    num_blocks: int,
    num_classes: int,
    scored_blocks: Sequence[int],
    readout_blocks: Sequence[int],
) -> Shortlist:
    """A shortlist of ``labels`` labels after a third of the blocks.

    Raises:
        ValueError: it leaves nothing out, or the read-out needs every label's score from an early block.
    """
    if not 0 < labels < num_classes:
        raise ValueError(
            f"a shortlist keeps 1 … {num_classes - 1} of {num_classes} labels: received {labels}; "
            "drop --shortlist to keep all"
        )
    after = next(k for k in scored_blocks if k >= (num_blocks - 1) // 3)
    if min(readout_blocks) <= after:
        raise ValueError(
            f"the read-out needs every label's score from block {min(readout_blocks)}, a shortlist has "
            f"them up to block {after}: drop --shortlist"
        )
    return Shortlist(labels=labels, after=after)


def best_rows(scores: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Rows (G·S,) of a pass that go on, and their labels (G, S), by scores (G, K)."""
    kept = scores.topk(labels, dim=1).indices
    first = torch.arange(len(scores), device=scores.device).unsqueeze(1) * scores.shape[1]
    return (first + kept).flatten(), kept


def spread_scores(scores: Tensor, kept: Tensor, num_classes: int) -> Tensor:
    """Scores (G·S,) of the labels ``kept`` (G, S), among all labels (G, K), −∞ elsewhere."""
    everywhere = scores.new_full((len(kept), num_classes), float("-inf"))
    return everywhere.scatter(1, kept, scores.view(kept.shape))
