"""Epochs, callbacks, history, checkpoints and run folders."""

from trifecta._utils.files import StorageError
from trifecta.training.callbacks import Callback, CSVLogger, EarlyStopping, TensorBoardLogger
from trifecta.training.config import RunConfig, from_plain, read_config, to_plain
from trifecta.training.dataset_facts import DatasetFacts
from trifecta.training.evaluation import Evaluation, evaluate
from trifecta.training.interrupted import Interrupted
from trifecta.training.meter import DivergenceError
from trifecta.training.model import TrainedModel, load
from trifecta.training.run import Run, resume, train
from trifecta.training.run_folder import RunFolder
from trifecta.training.saved_network import load_network
from trifecta.training.trainer import Trainer

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
