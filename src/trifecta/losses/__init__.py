"""Local losses: pure functions, goodness, and the heads that stand at a window's last block."""

from trifecta.losses.centroids import CentroidMargin
from trifecta.losses.class_goodness import GroupCrossEntropy, ProjectedCrossEntropy
from trifecta.losses.classifiers import CrossEntropy
from trifecta.losses.combined import Combined
from trifecta.losses.convolutional import AuxiliaryCrossEntropy
from trifecta.losses.feedback import LocalTargets
from trifecta.losses.goodness import ChannelSums, Goodness
from trifecta.losses.head import Head, Objective, Term
from trifecta.losses.label_goodness import LabelGoodness
from trifecta.losses.later_layers import LaterLayers
from trifecta.losses.pairs import Symmetric, Threshold
from trifecta.losses.positions import PositionThresholds
from trifecta.losses.prediction import LocalPrediction
from trifecta.losses.terms import TERMS, Contrast, Similarity, SupervisedContrastive, Temperature
from trifecta.losses.tokens import PositionCrossEntropy

OBJECTIVES: dict[str, type[Objective]] = {
    objective.kind: objective
    for objective in (
        Threshold,
        Symmetric,
        CrossEntropy,
        AuxiliaryCrossEntropy,
        LaterLayers,
        CentroidMargin,
        GroupCrossEntropy,
        ProjectedCrossEntropy,
        Combined,
        LocalTargets,
        PositionThresholds,
        LocalPrediction,
        PositionCrossEntropy,
        LabelGoodness,
    )
}

__all__ = [
    "OBJECTIVES",
    "TERMS",
    "AuxiliaryCrossEntropy",
    "CentroidMargin",
    "ChannelSums",
    "Combined",
    "Contrast",
    "CrossEntropy",
    "Goodness",
    "GroupCrossEntropy",
    "Head",
    "LabelGoodness",
    "LaterLayers",
    "LocalPrediction",
    "LocalTargets",
    "Objective",
    "PositionCrossEntropy",
    "PositionThresholds",
    "ProjectedCrossEntropy",
    "Similarity",
    "SupervisedContrastive",
    "Symmetric",
    "Temperature",
    "Term",
    "Threshold",
]
