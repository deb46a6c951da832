"""Blocks that have learnt nothing, and steps that were left out."""

import math
import warnings

from torch import Tensor

from trifecta.learning import Learner
from trifecta.training.evaluation import Evaluation


def warn_of_untrained_blocks(measured: Evaluation) -> None:
    """Warn of each block that is right no more often than the most frequent class alone would be.

    Two standard errors are allowed for. A block is dead where it gives every label the same score.
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
        why = (
            "it is dead, all labels have the same score"
            if _are_equal(positive, negative)
            else f"always the most frequent class would be right for {share:.1%}"
        )
        warnings.warn(f"block {block} has learnt nothing: {accuracy:.1%} accuracy, {why}", stacklevel=3)


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
