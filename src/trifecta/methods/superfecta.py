"""Superfecta: four techniques on strictly local blocks, one pass, no negatives.

Ours, found on validation images of CIFAR-10 (docs/comparison.md: the search, and what each technique is
worth).

Formula, at block k with activations a:

    loss = cross_entropy(last(relu(batch_norm(first(patch_means(a, 4))))), labels)

1. *Classifiers with a hidden layer* (256 units): a block under a linear classifier must make classes linear
   at once, and throws away what a later block could have used; under this one it need not (Belilovsky et
   al. 2020, arXiv 1901.08164, use perceptrons for the same reason). Normalised as a block is: averages of
   ReLU maps are all positive and differ widely in size, and what reads them as they are is slow to learn,
   while its block waits for it.
2. *Classifiers of 4×4 patches*, so that a block may keep where things are, which blocks that see no later
   one are otherwise taught to forget (averages as in Nøkland & Eidnes 2019, arXiv 1901.06656).
3. *Orthogonalised steps* (Muon, :mod:`trifecta.optim.muon`): a few directions dominate the gradient that a
   block gets from its classifier, and such a step gives the others the same say.
4. *A fused read-out*: the scores of all blocks but the first are summed.

Nothing crosses a block, and what goes on is what the ReLU leaves.
"""

from trifecta.losses import CrossEntropy
from trifecta.method import Method
from trifecta.optim.config import OptimizerConfig
from trifecta.schedules import LAYER_WISE

CLASSIFIER = CrossEntropy(pool=4, hidden=256)


def superfecta() -> Method:
    """Our own: local classifiers of patches with a hidden layer, orthogonalised steps, a fused read-out."""
    return Method(
        name="superfecta",
        label_input="none",
        objective=CLASSIFIER,
        normalization="batch",
        schedule=LAYER_WISE,
        readout="all-but-first",
        optimizer=OptimizerConfig(algorithm="muon", learning_rate=6e-3),
    )
