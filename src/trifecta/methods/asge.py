"""ASGE: adaptive spatial goodness encoding.

Paper: Gong, Staszewski, Xu 2025, "Adaptive Spatial Goodness Encoding: Advancing and Scaling
Forward-Forward Learning", arXiv 2509.12394.

Formula, at block k with activations a and a fixed random matrix ``projection``:

    g = standardise(patch_rms(a, P))          one number per channel and patch, (C·P²,)
    loss = cross_entropy(g @ projection, labels)

Compared with the abstract only: the authors' code (KAI-Laboratory/ASGE) could not be obtained. Departures
and open choices: P = 4 in every block, where the paper adapts it to the channels; g is standardised per
image, and the projection is normal with variance 1/(C·P²); batch normalisation and maximum pools, where
the paper is said to downsample by root mean squares and to normalise over channels; the last block
predicts (the paper's *Last Pred*; ``readout="all"`` is its *Fusion Pred*).
"""

from trifecta.losses import ProjectedCrossEntropy
from trifecta.method import Method


def method() -> Method:
    """ASGE: goodness of patches through a fixed random projection, every block alone."""
    return Method(name="asge", objective=ProjectedCrossEntropy(patches=4))
