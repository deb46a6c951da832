"""Prediction, similarity and both: local losses without goodness.

Paper: Nøkland & Eidnes 2019, "Training Neural Networks with Local Error Signals", ICML, arXiv 1901.06656.

Formulas, at block k with activations a:

    pred    = cross_entropy(classifier(average_pool(a, 4×4)), labels)
    sim     = similarity_loss(standard deviations of the maps of convolution(a), labels)
    predsim = 0.01 · pred + 0.99 · sim

Every block learns alone. In ``sim`` the classifier is a probe: it learns, and the block receives none of
its gradient; in ``predsim`` it learns from its whole gradient and the block receives the share.

Departures: averages to 4×4 in every block (the paper pools to a fixed number of features); normalisation
before the convolution in place of after; no dropout; the last block's classifier predicts, where the paper
ends in a fully connected network.
"""

from trifecta.heads import Combined, CrossEntropy, Objective, Similarity
from trifecta.methods.method import Method
from trifecta.schedules import LAYER_WISE


def pred() -> Method:
    """Local prediction loss: a linear classifier on every block, each alone (Nøkland & Eidnes 2019)."""
    return _method("pred", CrossEntropy(pool=4))


def sim() -> Method:
    """Similarity matching alone; classifiers are probes (Nøkland & Eidnes 2019)."""
    return _method("sim", Combined(scoring=CrossEntropy(pool=4), share=0.0, terms=(Similarity(),)))


def predsim() -> Method:
    """Prediction and similarity matching, every block alone (Nøkland & Eidnes 2019)."""
    objective = Combined(scoring=CrossEntropy(pool=4), share=0.01, terms=(Similarity(weight=0.99),))
    return _method("predsim", objective)


def _method(name: str, objective: Objective) -> Method:
    return Method(
        name=name,
        label_input="none",
        objective=objective,
        normalization="batch",
        schedule=LAYER_WISE,
        readout="last",
    )
