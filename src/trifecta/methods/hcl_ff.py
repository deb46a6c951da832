"""HCL-FF: a supervised-contrastive term beside the goodness of class groups.

Paper: HCL-FF, CVPR 2026, arXiv 2605.24797.

Formula, at block k with activations a:

    loss = cross_entropy(group_mean(a) / temperature, labels)
         + weight · supervised_contrastive_loss(projection(normalise(average_pool(a))), labels)

The backbone is that of DeeperForward; the second term works on directions alone, because without its
length a feature vector holds no goodness. Coarse-to-fine targets: where ``superclasses`` are given
(``--superclasses 0,0,1,1,1,1,1,1,0,0`` are vehicles and animals of CIFAR-10) the first half of the blocks
learns to tell those apart, by both terms, and the second half the classes.

Departures, or details decided here because they were not to be found: averages to 2×2, 64 projected
features, temperature 0.1 and weight 0.5; two levels of targets, half of the blocks each, and none unless
superclasses are given, since a data set seldom names them.
"""

from trifecta.heads import Combined, GroupCrossEntropy, SupervisedContrastive
from trifecta.methods.method import Method
from trifecta.schedules import LAYER_WISE


def hcl_ff() -> Method:
    """HCL-FF: DeeperForward with a supervised-contrastive term on normalised features."""
    return Method(
        name="hcl-ff",
        label_input="none",
        objective=Combined(
            scoring=GroupCrossEntropy(goodness="mean", temperature=0.1),
            terms=(SupervisedContrastive(weight=0.5),),
        ),
        normalization="layer",
        schedule=LAYER_WISE,
        readout="all-but-first",
    )
