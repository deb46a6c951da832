"""Which optimizer state owns a weight, does the last block idle, does the learning rate decay.

Trains the Trifecta with every combination of the first two choices, and with another learning rate on top
of the best of them, several seeds each, and appends one line a run to a result file. Runs that it has are
not run again. Defaults were chosen on the validation accuracy recorded here, never on the test split.

    python benchmarks/ablate_update_rule.py FOLDER RESULTS.jsonl
"""

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from conditions import conditions
from trifecta.data import DataConfig
from trifecta.methods import get_method
from trifecta.optimizers import OptimizerConfig
from trifecta.training import RunConfig, Trainer

DATA_SETS, SEEDS = ("cifar10", "mnist"), (0, 1, 2)
# Owner of an optimizer state, whether the last block learns alone, decay and start of the learning rate.
VARIANTS = [
    *itertools.product(("weight", "objective"), (True, False), ("constant",), (1e-3,)),
    ("weight", True, "cosine", 3e-3),
]
BUDGET: dict[str, Any] = {"width": 0.125, "epochs": 3, "batch_size": 128}


def configuration(folder: Path, cell: dict[str, Any]) -> RunConfig:
    """The run of one cell."""
    base = get_method("trifecta")
    method = replace(
        base,
        schedule=replace(base.schedule, close_last=cell["close_last"]),
        optimizer=OptimizerConfig(
            ownership=cell["ownership"], decay=cell["decay"], learning_rate=cell["learning_rate"]
        ),
    )
    data = DataConfig(source=str(folder / cell["data"]))
    return RunConfig(data=data, method=method, seed=cell["seed"], **BUDGET)


def measure(config: RunConfig) -> dict[str, Any]:
    """Validation accuracy of the read-out and of every block, after every epoch."""
    trainer = Trainer(config)
    trainer.fit()
    return {
        "validation_accuracy": [record["validation_accuracy"] for record in trainer.history],
        "block_accuracy": trainer.history[-1]["block_accuracy"],
        "seconds": sum(record["seconds"] for record in trainer.history),
        "budget": "grid",
        **conditions(trainer),
    }


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds cifar10 and mnist")
    parser.add_argument("results", type=Path)
    arguments = parser.parse_args()
    lines = arguments.results.read_text().splitlines() if arguments.results.exists() else []
    done = [json.loads(line)["cell"] for line in lines]
    for seed, data, (ownership, close_last, decay, learning_rate) in itertools.product(
        SEEDS, DATA_SETS, VARIANTS
    ):
        cell = {
            "data": data,
            "ownership": ownership,
            "close_last": close_last,
            "decay": decay,
            "learning_rate": learning_rate,
            "seed": seed,
        }
        if cell in done:
            continue
        row = {"cell": cell, **measure(configuration(arguments.folder, cell))}
        with arguments.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(cell, row["validation_accuracy"], flush=True)


if __name__ == "__main__":
    main()
