"""Class groups: every class owns a group of channels; one pass, no negatives.

Source of the goodness: Papachristodoulou, Kyrkou, Timotheou, Theocharides 2024, "Convolutional
Channel-Wise Competitive Learning for the Forward-Forward Algorithm" (CwComp, AAAI), arXiv 2312.12668.

Formula, at block k with activations a and the channels of class c in group G_c:

    g_c = group_mean_square(a)_c = mean_{i in G_c} a_i²
    loss = cross_entropy(g, labels)

Ours, not that paper's: plain cross-entropy over all groups, with the blocks, batch normalisation and
overlapping updates of the Trifecta. Groups are contiguous and as equal as the channels allow. Every block
scores the classes; the last one predicts.
"""

from trifecta.losses import GroupCrossEntropy
from trifecta.method import Method
from trifecta.schedules import OVERLAPPING


def method() -> Method:
    """One pass: cross-entropy over the goodness of class groups of channels, overlapping updates."""
    return Method(name="class-groups", objective=GroupCrossEntropy(), schedule=OVERLAPPING)
