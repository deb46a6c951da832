"""End-to-end backpropagation, the reference: one window that spans the network.

Source: Rumelhart, Hinton, Williams 1986. Blocks, batches, optimizer and trainer are those of every local
method. ``schedule=LAYER_WISE`` makes it one, with a classifier on every block.

    loss = cross_entropy(classifier(average_pool(activations)), labels)
"""

from trifecta.losses import CrossEntropy
from trifecta.method import Method
from trifecta.schedules import END_TO_END


def method() -> Method:
    """End-to-end backpropagation with cross-entropy: the reference."""
    return Method(name="backprop", objective=CrossEntropy(), schedule=END_TO_END)
