"""Heads: what stands at a window's last block, its local loss and the class scores it can give."""

from trifecta.heads.classifiers import (
    AuxiliaryCrossEntropy,
    CentroidMargin,
    CrossEntropy,
    LocalPrediction,
)
from trifecta.heads.combined import Combined, ScoringObjective
from trifecta.heads.feedback import FeedbackHead, LocalTargets
from trifecta.heads.goodness_heads import GroupCrossEntropy, ProjectedCrossEntropy
from trifecta.heads.head import FeatureShape, Head
from trifecta.heads.pairs import Symmetric, Threshold
from trifecta.heads.positions import PositionThresholds
from trifecta.heads.terms import (
    Contrast,
    PairObjective,
    Similarity,
    SupervisedContrastive,
    Temperature,
    Term,
)

Objective = Threshold | Symmetric | ScoringObjective | Combined | LocalTargets | PositionThresholds
OBJECTIVES: dict[str, type[Objective]] = {
    objective.kind: objective
    for objective in (
        Threshold,
        Symmetric,
        CrossEntropy,
        AuxiliaryCrossEntropy,
        CentroidMargin,
        GroupCrossEntropy,
        ProjectedCrossEntropy,
        Combined,
        LocalTargets,
        PositionThresholds,
        LocalPrediction,
    )
}

__all__ = [
    "OBJECTIVES",
    "AuxiliaryCrossEntropy",
    "CentroidMargin",
    "Combined",
    "Contrast",
    "CrossEntropy",
    "FeatureShape",
    "FeedbackHead",
    "GroupCrossEntropy",
    "Head",
    "LocalPrediction",
    "LocalTargets",
    "Objective",
    "PairObjective",
    "PositionThresholds",
    "ProjectedCrossEntropy",
    "ScoringObjective",
    "Similarity",
    "SupervisedContrastive",
    "Symmetric",
    "Temperature",
    "Term",
    "Threshold",
]
