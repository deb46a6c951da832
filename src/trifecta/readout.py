"""Read-out: from each block's scores to one score per class; and predictions from fewer labels.

Shapes: L blocks, B images, K classes. For a shortlist: G images, S labels that are kept; a pass holds every
image with every label, G·K samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Consecutive blocks, by their accuracy on validation images once training is over.
CHOSEN = "chosen"
# Where a method tries more labels than these, a network has a shortlist of so many from the start.
MOST_LABELS = 20


def named_readouts(scored_blocks: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The read-outs that have a name, and the blocks that each fuses."""
    blocks = tuple(scored_blocks)
    return {
        "last": blocks[-1:],
        "last-half": blocks[len(blocks) // 2 :],
        "all-but-first": blocks[1:] or blocks,
        "all": blocks,
    }


def select_blocks(readout: str, scored_blocks: Sequence[int]) -> tuple[int, ...]:
    """The blocks that ``readout`` names, out of those that have scores.

    ``last``, ``last-half``, ``all``, ``all-but-first`` (Hinton 2022; the only block where there is one),
    or block numbers from 0 such as ``2,3,5``. ``chosen`` is all of them until somebody chooses.

    Raises:
        ValueError: another word, or a block that does not exist or has no scores.
    """
    named = named_readouts(scored_blocks)
    if readout == CHOSEN:
        return named["all"]
    if readout in named:
        return named[readout]
    words = readout.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(
            f"a read-out is {', '.join(named)}, {CHOSEN} or block numbers such as 2,3: received '{readout}'"
        )
    chosen = tuple(sorted({int(word) for word in words}))
    missing = set(chosen) - set(scored_blocks)
    if missing:
        raise ValueError(
            f"read-out blocks must have scores: received {sorted(missing)}; "
            f"choose from {list(scored_blocks)}"
        )
    return chosen


def fuse(block_scores: Sequence[Tensor | None], blocks: Sequence[int]) -> Tensor:
    """Sum the scores of the chosen blocks, L × (B, K) → (B, K)."""
    chosen = [scores for k in blocks if (scores := block_scores[k]) is not None]
    return torch.stack(chosen).sum(0)


@dataclass(frozen=True, kw_only=True)
class Shortlist:
    """After block ``after`` go on with the ``labels`` labels that score best so far.

    By the read-out's blocks up to that one; by that block alone where the read-out begins later. An
    approximation: a true label that the early block ranks too low is lost. Later blocks score the
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
        ValueError: it leaves nothing out, or the read-out ends before a shortlist would begin.
    """
    if not 0 < labels < num_classes:
        raise ValueError(
            f"a shortlist keeps 1 … {num_classes - 1} of {num_classes} labels, "
            f"or 0 for all: received {labels}"
        )
    after = _shortlisting_block(num_blocks, scored_blocks)
    if max(readout_blocks) <= after:
        raise ValueError(
            f"a shortlist begins behind block {after}, and the read-out ends at block "
            f"{max(readout_blocks)}: keep no shortlist"
        )
    return Shortlist(labels=labels, after=after)


def usual_shortlist(
    *, num_blocks: int, num_classes: int, scored_blocks: Sequence[int], readout_blocks: Sequence[int]
) -> Shortlist | None:
    """The shortlist of a network that tries labels: None for a few, or where the read-out ends early."""
    after = _shortlisting_block(num_blocks, scored_blocks)
    if num_classes <= MOST_LABELS or max(readout_blocks) <= after:
        return None
    return Shortlist(labels=MOST_LABELS, after=after)


def _shortlisting_block(num_blocks: int, scored_blocks: Sequence[int]) -> int:
    return next(k for k in scored_blocks if k >= (num_blocks - 1) // 3)


def best_rows(scores: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Rows (G·S,) of a pass that go on, and their labels (G, S), by scores (G, K)."""
    kept = scores.topk(labels, dim=1).indices
    first = torch.arange(len(scores), device=scores.device).unsqueeze(1) * scores.shape[1]
    return (first + kept).flatten(), kept


def spread_scores(scores: Tensor, kept: Tensor, num_classes: int) -> Tensor:
    """Scores (G·S,) of the labels ``kept`` (G, S), among all labels (G, K), −∞ elsewhere."""
    everywhere = scores.new_full((len(kept), num_classes), float("-inf"))
    return everywhere.scatter(1, kept, scores.view(kept.shape))
