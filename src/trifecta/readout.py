"""Read-out: from each block's scores to one score per class.

Shapes: L blocks, B images, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Consecutive blocks, by their accuracy on validation images once training is over.
CHOSEN = "chosen"


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
