"""Distance-Forward: centroids and margins in place of goodness.

Paper: Wu, Xu, Wu, Deng, Xu, Wen, Li 2024, "Distance-Forward Learning: Enhancing the Forward-Forward
Algorithm Towards High-Performance On-Chip Learning", arXiv 2408.14925.

Formula, at block k with f = the averages of its maps, scaled to length 1, and a learned centroid_c:

    score_c = −|f − centroid_c|²
    loss = mean log(1 + Σ_{c wrong} exp(margin + score_c − score_true))        N-pair with a margin

Compared with the abstract only: no code of the authors was found. Departures and open choices: learned
centroids; averages to 4×4, a margin of 1, scores times 8; batch normalisation; the last block predicts.
"""

from trifecta.losses import CentroidMargin
from trifecta.method import Method
from trifecta.schedules import OVERLAPPING


def method() -> Method:
    """Distance-Forward: nearest centroid by a margin, overlapping updates."""
    return Method(name="distance-forward", objective=CentroidMargin(), schedule=OVERLAPPING)
