"""Forward-Forward, as first published.

Paper: Hinton 2022, "The Forward-Forward Algorithm: Some Preliminary Investigations", arXiv 2212.13345.

Formula, at block k with goodness ``g_i = mean_square(activations_i)``:

    threshold_loss = mean_i softplus(threshold − positive_i) + softplus(negative_i − threshold)

Every block learns alone, and its input is normalised in length so that it cannot read the goodness of the
block before. The sum of all blocks' goodness but the first's predicts.

No code of the author was compared. Departures from the paper: the label enters as one more input channel,
where the paper writes it over the first pixels, which suits fully connected networks but a convolution
sees only in a corner (``label_input="overlay"``; recipe ``ff-mlp-mnist``);
goodness is the mean of squares in place of the sum, with threshold 2 (the paper's threshold grows with
the width); wrong labels are drawn uniformly, not by how likely the network finds them; the length norm
leaves a mean square of 1 in place of a length of 1; Adam without weight decay or momentum schedule.
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
