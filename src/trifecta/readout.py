"""Read-out: from each block's scores to one score per class, and predictions that try fewer labels.

Shapes: L blocks, B images, K classes. For a shortlist: G images, S labels that are kept; a pass holds every
image with every label, G·K samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The read-out whose consecutive blocks are chosen by their accuracy on validation images, after training.
CHOSEN = "chosen"
# The number of labels in the shortlist that a network has from the start where its method tries more.
MOST_LABELS = 20


def named_readouts(scored_blocks: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the blocks of each read-out that has a name."""
    blocks = tuple(scored_blocks)
    return {
        "last": blocks[-1:],
        "last-half": blocks[len(blocks) // 2 :],
        "all-but-first": blocks[1:] or blocks,
        "all": blocks,
    }


def select_blocks(readout: str, scored_blocks: Sequence[int]) -> tuple[int, ...]:
    """Return the blocks that ``readout`` names, out of those that have scores.

    A name of :func:`named_readouts`, or block numbers from 0 such as ``2,3,5``; ``chosen`` is all of them
    until they are chosen. ``all-but-first`` is Hinton's (2022).
    """
    named = named_readouts(scored_blocks)
    named[CHOSEN] = named["all"]
    if readout in named:
        return named[readout]
    words = {word.strip() for word in readout.split(",")}
    if not words <= set(map(str, scored_blocks)):
        raise ValueError(
            f"a read-out is {', '.join(named)} or numbers of blocks that have scores, such as 2,3: "
            f"received '{readout}'; choose from {list(scored_blocks)}"
        )
    return tuple(sorted(map(int, words)))


def fuse(block_scores: Sequence[Tensor | None], blocks: Sequence[int]) -> Tensor:
    """Return the sum of the scores of ``blocks``, L × (B, K) → (B, K)."""
    return torch.stack([scores for k in blocks if (scores := block_scores[k]) is not None]).sum(0)


@dataclass(frozen=True, kw_only=True)
class Shortlist:
    """The ``labels`` best-scoring labels after block ``after``, with which a prediction goes on.

    Scored by the read-out's blocks up to that one; by that block alone where the read-out begins later. An
    approximation: a true label that the early blocks rank too low is lost, as later blocks score −∞.
    """

    labels: int
    after: int


def choose_shortlist(
    labels: int, *, num_blocks: int, num_classes: int, scored: Sequence[int], readout: Sequence[int]
) -> Shortlist:
    """Return a shortlist of ``labels`` labels after a third of the blocks."""
    if not 0 < labels < num_classes:
        raise ValueError(
            f"a shortlist keeps 1 … {num_classes - 1} of {num_classes} labels, or 0 for all: "
            f"received {labels}"
        )
    after = next(k for k in scored if k >= (num_blocks - 1) // 3)
    if max(readout) <= after:
        raise ValueError(
            f"a shortlist begins behind block {after}, and the read-out ends at block {max(readout)}: "
            "use no shortlist"
        )
    return Shortlist(labels=labels, after=after)


def best_rows(scores: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Return the rows (G·S,) of a pass that go on, and their labels (G, S), by scores (G, K)."""
    kept = scores.topk(labels).indices
    first = torch.arange(len(scores), device=scores.device).unsqueeze(1) * scores.shape[1]
    return (first + kept).flatten(), kept


def spread_scores(scores: Tensor, kept: Tensor, num_classes: int) -> Tensor:
    """Return scores (G·S,) of the labels ``kept`` (G, S) among all labels, (G, K), −∞ elsewhere."""
    everywhere = scores.new_full((len(kept), num_classes), -torch.inf)
    return everywhere.scatter(1, kept, scores.view(kept.shape))
