"""HCL-FF: coarse-to-fine targets and a supervised-contrastive term with the goodness of class groups.

Paper: Yao, Chen, Kuo 2026, "HCL-FF: Hierarchical and Contrastive Learning for Forward-Forward Algorithm",
CVPR, arXiv 2605.24797.

Formula, at block k with activations a, superclasses of the block's level, and n = class_group_norm(a):

    g_c = group_mean(a)_c,   G_s = mean_{c in s} g_c
    loss = cross_entropy(G, superclasses[labels]) + supervised_contrastive_loss(projection(n), labels)

Blocks are those of DeeperForward. The contrastive term reads what is passed on, which holds no goodness,
and uses the classes at every block; its temperature falls from 0.8 to 0.2 in 50 epochs and along a cosine
to 0.1 at the end. Early blocks learn coarse levels, the last ones the classes; levels are found in the
training images (:func:`trifecta.training.trainer.find_superclasses`) unless ``superclasses`` are given.

Compared with the authors' code (JNNNNYao/HCL-FF): loss, temperatures, projection and coarse scores agree
(tests/reference_values). Departures: those of DeeperForward; the code finds CIFAR's levels in the features
of a pretrained network, here they are found in pixels, as it does for MNIST; one optimizer for all weights
(the code's projections have twice the rate, and gradients are clipped to length 1); the summed goodness
predicts alone, where the code adds a linear classifier of the last map.
"""

from trifecta.losses import Combined, GroupCrossEntropy, SupervisedContrastive
from trifecta.method import Method


def method() -> Method:
    """HCL-FF: DeeperForward with coarse-to-fine targets and a supervised-contrastive term."""
    return Method(
        name="hcl-ff",
        objective=Combined(scoring=GroupCrossEntropy(goodness="mean"), terms=(SupervisedContrastive(),)),
        normalization="class-groups",
        dropout=0.2,
        finds_superclasses=True,
        readout="all-but-first",
    )
