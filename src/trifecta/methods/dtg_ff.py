"""DTG-FF: dynamic temperature goodness.

Paper: Chen 2026, "Synthetic Benchmarks Overstate Forward-Forward Scaling: Real-Data Limits of Layer-Local
Training", arXiv 2606.06539.

Formula, at block k with activations a, a fixed random ``projection`` and a learned temperature:

    g = standardise(patch_rms(a, P))
    loss = cross_entropy((g @ projection) / temperature, labels),  temperature = exp(−log_scale)

What is passed on is normalised apart from the goodness (here at the next block's input).

Compared with the abstract only: no code was found for this paper (the author's public repository holds an
earlier method of the same name, with positive and negative passes). Departures and open choices: goodness
as in ASGE with P = 2; a plain sum over the later half of the blocks predicts, in place of a fusion head,
which would pass a gradient into each of them.
"""

from trifecta.losses import ProjectedCrossEntropy
from trifecta.method import Method


def method() -> Method:
    """DTG-FF: projected goodness over a learned temperature, every block alone, later blocks fused."""
    return Method(
        name="dtg-ff",
        objective=ProjectedCrossEntropy(patches=2, learned_temperature=True),
        readout="last-half",
    )
