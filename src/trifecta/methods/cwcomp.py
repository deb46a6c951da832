"""CwComp: convolutional channel-wise competitive learning.

Paper: Papachristodoulou, Kyrkou, Timotheou, Theocharides 2024, "Convolutional Channel-Wise Competitive
Learning for the Forward-Forward Algorithm", AAAI, arXiv 2312.12668.

Formula, at block k with b = batch_norm(pool(relu(convolution(x)))) and the channels of class c in G_c:

    g_c = group_mean_square(b)_c = mean_{i in G_c} b_i²
    loss = cross_entropy(g, labels)

The next block receives b too. Earlier blocks stop learning earlier (*interleaved training*): the first
after 44% of the run, the others at equal intervals, which is the code's default for CIFAR-10 (four layers
until epochs 11, 16, 21 and 25).

Compared with the authors' code (andreaspapac/CwComp): layers, goodness, losses and steps agree
(tests/reference_values). Departures: no grouped convolutions (the code's CFSE networks have them in every
second layer), so that networks are those of every other method; the learning rate decays, where the code's
Adam keeps 0.01; the last block predicts, where the code also trains a classifier on top.

Ours is ``class_groups``: the same goodness of a block's activations, on the blocks and with the batch
normalisation and the overlapping updates of the Trifecta.
"""

from trifecta.losses import GroupCrossEntropy
from trifecta.method import Method
from trifecta.optim import OptimizerConfig
from trifecta.schedules import OVERLAPPING


def method() -> Method:
    """CwComp: channels compete for classes by squared goodness, every block alone."""
    return Method(
        name="cwcomp",
        objective=GroupCrossEntropy(goodness="mean-square"),
        normalization="batch-output",
        optimizer=OptimizerConfig(freeze_from=0.44),
    )


def class_groups() -> Method:
    """One pass: cross-entropy over the goodness of class groups of channels, overlapping updates."""
    return Method(name="class-groups", objective=GroupCrossEntropy(), schedule=OVERLAPPING)
