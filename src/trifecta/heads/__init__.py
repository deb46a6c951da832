"""Heads: what stands at a window's last block, its local loss and the class scores it can give."""

from trifecta.heads.classifiers import AuxiliaryCrossEntropy, CentroidMargin, CrossEntropy
from trifecta.heads.combined import Combined, ScoringObjective
from trifecta.heads.feedback import FeedbackHead, LocalTargets
from trifecta.heads.goodness_heads import GroupCrossEntropy, ProjectedCrossEntropy
from trifecta.heads.head import FeatureShape, Head
from trifecta.heads.pairs import Symmetric, Threshold
from trifecta.heads.terms import Contrast, PairObjective, Similarity, SupervisedContrastive, Term

Objective = Threshold | Symmetric | ScoringObjective | Combined | LocalTargets
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
    "LocalTargets",
    "Objective",
    "PairObjective",
    "ProjectedCrossEntropy",
    "ScoringObjective",
    "Similarity",
    "SupervisedContrastive",
    "Symmetric",
    "Term",
    "Threshold",
]
