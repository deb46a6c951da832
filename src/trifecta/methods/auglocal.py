"""AugLocal: augmented auxiliary networks.

Paper: Ma, Wu, Si, Tan 2024, "Scaling Supervised Local Learning with Augmented Auxiliary Networks", ICLR,
arXiv 2402.17318.

Formula, at block k of L with activations a and its own auxiliary network:

    loss = cross_entropy(auxiliary_network(a), labels)

The auxiliary network has the layer types and channels of ``depth`` later blocks, evenly spaced and
including the last (:func:`trifecta.losses.classifiers.blocks_ahead`), then averages and a linear
classifier. Residual blocks (``network="resnet"``) become residual layers. All its weights are its own.

Compared with the authors' code (ChenxiangMA/AugLocal): logits, loss and all gradients agree for two parts
of its ResNet-32 (tests/reference_values). Departures: a linear classifier, where its VGGs use three layers;
convolutions without bias, which batch normalisation cancels; PyTorch's initial weights; auxiliary networks
of equal depth: its pyramid, with the 2 and 0.5 of its ResNet-32 run, keeps two layers everywhere. Ours: a
linear layer for a fully connected block.
"""

from trifecta.losses import AugmentedAuxiliary
from trifecta.method import Method


def method() -> Method:
    """AugLocal: two layers of later blocks' shapes and a classifier on every block, each alone."""
    return Method(name="auglocal", objective=AugmentedAuxiliary())
