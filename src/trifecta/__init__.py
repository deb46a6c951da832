"""Train neural networks without end-to-end backpropagation.

The Forward-Forward family and its rivals as points on common axes: how a label enters, goodness, loss,
normalisation, schedule, read-out. Start with :func:`train` and :class:`RunConfig`, or with
:func:`build_network` and :class:`Learner` in a loop of your own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trifecta.building import build_network
    from trifecta.data import Augmentation, DataConfig, load_data
    from trifecta.experiments.recipes import RECIPES, get_recipe
    from trifecta.inputs import ImagePairs, LabelInput
    from trifecta.integrations.estimator import TrifectaClassifier
    from trifecta.learning import Learner, Pipeline, estimate_statistics
    from trifecta.losses import CrossEntropy, Head, Objective, Symmetric, Term, Threshold
    from trifecta.method import Method
    from trifecta.methods import METHODS, get_method
    from trifecta.network import LocalNetwork
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
    "estimate_statistics",
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

# Where each name lives. They are imported when they are asked for, so that a help text needs no PyTorch.
_HOMES = {
    "TrifectaClassifier": "trifecta.integrations.estimator",
    "Augmentation": "trifecta.data",
    "Blocks": "trifecta.nn",
    "build_network": "trifecta.building",
    "Callback": "trifecta.training",
    "CrossEntropy": "trifecta.losses",
    "CSVLogger": "trifecta.training",
    "DataConfig": "trifecta.data",
    "EarlyStopping": "trifecta.training",
    "estimate_statistics": "trifecta.learning",
    "evaluate": "trifecta.training",
    "from_module": "trifecta.nn",
    "get_method": "trifecta.methods",
    "get_recipe": "trifecta.experiments.recipes",
    "Head": "trifecta.losses",
    "ImagePairs": "trifecta.inputs",
    "LabelInput": "trifecta.inputs",
    "Learner": "trifecta.learning",
    "load": "trifecta.training",
    "load_data": "trifecta.data",
    "LocalNetwork": "trifecta.network",
    "Method": "trifecta.method",
    "METHODS": "trifecta.methods",
    "NetworkBuilder": "trifecta.nn",
    "NETWORKS": "trifecta.nn",
    "Objective": "trifecta.losses",
    "OptimizerConfig": "trifecta.optim",
    "parse_schedule": "trifecta.schedules",
    "Pipeline": "trifecta.learning",
    "RECIPES": "trifecta.experiments.recipes",
    "resume": "trifecta.training",
    "Run": "trifecta.training",
    "RunConfig": "trifecta.training",
    "RunFolder": "trifecta.training",
    "Schedule": "trifecta.schedules",
    "Symmetric": "trifecta.losses",
    "TensorBoardLogger": "trifecta.training",
    "Term": "trifecta.losses",
    "Threshold": "trifecta.losses",
    "train": "trifecta.training",
    "TrainedModel": "trifecta.training",
    "Trainer": "trifecta.training",
    "Window": "trifecta.schedules",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        try:
            return import_module(f"trifecta.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"trifecta.{name}":
                raise
        raise AttributeError(f"module 'trifecta' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
