"""rec-LRA: local representation alignment, with the error fed back through fixed weights.

Paper: Ororbia, Mali, Kifer, Giles 2023, "Backpropagation-Free Deep Learning with Recursive Local
Representation Alignment", AAAI; as a preprint 2020, "Large-Scale Gradient-Free Deep Learning with
Recursive Local Representation Alignment", arXiv 2002.03911.

Formulas, with e = softmax(scores) − one_hot(labels) of the whole network and a fixed random
``feedback`` for each block k:

    target_k = relu(response_k − step · e @ feedback_k)
    loss_k = ½ |relu(response_k) − target_k|²

The error crosses blocks, so ``locality`` is ``feedback``: a block learns after the network's prediction.

No code of the authors was found for this paper; the target is that of their code for its predecessor
(AnkurMali/LRA-E), which makes the change before the activation, and the step of 0.1 is its default.
Departures and open choices: every block is one layer, so there is nothing to recurse into; feedback goes
from the output to every block at once, is equal at all positions of a map, and stays as it was drawn, where
the paper can learn it; the prediction is one more pass with running statistics; every block, including the
last, has its feedback and a linear probe, and the last probe predicts.
"""

from trifecta.losses import LocalTargets
from trifecta.method import Method


def method() -> Method:
    """rec-LRA: blocks learn towards targets from the network's error, fed back through fixed weights."""
    return Method(name="rec-lra", objective=LocalTargets())
