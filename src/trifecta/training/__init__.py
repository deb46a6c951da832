"""Epochs, callbacks, history, checkpoints and run folders."""

from trifecta._utils.files import StorageError
from trifecta.training.config import RunConfig, from_plain, read_config, to_plain
from trifecta.training.dataset_facts import DatasetFacts
from trifecta.training.evaluation import Evaluation, evaluate
from trifecta.training.folder import Interrupted, RunFolder
from trifecta.training.meter import DivergenceError
from trifecta.training.model import TrainedModel, load, load_network
from trifecta.training.run import Run, resume, train
from trifecta.training.trainer import Callback, CSVLogger, EarlyStopping, TensorBoardLogger, Trainer

__all__ = [
    "CSVLogger",
    "Callback",
    "DatasetFacts",
    "DivergenceError",
    "EarlyStopping",
    "Evaluation",
    "Interrupted",
    "Run",
    "RunConfig",
    "RunFolder",
    "StorageError",
    "TensorBoardLogger",
    "TrainedModel",
    "Trainer",
    "evaluate",
    "from_plain",
    "load",
    "load_network",
    "read_config",
    "resume",
    "to_plain",
    "train",
]
