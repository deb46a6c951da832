"""End-to-end backpropagation, the reference: the schedule whose one window spans the network.

Source: Rumelhart, Hinton, Williams 1986. Same blocks, batches, optimizer and trainer as every local
method; the class scores are a linear classifier on the last block's global average.

    loss = cross_entropy(classifier(average_pool(activations)), labels)

With another schedule it becomes a local method: ``schedule=LAYER_WISE`` puts a classifier on every
block and lets nothing cross.
"""

from trifecta.losses import CrossEntropy
from trifecta.method import Method
from trifecta.schedules import END_TO_END


def backprop() -> Method:
    """End-to-end backpropagation with cross-entropy: the reference."""
    return Method(
        name="backprop",
        label_input="none",
        objective=CrossEntropy(),
        normalization="batch",
        schedule=END_TO_END,
        readout="last",
    )
