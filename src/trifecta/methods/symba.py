"""SymBa: symmetric backpropagation-free contrastive learning with Forward-Forward.

Paper: Lee, Song 2023, "SymBa: Symmetric Backpropagation-Free Contrastive Learning with Forward-Forward
Algorithm for Optimizing Convergence", arXiv 2303.08418.

Formula, at block k with goodness ``g_i = mean_square(activations_i)``:

    symmetric_loss = mean_i softplus(−alpha · (positive_i − negative_i)),  alpha = 4

The class enters as a fixed random picture of its own, the *intrinsic class pattern*, next to the image.

Compared with the abstract only: no code of the authors was found. Departures and open choices: the pattern
is standard normal noise and one more input channel; goodness is the mean of squares; length normalisation
and the read-out are those of Forward-Forward.
"""

from trifecta.losses import Symmetric
from trifecta.method import Method


def method() -> Method:
    """SymBa: Forward-Forward with the symmetric loss and a fixed pattern per class."""
    return Method(
        name="symba",
        label_input="pattern",
        objective=Symmetric(goodness="mean-square", alpha=4.0),
        normalization="length",
        readout="all-but-first",
    )
