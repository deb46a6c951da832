"""Forward-Forward, as first published, with labels and without.

Paper: Hinton 2022, "The Forward-Forward Algorithm: Some Preliminary Investigations", arXiv 2212.13345.

Formula, at block k with goodness ``g_i = mean_square(activations_i)``:

    threshold_loss = mean_i softplus(threshold − positive_i) + softplus(negative_i − threshold)

A block's input is normalised in length, which hides the goodness of the block before. The summed goodness
of all blocks but the first predicts. ``masked_mix`` (section 3.2) needs no labels: positives are images,
negatives mixtures of two images under a mask with large regions (:class:`trifecta.inputs.MaskedMix`); a
linear read-out of every block's averages learns at the same time and gives it no gradient (``share=0``).

Hinton published no code. Compared with that of loeweX/Forward-Forward, without its peer normalisation and
its ReLU that passes all gradients: with the label written over the first pixels (``label_input="overlay"``;
recipe ``ff-mlp-mnist``), ``goodness="sum-square"`` and the number of units as the threshold, losses,
gradients and goodness agree (tests/reference_values).

Departures from the paper: the label enters as one more input channel, as a convolution sees the first
pixels in one corner only; goodness is the mean of squares in place of the sum, with threshold 2 (the
paper's grows with the width); wrong labels are drawn uniformly, not by how likely the network finds them;
the length norm leaves a mean square of 1 in place of a length of 1; Adam without weight decay or momentum
schedule; read-outs of ``masked_mix`` learn at the same time and are summed, where the paper trains one
classifier afterwards.

Further departures from loeweX's code: the length norm divides by ``sqrt(mean_i x_i² + 1e-5)`` in place of
``sqrt(mean_i x_i²) + 1e-8``, so that the gradient of a sample to which no unit responds is finite in
windows of several blocks (2e-5 of a sample whose mean square is 0.25; a ``normalization`` of your own
restores it); PyTorch's initial weights; Adam; the summed goodness in place of a linear classifier.
"""

from trifecta.losses import Combined, Contrast, CrossEntropy, Threshold
from trifecta.method import Method


def method() -> Method:
    """Hinton's Forward-Forward: threshold loss, length normalisation, every block alone."""
    return Method(
        name="ff",
        label_input="channel",
        objective=Threshold(goodness="mean-square", threshold=2.0),
        normalization="length",
        readout="all-but-first",
    )


def masked_mix() -> Method:
    """Unsupervised FF: images against masked mixtures; labels only in linear read-outs."""
    return Method(
        name="masked-mix",
        label_input="masked-mix",
        objective=Combined(scoring=CrossEntropy(pool=4), share=0.0, terms=(Contrast(loss=Threshold()),)),
        normalization="length",
        readout="all-but-first",
    )
