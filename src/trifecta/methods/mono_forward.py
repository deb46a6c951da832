"""Mono-Forward: a learned projection and a cross-entropy per layer.

Paper: Gong, Li, Abdulla 2025, "Mono-Forward: Backpropagation-Free Algorithm for Efficient Neural Network
Training Harnessing Local Errors", arXiv 2501.09238 (its second version of 2026 is called "Mono-Forward:
Revisiting Forward-Forward through Objective–Locality Decomposition").

Formula, at block k with activations a and its own matrix ``classifier``:

    loss = cross_entropy(classifier(a), labels)       every activation of a map is an input of its own

Compared with the abstract only: no code of the authors was found. Departures and open choices: the
classifier has a bias; batch normalisation at a block's input; the last block predicts.
"""

from trifecta.losses import CrossEntropy
from trifecta.method import Method


def method() -> Method:
    """Mono-Forward: a linear classifier and its cross-entropy on every block, each alone."""
    return Method(name="mono-forward", objective=CrossEntropy(pool=0))
