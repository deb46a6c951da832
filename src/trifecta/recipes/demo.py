"""The demo: handwritten digits that come with scikit-learn, half a minute on two CPU cores."""

from dataclasses import replace

from trifecta.data import DataConfig
from trifecta.methods import trifecta
from trifecta.optimizers import OptimizerConfig
from trifecta.training.config import RunConfig


def demo() -> RunConfig:
    """The Trifecta on scikit-learn's 8×8 digits, under a minute on a CPU. Target: 95% test."""
    return RunConfig(
        recipe="demo",
        data=DataConfig(source="digits"),
        method=replace(trifecta(), optimizer=OptimizerConfig(learning_rate=2e-3)),
        network="small",
        width=0.25,
        epochs=60,
        batch_size=32,
    )
