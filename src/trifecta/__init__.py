"""Train neural networks without end-to-end backpropagation.

The Forward-Forward family and its rivals as points on common axes: how a label enters, goodness, loss,
normalisation, schedule, read-out. Start with :func:`train` and :class:`RunConfig`, or with
:func:`build_network` and :class:`Learner` in a loop of your own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trifecta.data import Augmentation, DataConfig, load_data
from trifecta.experiments.recipes import RECIPES, get_recipe
from trifecta.inputs import ImagePairs, LabelInput
from trifecta.learning import Learner, Pipeline
from trifecta.losses import CrossEntropy, Head, Objective, Symmetric, Term, Threshold
from trifecta.method import Method
from trifecta.methods import METHODS, get_method
from trifecta.network import LocalNetwork, build_network
from trifecta.nn import NETWORKS, Blocks, NetworkBuilder, from_module
from trifecta.optim import OptimizerConfig
from trifecta.schedules import Schedule, Window, parse_schedule
from trifecta.training import (
    Callback,
    CSVLogger,
    EarlyStopping,
    Run,
    RunConfig,
    RunFolder,
    TensorBoardLogger,
    TrainedModel,
    Trainer,
    evaluate,
    load,
    resume,
    train,
)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from trifecta.integrations.estimator import TrifectaClassifier

__all__ = [
    "METHODS",
    "NETWORKS",
    "RECIPES",
    "Augmentation",
    "Blocks",
    "CSVLogger",
    "Callback",
    "CrossEntropy",
    "DataConfig",
    "EarlyStopping",
    "Head",
    "ImagePairs",
    "LabelInput",
    "Learner",
    "LocalNetwork",
    "Method",
    "NetworkBuilder",
    "Objective",
    "OptimizerConfig",
    "Pipeline",
    "Run",
    "RunConfig",
    "RunFolder",
    "Schedule",
    "Symmetric",
    "TensorBoardLogger",
    "Term",
    "Threshold",
    "TrainedModel",
    "Trainer",
    "TrifectaClassifier",
    "Window",
    "build_network",
    "evaluate",
    "from_module",
    "get_method",
    "get_recipe",
    "load",
    "load_data",
    "parse_schedule",
    "resume",
    "train",
]


# Names of libraries that are extras, imported when they are asked for.
_LATER = {"TrifectaClassifier": "trifecta.integrations.estimator"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'trifecta' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
