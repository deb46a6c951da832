"""CwComp: convolutional channel-wise competitive learning.

Paper: Papachristodoulou, Kyrkou, Timotheou, Theocharides 2024, "Convolutional Channel-Wise Competitive
Learning for the Forward-Forward Algorithm", AAAI, arXiv 2312.12668.

Formula, at block k with activations a and the channels of class c in group G_c:

    g_c = group_mean_square(a)_c = mean_{i in G_c} a_i²
    loss = cross_entropy(g, labels)

Every block learns alone, from one pass, without negatives.

Departures: no grouped convolutions (the paper's CFSE blocks alternate them with plain ones), so that the
networks are those of every other method; batch normalisation at a block's input; the last block predicts,
where the paper also trains a classifier on top.
"""

from trifecta.heads import GroupCrossEntropy
from trifecta.methods.method import Method
from trifecta.schedules import LAYER_WISE


def cwcomp() -> Method:
    """CwComp: channels compete for classes by squared goodness, every block alone."""
    return Method(
        name="cwcomp",
        label_input="none",
        objective=GroupCrossEntropy(goodness="mean-square"),
        normalization="batch",
        schedule=LAYER_WISE,
        readout="last",
    )
