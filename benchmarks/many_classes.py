"""What trying 100 labels costs, and what a shortlist saves of it.

    python benchmarks/many_classes.py MNIST FILE.jsonl

A sample is two digits of MNIST beside each other, at half their size: (1, 14, 28), 100 classes. The
Trifecta predicts with all labels and with shortlists; superfecta, which needs one pass, stands beside it.
Run it on a machine that does nothing else.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from recording import HERE
from trifecta import DataConfig, Run, RunConfig, get_method, load_data, train
from trifecta.bench import prediction_multiply_adds
from trifecta.data import ImageSet
from trifecta.training.evaluation import evaluate

TRAIN, TEST = 30_000, 2_000
LABELS = (0, 50, 20, 10, 5)
CONFIG = RunConfig(width=0.25, epochs=3, precision="fp32", keep="last")


def main() -> int:
    """Train both methods, predict in every way; the exit status."""
    digits = load_data(DataConfig(source=sys.argv[1]))
    training, test = pairs_of(digits.train, TRAIN, seed=0), pairs_of(digits.test, TEST, seed=1)
    lines = []
    for method in ("trifecta", "superfecta"):
        config = replace(CONFIG, method=get_method(method))
        done = train(config, data=training, test=test)
        facts = {
            "command": "python benchmarks/many_classes.py MNIST FILE.jsonl",
            "method": method,
            "training_images": TRAIN,
            "test_images": TEST,
            "settings": {"network": config.network, "width": config.width, "epochs": config.epochs},
            "training_seconds": done.result["seconds"],
            **HERE,
        }
        for labels in LABELS if config.method.tries_labels else (None,):
            lines.append(facts | measured(done, ImageSet(*test), labels))
            print(json.dumps(lines[-1]), flush=True)
    Path(sys.argv[2]).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return 0


def pairs_of(digits: ImageSet, count: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` pairs of digits, (count, 1, 14, 28), and their labels, the number that they spell."""
    draw = torch.Generator().manual_seed(seed)
    small = F.avg_pool2d(digits.images.float(), 2).round().to(torch.uint8)
    left, right = (torch.randint(0, len(small), (count,), generator=draw) for _ in range(2))
    return torch.cat([small[left], small[right]], dim=3), digits.labels[left] * 10 + digits.labels[right]


def measured(done: Run, test: ImageSet, labels: int | None) -> dict[str, Any]:
    """Accuracy, seconds and multiply-adds of predictions: 0 keeps all labels, None is one pass."""
    network, data = done.network, done.trainer.data
    if labels is not None:
        network.keep_labels(labels)
    began = time.perf_counter()
    accuracy = evaluate(network, test, mean=data.mean, std=data.std).accuracy
    return {
        "labels": labels,
        "accuracy": accuracy,
        "seconds": time.perf_counter() - began,
        "multiply_adds": prediction_multiply_adds(network),
    }


if __name__ == "__main__":
    sys.exit(main())
