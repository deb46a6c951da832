"""Runs: settings, training with checkpoints, run folders, evaluation and trained models."""

from trifecta._utils.files import StorageError as StorageError
from trifecta.training.callbacks import CSVLogger as CSVLogger
from trifecta.training.callbacks import EarlyStopping as EarlyStopping
from trifecta.training.callbacks import TensorBoardLogger as TensorBoardLogger
from trifecta.training.config import RunConfig as RunConfig
from trifecta.training.config import from_plain as from_plain
from trifecta.training.config import read_config as read_config
from trifecta.training.config import to_plain as to_plain
from trifecta.training.evaluation import Evaluation as Evaluation
from trifecta.training.evaluation import evaluate as evaluate
from trifecta.training.folder import DatasetFacts as DatasetFacts
from trifecta.training.folder import DivergenceError as DivergenceError
from trifecta.training.folder import Interrupted as Interrupted
from trifecta.training.folder import RunFolder as RunFolder
from trifecta.training.model import TrainedModel as TrainedModel
from trifecta.training.model import load as load
from trifecta.training.model import load_network as load_network
from trifecta.training.run import Run as Run
from trifecta.training.run import resume as resume
from trifecta.training.run import train as train
from trifecta.training.trainer import Callback as Callback
from trifecta.training.trainer import Trainer as Trainer
