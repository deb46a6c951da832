"""Local losses: objectives, which declare them, the heads that they build, and terms to add."""

from trifecta.losses.class_goodness import CentroidMargin as CentroidMargin
from trifecta.losses.class_goodness import GroupCrossEntropy as GroupCrossEntropy
from trifecta.losses.class_goodness import LabelGoodness as LabelGoodness
from trifecta.losses.class_goodness import ProjectedCrossEntropy as ProjectedCrossEntropy
from trifecta.losses.classifiers import AugmentedAuxiliary as AugmentedAuxiliary
from trifecta.losses.classifiers import AuxiliaryCrossEntropy as AuxiliaryCrossEntropy
from trifecta.losses.classifiers import CrossEntropy as CrossEntropy
from trifecta.losses.classifiers import LocalPrediction as LocalPrediction
from trifecta.losses.classifiers import LocalTargets as LocalTargets
from trifecta.losses.classifiers import PositionCrossEntropy as PositionCrossEntropy
from trifecta.losses.combined import Combined as Combined
from trifecta.losses.combined import Contrast as Contrast
from trifecta.losses.combined import Similarity as Similarity
from trifecta.losses.combined import SupervisedContrastive as SupervisedContrastive
from trifecta.losses.combined import Temperature as Temperature
from trifecta.losses.goodness import ChannelSums as ChannelSums
from trifecta.losses.goodness import Goodness as Goodness
from trifecta.losses.head import Head as Head
from trifecta.losses.head import Objective as Objective
from trifecta.losses.head import Site as Site
from trifecta.losses.head import Term as Term
from trifecta.losses.pairs import PositionThresholds as PositionThresholds
from trifecta.losses.pairs import Symmetric as Symmetric
from trifecta.losses.pairs import Threshold as Threshold

_PARTS = [part for part in globals().values() if hasattr(part, "kind")]
OBJECTIVES: dict[str, type[Objective]] = {part.kind: part for part in _PARTS if hasattr(part, "head")}
TERMS: dict[str, type[Term]] = {part.kind: part for part in _PARTS if hasattr(part, "module")}
# Kinds in the settings of earlier runs, and their names now.
RENAMED = {"later-layers": AugmentedAuxiliary.kind}
