"""Superfecta: four techniques on strictly local blocks, one pass, no negatives.

Ours, found on validation images of CIFAR-10 (docs/equal-work.md: the search, and the worth of each
technique).

Formula, at block k with activations a:

    loss = cross_entropy(last(relu(batch_norm(first(patch_means(a, 4))))), labels)

1. *Classifiers with a hidden layer* (256 units): a block under a linear classifier must make classes
   linearly separable at once, and discards what a later block could have used (Belilovsky et al. 2020,
   arXiv 1901.08164, use perceptrons for the same reason). The hidden layer is batch-normalised, because
   averages of ReLU maps are all positive and differ widely in size.
2. *Classifiers of 4×4 patches*, so that a block may keep locations, which blocks that see no later one are
   otherwise taught to forget (averages as in Nøkland & Eidnes 2019, arXiv 1901.06656).
3. *Orthogonalised steps* (:class:`trifecta.optim.Muon`): a few directions dominate the gradient that a
   block gets from its classifier, and such a step weighs the others equally.
4. *A fused read-out*: the scores of all blocks but the first are summed.
"""

from trifecta.losses import CrossEntropy
from trifecta.method import Method
from trifecta.optim import OptimizerConfig

CLASSIFIER = CrossEntropy(pool=4, hidden=256)


def method() -> Method:
    """Our own: local classifiers of patches with a hidden layer, orthogonalised steps, a fused read-out."""
    return Method(
        name="superfecta",
        objective=CLASSIFIER,
        readout="all-but-first",
        optimizer=OptimizerConfig(algorithm="muon", learning_rate=6e-3),
    )
