"""Epochs, history, checkpoints and run folders."""

from trifecta.training.config import RunConfig, from_plain, read_config, to_plain
from trifecta.training.evaluation import Evaluation, evaluate
from trifecta.training.meter import DivergenceError
from trifecta.training.progress import Interrupted, Progress
from trifecta.training.run import Run, resume, train
from trifecta.training.run_folder import DatasetFacts, RunFolder, load_network
from trifecta.training.trainer import Trainer

__all__ = [
    "DatasetFacts",
    "DivergenceError",
    "Evaluation",
    "Interrupted",
    "Progress",
    "Run",
    "RunConfig",
    "RunFolder",
    "Trainer",
    "evaluate",
    "from_plain",
    "load_network",
    "read_config",
    "resume",
    "to_plain",
    "train",
]
