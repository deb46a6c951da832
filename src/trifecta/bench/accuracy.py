"""Time to accuracy: seconds of training until the validation split is read well enough.

From the first batch to the end of the first epoch whose *validation* accuracy passes a threshold;
evaluation is left out and reported on its own. The test split is not read.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from trifecta._utils.devices import describe_device
from trifecta.bench.setting import data_name
from trifecta.data import load_data
from trifecta.training import RunConfig, Trainer
from trifecta.training.config import to_plain
from trifecta.training.run import versions
from trifecta.training.trainer import Record

Report = dict[str, Any]


def measure_accuracy(
    configs: Sequence[RunConfig], thresholds: Sequence[float], *, say: Callable[[str], None]
) -> Report:
    """Train every configuration, all of them on the data of the first.

    Args:
        configs: one a row.
        thresholds: validation accuracies, 0 … 1.
        say: told what runs.
    """
    assert configs[0].data is not None
    data = load_data(configs[0].data)
    rows = []
    for config in configs:
        say(f"{config.method.name}, seed {config.seed}, {config.epochs} epochs")
        trainer = Trainer(config, data=data)
        trainer.fit()
        rows.append(_row(config, trainer, thresholds))
    device = trainer.device
    return {
        "benchmark": "accuracy",
        "device": str(device),
        "hardware": describe_device(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
        "thresholds": list(thresholds),
        "rows": rows,
    }


def _row(config: RunConfig, trainer: Trainer, thresholds: Sequence[float]) -> Report:
    history = trainer.history
    plain = to_plain(config)
    plain["data"]["source"] = data_name(plain["data"]["source"])
    return {
        "name": config.method.name,
        "seed": config.seed,
        "precision": trainer.learner.precision,
        "locality": config.method.locality,
        "seconds_to": {f"{t:g}": seconds_to(history, t) for t in thresholds},
        "validation_accuracy": [record["validation_accuracy"] for record in history],
        "images_per_second": [record["images_per_second"] for record in history],
        "seconds_by_epoch": [record["seconds"] for record in history],
        "evaluation_seconds": sum(record["evaluation_seconds"] for record in history),
        "config": plain,
    }


def seconds_to(history: Sequence[Record], threshold: float) -> float | None:
    """Training seconds until an epoch ends at ``threshold`` or above; None where none does."""
    spent = 0.0
    for record in history:
        spent += float(record["seconds"])
        if (record["validation_accuracy"] or 0) >= threshold:
            return spent
    return None
