"""Local steps: the only place that detaches, runs backward and steps optimizers."""

from trifecta.learning.graphed import GraphedLearner, fastest_learner
from trifecta.learning.learner import Learner
from trifecta.learning.pipeline import Pipeline
from trifecta.learning.statistics import estimate_statistics
from trifecta.learning.step import LocalStep

__all__ = ["GraphedLearner", "Learner", "LocalStep", "Pipeline", "estimate_statistics", "fastest_learner"]
