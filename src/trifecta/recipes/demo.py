"""The demo: handwritten digits that come with scikit-learn, half a minute on two CPU cores."""

from trifecta.data import DataConfig
from trifecta.methods import trifecta
from trifecta.training.config import RunConfig


def demo() -> RunConfig:
    """The Trifecta on scikit-learn's 8×8 digits, under a minute on a CPU. Target: 95% test."""
    return RunConfig(
        recipe="demo",
        data=DataConfig(source="digits"),
        method=trifecta(),
        network="small",
        width=0.25,
        epochs=60,
        batch_size=32,
    )
