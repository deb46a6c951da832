"""The reference for `--method backprop`: the same network in a plain PyTorch loop.

    python benchmarks/plain_backprop.py RESULTS.jsonl mnist [--data-root FOLDER]

float32, channels-first, one Adam over all weights. Appends one row a run, in the layout of record_run.py.
"""

import argparse
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.data import DataConfig, load_data
from trifecta.devices import describe_device
from trifecta.training.run import versions

CHANNELS, POOLED = (32, 32, 64, 64, 64, 128), (0, 2, 5)
BATCH_SIZE, LEARNING_RATE = 128, 1e-3


def build(in_channels: int, num_classes: int) -> nn.Sequential:
    """Quarter-width *small* with a linear classifier on the global average."""
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(zip((in_channels, *CHANNELS), CHANNELS, strict=False)):
        layers += [nn.BatchNorm2d(a), nn.Conv2d(a, b, 3, padding=1, bias=False), nn.ReLU()]
        if k in POOLED:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], num_classes)
    )


def shuffled(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches in a new order."""
    order = torch.randperm(len(labels))
    for start in range(0, len(labels) - BATCH_SIZE + 1, BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        yield images[batch], labels[batch]


def main() -> None:
    """Train, test once, append the row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("data")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    data = load_data(DataConfig(source=str(options.data_root / options.data), validation=0.0))
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    train, test = ((split.images / 255 - mean) / std for split in (data.train, data.test))
    torch.manual_seed(options.seed)
    network = build(data.image_shape[0], data.num_classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    began = time.perf_counter()
    for _ in range(options.epochs):
        for images, labels in shuffled(train, data.train.labels):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(network(images), labels))
            optimizer.step()
    seconds = time.perf_counter() - began
    network.eval()
    with torch.inference_mode():
        predicted = torch.cat([network(part).argmax(1) for part in torch.split(test, 500)])
    steps = options.epochs * (len(train) // BATCH_SIZE)
    result = {
        "data": options.data,
        "method": "plain PyTorch loop",
        "network": "small",
        "width": 0.25,
        "test_accuracy": (predicted == data.test.labels).double().mean().item(),
        "seconds": seconds,
        "images_per_second": steps * BATCH_SIZE / seconds,
        "epochs": options.epochs,
        "batch_size": BATCH_SIZE,
        "seed": options.seed,
        "precision": "fp32",
        "locality": "end-to-end",
        "hardware": describe_device(torch.device("cpu")),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
    }
    command = f"python benchmarks/plain_backprop.py RESULTS {options.data} --seed {options.seed}"
    with options.results.open("a") as file:
        file.write(json.dumps({"command": command, "result": result}) + "\n")


if __name__ == "__main__":
    main()
