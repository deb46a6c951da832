"""DeeperForward: mean goodness and layer normalisation, for deeper convolutional networks.

Paper: Sun, Zhang, He, Wen, Shen, Xie 2025, "DeeperForward: Enhanced Forward-Forward Training for Deeper
and Better Performance", ICLR.

Formula, at block k with activations a ≥ 0 and the channels of class c in group G_c:

    g_c = group_mean(a)_c = mean_{i in G_c} a_i
    loss = cross_entropy(g / temperature, labels)

The square favours few loud units and shuts others off; the mean does not. Layer normalisation at the next
block's input leaves a zero mean, so that the goodness, which is a mean, is not passed on.

Departures: no residual connections unless the network has them (``--network resnet``); layer normalisation
has a scale and shift per channel; the temperature of 0.1 is ours, because means of activations differ by
little; all blocks but the first predict together (the paper chooses layers on validation images, which
``--readout chosen`` does).
"""

from trifecta.heads import GroupCrossEntropy
from trifecta.methods.method import Method
from trifecta.schedules import LAYER_WISE


def deeper_forward() -> Method:
    """DeeperForward: class groups of channels by mean goodness, layer normalisation, every block alone."""
    return Method(
        name="deeper-forward",
        label_input="none",
        objective=GroupCrossEntropy(goodness="mean", temperature=0.1),
        normalization="layer",
        schedule=LAYER_WISE,
        readout="all-but-first",
    )
