"""SCFF: self-contrastive Forward-Forward, without labels.

Paper: Chen, Liu, Laydevant, Grollier 2025, "Self-Contrastive Forward-Forward algorithm", Nature
Communications 16:5978.

Formula, at block k with goodness g_i = mean_square(activations_i) of positives ``x + x`` and negatives
``x + x'`` (:class:`trifecta.image_pairs.OtherImage`):

    threshold_loss = mean_i softplus(threshold − positive_i) + softplus(negative_i − threshold)

No block sees a label. A linear read-out on every block's averages learns beside it and gives it no
gradient (``share=0``).

Departures, or details decided here: all blocks learn at once where the paper trains one after another;
goodness is a mean with threshold 2; layer normalisation at every block's input, so that x + x is not
told from x + x' by its size; the read-outs of all blocks are summed, where the paper trains one classifier
on the features of all.
"""

from trifecta.heads import Combined, Contrast, CrossEntropy, Threshold
from trifecta.methods.method import Method
from trifecta.schedules import LAYER_WISE


def scff() -> Method:
    """SCFF: an image with itself against an image with another; labels only in linear read-outs."""
    return Method(
        name="scff",
        label_input="other-image",
        objective=Combined(scoring=CrossEntropy(pool=4), share=0.0, terms=(Contrast(loss=Threshold()),)),
        normalization="layer",
        schedule=LAYER_WISE,
        readout="all",
    )
