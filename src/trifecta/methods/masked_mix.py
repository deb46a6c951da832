"""Unsupervised Forward-Forward: real images against mixed ones.

Paper: Hinton 2022, "The Forward-Forward Algorithm: Some Preliminary Investigations", arXiv 2212.13345,
section 3.2.

Formula, at block k with goodness g_i = mean_square(activations_i) of images and of mixtures of two images
under a mask with large regions (:class:`trifecta.inputs.image_pairs.MaskedMix`):

    threshold_loss = mean_i softplus(threshold − positive_i) + softplus(negative_i − threshold)

Images and mixtures look alike locally, so a block must learn long-range structure. A linear read-out on
every block's averages learns beside it and gives it no gradient (``share=0``).

Not compared with code of the author. Departures: goodness is a mean with threshold 2; read-outs learn at
the same time and are summed over all blocks but the first, where the paper trains one classifier
afterwards.
"""

from trifecta.losses import Combined, Contrast, CrossEntropy, Threshold
from trifecta.method import Method


def method() -> Method:
    """Unsupervised FF: images against masked mixtures; labels only in linear read-outs."""
    return Method(
        name="masked-mix",
        label_input="masked-mix",
        objective=Combined(scoring=CrossEntropy(pool=4), share=0.0, terms=(Contrast(loss=Threshold()),)),
        normalization="length",
        readout="all-but-first",
    )
