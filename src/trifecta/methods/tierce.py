"""Tierce: the Trifecta in one pass, named after the French bet on the first three horses.

Ours. The Trifecta shows a label to the first block, so that a training step takes two passes, one with the
true label and one with a wrong one, and a prediction takes K. Here the label joins every block's goodness
and is not passed on: one pass trains against all wrong labels at once, and one predicts.

Formula, at block k with activations a, their means over 4×4 patches p and a learned shift s of every label:

    goodness_y = mean(relu(p + s_y)²)
    loss = cross_entropy(alpha · goodness, labels),  alpha = 128

For two labels this is the Trifecta's loss, ``softplus(−alpha · (positive − negative))``. Its three
techniques stay: no threshold, batch normalisation, overlapping local updates. Other changes:

1. *Goodness of patches*, not of positions: a mean over hundreds of positions hides each of them.
2. *A large alpha*: one label's share in a mean over so many features is small, and so is its gradient.
3. *Orthogonalised steps* (:class:`trifecta.optim.Muon`), as in superfecta.

Sparse Goodness (arXiv 2604.13081, 2026, of which only the abstract was at hand) also shows a label to every
block. docs/equal-work.md has the worth of each change.
"""

from trifecta.losses import LabelGoodness
from trifecta.method import Method
from trifecta.optim import OptimizerConfig
from trifecta.schedules import OVERLAPPING


def method() -> Method:
    """The Trifecta in one pass: goodness of all labels at every block, overlapping local updates."""
    return Method(
        name="tierce",
        objective=LabelGoodness(alpha=128.0, pool=4),
        schedule=OVERLAPPING,
        optimizer=OptimizerConfig(algorithm="muon", learning_rate=6e-3),
    )
