"""Deeply supervised backpropagation: end-to-end, with a loss at every block.

Paper: Lee, Xie, Gallagher, Zhang, Tu 2015, "Deeply-Supervised Nets", AISTATS, arXiv 1409.5185.

    loss = Σ_k cross_entropy(classifier_k(average_pool(activations_k)), labels)

Not compared with the authors' code (s9xie/DSN). Departures: cross-entropy in place of squared hinges; equal
weights for all losses throughout.
"""

from trifecta.losses import CrossEntropy
from trifecta.method import Method
from trifecta.schedules import DEEPLY_SUPERVISED


def method() -> Method:
    """End-to-end backpropagation with a loss at every block: a reference."""
    return Method(name="deep-supervision", objective=CrossEntropy(), schedule=DEEPLY_SUPERVISED)
