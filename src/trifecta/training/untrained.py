"""Blocks that have learnt nothing, and steps that were left out."""

import math
import warnings
from collections.abc import Sequence

from torch import Tensor

from trifecta.learning import Learner
from trifecta.training.callbacks import Record
from trifecta.training.evaluation import Evaluation

# The least share by which a loss falls where a block learns: batches alone make it differ by less.
LEAST_FALL = 0.05


def warn_of_untrained_blocks(history: Sequence[Record], measured: Evaluation) -> None:
    """Warn of each block that has learnt nothing.

    That is one whose training loss has not fallen between its first step and its last epoch, and which is
    right no more often than the most frequent class alone would be, with two standard errors allowed for.
    A block is dead where it gives every label the same score.
    """
    counts = measured.confusion.sum(1)
    images = int(counts.sum())
    share = counts.max().item() / images
    limit = share + 2 * math.sqrt(share * (1 - share) / images)
    for block, accuracy in enumerate(measured.block_accuracy):
        if accuracy is None or accuracy > limit:
            continue
        positive, negative = measured.positive[block], measured.negative[block]
        assert positive is not None
        assert negative is not None
        first, last = _first_and_last_loss(history, block)
        if _are_equal(positive, negative):
            why = "it is dead, all labels have the same score"
        elif first is not None and last is not None and last > first - LEAST_FALL * abs(first):
            why = f"its loss was {first:.3g} at first and is {last:.3g}"
        else:
            continue
        warnings.warn(f"block {block} has learnt nothing: {accuracy:.1%} accuracy, {why}", stacklevel=3)


def _first_and_last_loss(history: Sequence[Record], block: int) -> tuple[float | None, float | None]:
    """Return the loss of a block's first step and its mean in the last epoch; None where it closed none."""
    firsts = [record["first_loss"][block] for record in history if "first_loss" in record]
    lasts = [record["loss"][block] for record in history]
    return (
        next((loss for loss in firsts if loss is not None), None),
        next((loss for loss in reversed(lasts) if loss is not None), None),
    )


def warn_of_skipped_steps(learner: Learner) -> None:
    """Say how many steps left weights as they were."""
    if learner.skipped:
        warnings.warn(
            f"{len(learner.skipped):,} of {learner.steps:,} steps left weights as they were, as a loss or "
            f"gradient was not finite; the first was step {min(learner.skipped) + 1:,}",
            stacklevel=3,
        )


def _are_equal(positive: Tensor, negative: Tensor) -> bool:
    both = positive.isfinite() & negative.isfinite()
    return bool((positive == negative)[both].all())
