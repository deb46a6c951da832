"""DGL: decoupled greedy learning with convolutional auxiliary networks.

Paper: Belilovsky, Eickenberg, Oyallon 2020, "Decoupled Greedy Learning of CNNs", ICML, arXiv 1901.08164.

Formula, at block k with activations a and its own auxiliary network:

    loss = cross_entropy(auxiliary_network(a), labels)

The auxiliary network is the code's *cnn*: two 3×3 convolutions at full resolution, averages to 2×2, batch
normalisation, a linear classifier.

Compared with the authors' code (eugenium/DGL): parameter counts, logits, loss and gradient agree
(tests/reference_values). Departures: the code's script defaults to *mlp-sr*, a smaller network of 1×1
convolutions, and ends in a larger classifier; blocks are updated in the order of one pass, without the
paper's replay buffers for asynchronous workers.
"""

from trifecta.losses import AuxiliaryCrossEntropy
from trifecta.method import Method


def method() -> Method:
    """DGL: a convolutional auxiliary network on every block, each alone."""
    return Method(name="dgl", objective=AuxiliaryCrossEntropy())
