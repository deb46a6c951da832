"""Tierce: the Trifecta in one pass, named after the French bet on the first three horses.

Ours. The Trifecta shows a label to the first block and carries it through all others, so that a training
step is two passes, true label and wrong one, and a prediction K passes. Here the label stands beside every
block, and what goes on knows none: one pass trains against all wrong labels at once, and one predicts.

Formula, at block k with activations a, their means over 4×4 patches p and a learned shift s of every label:

    goodness_y = mean(relu(p + s_y)²)
    loss = cross_entropy(alpha · goodness, labels),  alpha = 128

Of two labels that is the Trifecta's loss, ``softplus(−alpha · (positive − negative))``. Its three
techniques stay: no threshold, batch normalisation, overlapping local updates. Changed beside the labels'
place:

1. *Goodness of patches*, not of positions: a mean over hundreds of positions says little about any of them.
2. *A large alpha*: of a mean over so many features one label's share is small, and so is its gradient.
3. *Orthogonalised steps* (Muon, :mod:`trifecta.optim.muon`), as in superfecta.

docs/comparison.md: what each is worth, and the Trifecta beside it by seconds. A label at every block: also
Sparse Goodness (arXiv 2604.13081, 2026), of which the abstract was at hand.
"""

from trifecta.losses import LabelGoodness
from trifecta.method import Method
from trifecta.optim.config import OptimizerConfig
from trifecta.schedules import OVERLAPPING


def tierce() -> Method:
    """The Trifecta in one pass: goodness of all labels beside every block, overlapping local updates."""
    return Method(
        name="tierce",
        label_input="none",
        objective=LabelGoodness(alpha=128.0, pool=4),
        normalization="batch",
        schedule=OVERLAPPING,
        readout="last",
        optimizer=OptimizerConfig(algorithm="muon", learning_rate=6e-3),
    )
