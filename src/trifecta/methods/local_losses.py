"""Prediction, similarity and both: local losses without goodness.

Paper: Nøkland, Eidnes 2019, "Training Neural Networks with Local Error Signals", ICML, arXiv 1901.06656.

Formulas, at block k with activations a before dropout and pool:

    pred    = cross_entropy(classifier(at most 2048 averages of a), labels)
    sim     = similarity_loss(standard deviations of the maps of convolution(a), labels)
    predsim = 0.01 · pred + 0.99 · sim

The classifier's weight starts at 0. In ``sim`` the block receives none of the classifier's gradient.

Compared with the authors' code (anokland/local-loss): losses, gradients, averages and three steps of a
block agree (tests/reference_values); 2048 is the value of its CIFAR-10 runs of VGG8B. Departures:
normalisation before the convolution in place of after; no dropout and no leaky ReLU (those runs have 0.2,
and 0.01 for ``sim`` and ``predsim``); the last block's classifier predicts, where the paper ends in a
fully connected network.
"""

from trifecta.losses import Combined, LocalPrediction, Similarity
from trifecta.method import Method


def pred() -> Method:
    """Local prediction loss: a linear classifier on every block, each alone (Nøkland & Eidnes 2019)."""
    return Method(name="pred", objective=LocalPrediction())


def sim() -> Method:
    """Similarity matching alone; classifiers are probes (Nøkland & Eidnes 2019)."""
    objective = Combined(scoring=LocalPrediction(), share=0.0, terms=(Similarity(),))
    return Method(name="sim", objective=objective)


def predsim() -> Method:
    """Prediction and similarity matching, every block alone (Nøkland & Eidnes 2019)."""
    objective = Combined(scoring=LocalPrediction(), weight=0.01, terms=(Similarity(weight=0.99),))
    return Method(name="predsim", objective=objective)
