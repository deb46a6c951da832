"""Forward-Forward, as first published.

Paper: Hinton 2022, "The Forward-Forward Algorithm: Some Preliminary Investigations", arXiv 2212.13345.

Formula, at block k with goodness ``g_i = mean_square(activations_i)``:

    threshold_loss = mean_i softplus(threshold − positive_i) + softplus(negative_i − threshold)

Every block learns alone, and its input is normalised in length so that it cannot read the goodness of the
block before. The sum of all blocks' goodness but the first's predicts.

Hinton published no code of this. Compared with that of loeweX/Forward-Forward, less its peer
normalisation and its ReLU that lets all gradients through: with the label written over the first pixels
(``label_input="overlay"``; recipe ``ff-mlp-mnist``), ``goodness="sum-square"`` and the number of units as
the threshold, losses, gradients and goodness agree (tests/reference_values).

Departures from the paper: the label enters as one more input channel, as a convolution sees the first
pixels only in a corner; goodness is the mean of squares in place of the sum, with threshold 2 (the paper's
threshold grows with the width); wrong labels are drawn uniformly, not by how likely the network finds them;
the length norm leaves a mean square of 1 in place of a length of 1; Adam without weight decay or momentum
schedule.

Departures from loeweX's code beside these: the length norm divides by ``sqrt(mean_i x_i² + 1e-5)`` in place
of ``sqrt(mean_i x_i²) + 1e-8``, so that the gradient of a sample to which no unit responds is finite in
windows of several blocks (2e-5 of a sample whose mean square is 0.25; a ``normalization`` of one's own
restores it); PyTorch's initial weights; Adam; the sum of goodness predicts, where the code trains a linear
classifier.
"""

from trifecta.losses import Threshold
from trifecta.method import Method
from trifecta.schedules import LAYER_WISE


def ff() -> Method:
    """Hinton's Forward-Forward: threshold loss, length normalisation, every block alone."""
    return Method(
        name="ff",
        label_input="channel",
        objective=Threshold(goodness="mean-square", threshold=2.0),
        normalization="length",
        schedule=LAYER_WISE,
        readout="all-but-first",
    )
