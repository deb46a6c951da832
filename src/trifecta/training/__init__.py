"""Runs: settings, training with checkpoints, run folders, evaluation and trained models."""

from trifecta._utils.files import StorageError
from trifecta.training.callbacks import CSVLogger, EarlyStopping, TensorBoardLogger
from trifecta.training.config import RunConfig, from_plain, read_config, to_plain
from trifecta.training.evaluation import Evaluation, evaluate
from trifecta.training.folder import DatasetFacts, DivergenceError, Interrupted, RunFolder
from trifecta.training.model import TrainedModel, load, load_network
from trifecta.training.run import Run, resume, train
from trifecta.training.trainer import Callback, Trainer

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
