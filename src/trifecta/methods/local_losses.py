"""Prediction, similarity and both: local losses without goodness.

Paper: Nøkland, Eidnes 2019, "Training Neural Networks with Local Error Signals", ICML, arXiv 1901.06656.

Formulas, at block k with activations a before dropout and pool:

    pred    = cross_entropy(classifier(at most 2048 averages of a), labels)
    sim     = similarity_loss(standard deviations of the maps of convolution(a), labels)
    predsim = 0.01 · pred + 0.99 · sim

The classifier's weight starts at 0. Every block learns alone. In ``sim`` the classifier is a probe: it
learns, and the block receives none of its gradient.

Compared with the authors' code (anokland/local-loss): losses, gradients, averages and a block's three
steps agree (tests/reference_values); 2048 is what its CIFAR-10 runs of VGG8B take. Departures:
normalisation before the convolution in place of after; no dropout and no leaky ReLU (those runs have 0.2,
and 0.01 for ``sim`` and ``predsim``); the last block's classifier predicts, where the paper ends in a
fully connected network.
"""

from trifecta.losses import Combined, LocalPrediction, Objective, Similarity
from trifecta.method import Method
from trifecta.schedules import LAYER_WISE


def pred() -> Method:
    """Local prediction loss: a linear classifier on every block, each alone (Nøkland & Eidnes 2019)."""
    return _method("pred", LocalPrediction())


def sim() -> Method:
    """Similarity matching alone; classifiers are probes (Nøkland & Eidnes 2019)."""
    return _method("sim", Combined(scoring=LocalPrediction(), share=0.0, terms=(Similarity(),)))


def predsim() -> Method:
    """Prediction and similarity matching, every block alone (Nøkland & Eidnes 2019)."""
    terms = (Similarity(weight=0.99),)
    return _method("predsim", Combined(scoring=LocalPrediction(), weight=0.01, terms=terms))


def _method(name: str, objective: Objective) -> Method:
    return Method(
        name=name,
        label_input="none",
        objective=objective,
        normalization="batch",
        schedule=LAYER_WISE,
        readout="last",
    )
