"""AugLocal: auxiliary networks of later blocks' shapes.

Paper: Ma, Wu, Si, Tan 2024, "Scaling Supervised Local Learning with Augmented Auxiliary Networks", ICLR,
arXiv 2402.17318.

Formula, at block k of L with activations a and its own auxiliary network:

    loss = cross_entropy(auxiliary_network(a), labels)

The auxiliary network has layers of the kinds and channels of ``depth`` of the blocks behind k, evenly
spaced, the last among them (:func:`trifecta.losses.later_layers.blocks_ahead`), then averages and a linear
classifier. In the place of residual blocks (``--network resnet``) it has residual layers. Its weights are
its own: nothing of a later block is copied, and nothing of it comes back.

Compared with the authors' code (ChenxiangMA/AugLocal): behind two parts of its ResNet-32, logits, loss and
all gradients agree (tests/reference_values). Departures: a linear classifier, where its VGGs have three
layers; no bias in convolutions, which batch normalisation takes away; PyTorch's initial weights; all
auxiliary networks are equally deep: its pyramid, which makes later ones less deep, leaves two layers
everywhere with the 2 and 0.5 of its run of ResNet-32. Ours: a linear layer in the place of a fully
connected block.
"""

from trifecta.losses import LaterLayers
from trifecta.method import Method
from trifecta.schedules import LAYER_WISE


def auglocal() -> Method:
    """AugLocal: two layers of later blocks' shapes and a classifier on every block, each alone."""
    return Method(
        name="auglocal",
        label_input="none",
        objective=LaterLayers(),
        normalization="batch",
        schedule=LAYER_WISE,
        readout="last",
    )
