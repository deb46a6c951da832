"""DeeperForward: mean goodness that is not passed on, for deeper convolutional networks.

Paper: Sun, Zhang, He, Wen, Shen, Xie 2025, "DeeperForward: Enhanced Forward-Forward Training for Deeper
and Better Performance", ICLR.

Formula, at block k with activations a ≥ 0 (after dropout) and the channels of class c in group G_c:

    g_c = group_mean(a)_c = mean_{i in G_c} a_i
    loss = cross_entropy(g, labels)

The next block normalises each class's group of channels by itself, and the image as a whole
(:class:`trifecta.nn.norms.ClassGroupNorm`), so that no goodness is passed on.

Compared with the authors' code (tobysunsun/deeperforward, in a public copy): layer, goodness and the
fused prediction of its 17-layer network agree (tests/reference_values). Departures: no residual
connections unless the network has them (``network="resnet"``), so pools between blocks replace the code's
strides; PyTorch's initial weights; all blocks but the first predict together (the code's default; it can
also choose a range on validation images, as ``readout="chosen"`` does).
"""

from trifecta.losses import GroupCrossEntropy
from trifecta.method import Method


def method() -> Method:
    """DeeperForward: class groups by mean goodness, which is not passed on; every block alone."""
    return Method(
        name="deeper-forward",
        objective=GroupCrossEntropy(goodness="mean"),
        normalization="class-groups",
        dropout=0.2,
        readout="all-but-first",
    )
