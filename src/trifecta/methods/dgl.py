"""DGL: decoupled greedy learning with convolutional auxiliary heads.

Paper: Belilovsky, Eickenberg, Oyallon 2020, "Decoupled Greedy Learning of CNNs", ICML, arXiv 1901.08164.

Formula, at block k with activations a and its own auxiliary network:

    loss = cross_entropy(auxiliary_network(a), labels)

Departures: the auxiliary network is two 3×3 convolutions, the first at half the resolution, an average over
positions and a linear classifier; blocks are updated in the order of one pass, without the paper's replay
buffers for asynchronous workers.
"""

from trifecta.heads import AuxiliaryCrossEntropy
from trifecta.methods.method import Method
from trifecta.schedules import LAYER_WISE


def dgl() -> Method:
    """DGL: a convolutional auxiliary network on every block, each alone."""
    return Method(
        name="dgl",
        label_input="none",
        objective=AuxiliaryCrossEntropy(),
        normalization="batch",
        schedule=LAYER_WISE,
        readout="last",
    )
