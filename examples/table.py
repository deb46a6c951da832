"""A perceptron of your own on a table, trained by each method that you name.

python examples/table.py superfecta trifecta backprop
"""

import sys

import torch
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler
from torch import nn

from trifecta import Run, RunConfig, from_module, get_method, train


def run(method: str, *, epochs: int = 60, seed: int = 0) -> Run:
    """Train three blocks on scikit-learn's wines: 178 rows, 13 columns, 3 classes."""
    columns, labels = load_wine(return_X_y=True)
    rows = torch.tensor(StandardScaler().fit_transform(columns), dtype=torch.float32)
    torch.manual_seed(seed)
    order = torch.randperm(len(rows))
    model = nn.Sequential(
        *(nn.Linear(13, 64), nn.ReLU(), nn.BatchNorm1d(64)),
        *(nn.Linear(64, 64), nn.ReLU(), nn.BatchNorm1d(64)),
        *(nn.Linear(64, 64), nn.ReLU()),
    )
    config = RunConfig(method=get_method(method), epochs=epochs, batch_size=16, seed=seed)
    return train(config, data=(rows[order], torch.tensor(labels)[order]), network=from_module(model))


if __name__ == "__main__":
    for name in sys.argv[1:] or ["superfecta"]:
        print(f"{name}: test accuracy {run(name).test_accuracy:.1%}")
