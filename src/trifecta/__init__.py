"""Train neural networks without end-to-end backpropagation.

The Forward-Forward family and its rivals as points on common axes: how a label enters, goodness, loss,
normalisation, schedule, read-out. Start with :func:`train` and :class:`RunConfig`, or with
:func:`build_network` and :class:`Learner` in a loop of your own.
"""

from trifecta.data import Augmentation, DataConfig, load_data
from trifecta.heads import CrossEntropy, Symmetric, Threshold
from trifecta.learner import Learner
from trifecta.local_network import LocalNetwork, build_network
from trifecta.methods import METHODS, Method, get_method
from trifecta.networks import NETWORKS
from trifecta.optimizers import OptimizerConfig
from trifecta.pipeline import Pipeline
from trifecta.recipes import RECIPES, get_recipe
from trifecta.schedules import Schedule, Window, parse_schedule
from trifecta.training import Run, RunConfig, RunFolder, Trainer, evaluate, load_network, resume, train

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "NETWORKS",
    "RECIPES",
    "Augmentation",
    "CrossEntropy",
    "DataConfig",
    "Learner",
    "LocalNetwork",
    "Method",
    "OptimizerConfig",
    "Pipeline",
    "Run",
    "RunConfig",
    "RunFolder",
    "Schedule",
    "Symmetric",
    "Threshold",
    "Trainer",
    "Window",
    "build_network",
    "evaluate",
    "get_method",
    "get_recipe",
    "load_data",
    "load_network",
    "parse_schedule",
    "resume",
    "train",
]
