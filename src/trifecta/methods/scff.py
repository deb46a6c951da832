"""SCFF: self-contrastive Forward-Forward, without labels.

Paper: Chen, Liu, Laydevant, Grollier 2025, "Self-Contrastive Forward-Forward algorithm", Nature
Communications 16:5978, arXiv 2409.11593.

Formula, at block k and position p with the response r (before the activation) to (x, x) and (x, x'):

    g_p = mean_c relu(r_cp)²
    loss = mean softplus(threshold⁺ − positive_p) + mean softplus(negative_p − threshold⁻)
         + penalty · mean_i |positive_i|

A pair is standardised as one and enters as its sum, as both halves meet the same weights. The *triangle*
of r, ``relu(r − mean_c r)``, of the positives is passed on, and every block makes new pairs of it. The
thresholds are 0 and 1 in the first block, 5 and 9 in the second, 6 and 10 from the third on. A linear
read-out of every block's averages learns at the same time and gives it no gradient.

Compared with the authors' code (neurophysics-cnrsthales/contrastive-forward-forward, three layers on
CIFAR-10): pairs, goodness, loss, triangle and the steps of two layers agree (tests/reference_values).
Departures: all blocks learn at once, where the code trains one after another; statistics leave out the
reflected border that the code pads with, and convolutions pad with zeros and have no bias; kernels,
channels and pools are the network's; the read-outs of all blocks are summed, where the code trains one
classifier on the features of all.
"""

from trifecta.losses import PositionThresholds
from trifecta.method import Method


def method() -> Method:
    """SCFF: an image with itself against an image with another; labels only in linear read-outs."""
    return Method(
        name="scff",
        label_input="other-image",
        objective=PositionThresholds(),
        normalization="none",
        activation="triangle",
        readout="all",
    )
