"""Local losses: pure functions, goodness, and the heads that stand at a window's last block."""

from trifecta.losses.class_goodness import CentroidMargin, GroupCrossEntropy, ProjectedCrossEntropy
from trifecta.losses.classifiers import CrossEntropy, LocalTargets, PositionCrossEntropy, PositionThresholds
from trifecta.losses.combined import Combined
from trifecta.losses.goodness import ChannelSums, Goodness
from trifecta.losses.head import Head, Objective, Term
from trifecta.losses.label_goodness import LabelGoodness
from trifecta.losses.later_layers import AuxiliaryCrossEntropy, LaterLayers
from trifecta.losses.prediction import LocalPrediction
from trifecta.losses.terms import (
    TERMS,
    Contrast,
    Similarity,
    SupervisedContrastive,
    Symmetric,
    Temperature,
    Threshold,
)

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
