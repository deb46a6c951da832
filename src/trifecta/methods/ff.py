"""Forward-Forward, as first published.

Paper: Hinton 2022, "The Forward-Forward Algorithm: Some Preliminary Investigations", arXiv 2212.13345.

Formula, at block k with goodness ``g_i = mean_square(activations_i)``:

    threshold_loss = mean_i softplus(threshold − positive_i) + softplus(negative_i − threshold)

Every block learns alone, its input is normalised in length so that it cannot read the goodness of the
block before, and the label is written over the first pixels. The sum of all blocks' goodness but the
first's predicts.

Departures from the paper: goodness is the mean of squares in place of the sum, with threshold 2 (the
paper's threshold grows with the width); wrong labels are drawn uniformly, not by how likely the network
finds them; the length norm leaves a mean square of 1 in place of a length of 1; Adam without weight
decay or momentum schedule.

A label in a corner's pixels suits fully connected networks. A convolution sees it only there: with
``small`` or ``large`` use ``label_input="channel"`` (``--label-input channel``).
"""

from trifecta.heads import Threshold
from trifecta.methods.method import Method
from trifecta.schedules import LAYER_WISE


def ff() -> Method:
    """Hinton's Forward-Forward: threshold loss, length normalisation, every block alone."""
    return Method(
        name="ff",
        label_input="overlay",
        objective=Threshold(goodness="mean-square", threshold=2.0),
        normalization="length",
        schedule=LAYER_WISE,
        readout="all-but-first",
    )
