"""What was tried to bring local learning near backprop on the fast trunk, on CIFAR-10's validation split.

Network *airbench* at batches of 1,000, crops of 2 pixels and alternating flips, one seed. One line a
variant is appended to a result file; variants that it has are not run again. The test split is not read.

    python benchmarks/search_airbench.py FOLDER RESULTS.jsonl [VARIANT …]
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from conditions import conditions
from trifecta.data import Augmentation, DataConfig
from trifecta.losses import Combined, CrossEntropy, Similarity, SupervisedContrastive
from trifecta.losses.convolutional import AuxiliaryCrossEntropy
from trifecta.losses.head import Objective
from trifecta.methods import backprop, superfecta
from trifecta.optim.config import OptimizerConfig
from trifecta.schedules import LAYER_WISE, Schedule
from trifecta.training import RunConfig, Trainer

AUGMENTATION = Augmentation(crop_padding=2, flip=True, alternating=True)
HIDDEN = CrossEntropy(pool=4, hidden=256, smoothing=0.2)


def muon(rate: float) -> OptimizerConfig:
    """Muon that decays along a line, as the trunk's own recipe does."""
    return OptimizerConfig(algorithm="muon", learning_rate=rate, decay="linear")


def end_to_end(rate: float, objective: Objective | None = None) -> dict[str, Any]:
    """Backprop for the epochs of the trunk's own recipe."""
    objective = CrossEntropy(smoothing=0.2) if objective is None else objective
    return {"method": replace(backprop(), objective=objective, optimizer=muon(rate)), "epochs": 10}


def local(
    objective: Objective = HIDDEN, *, rate: float = 0.012, schedule: Schedule = LAYER_WISE, **settings: Any
) -> dict[str, Any]:
    """Superfecta with another loss, rate or schedule."""
    method = replace(superfecta(), objective=objective, optimizer=muon(rate), schedule=schedule)
    return {"method": method, "epochs": 16, **settings}


def with_term(term: Similarity | SupervisedContrastive) -> Combined:
    """A term beside the classifier."""
    return Combined(scoring=HIDDEN, terms=(term,))


VARIANTS: dict[str, dict[str, Any]] = {
    **{f"backprop, rate {rate:g}": end_to_end(rate) for rate in (0.006, 0.012, 0.024, 0.048)},
    **{f"strict, rate {rate:g}": local(rate=rate) for rate in (0.006, 0.012, 0.024)},
    "strict, 512 hidden units": local(replace(HIDDEN, hidden=512)),
    "strict, 1,024 hidden units": local(replace(HIDDEN, hidden=1024)),
    "strict, no smoothing": local(replace(HIDDEN, smoothing=0.0)),
    "strict, smoothing 0.1": local(replace(HIDDEN, smoothing=0.1)),
    "strict, linear": local(replace(HIDDEN, hidden=0, normalized=True)),
    "strict, 7×7 patches": local(replace(HIDDEN, pool=7)),
    "strict, 2×2 patches": local(replace(HIDDEN, pool=2)),
    "strict, contrastive term": local(with_term(SupervisedContrastive(weight=0.5))),
    "strict, similarity term": local(with_term(Similarity())),
    "strict, convolutional classifiers": local(AuxiliaryCrossEntropy()),
    "strict, batches of 500": local(batch_size=500),
    "strict, twice the width": local(width=2.0),
    "strict, 40 epochs": local(epochs=40),
    "overlapping pairs": local(schedule=Schedule(size=2, overlapping=True)),
    "overlapping threes": local(schedule=Schedule(size=3, overlapping=True)),
    "three modules": local(schedule=Schedule(size=2)),
    "two modules": local(schedule=Schedule(size=3)),
    "backprop, the same classifier": end_to_end(0.012, HIDDEN),
    "overlapping threes, 40 epochs": local(schedule=Schedule(size=3, overlapping=True), epochs=40),
}


def configuration(folder: Path, variant: dict[str, Any]) -> RunConfig:
    """The run of one variant."""
    usual: dict[str, Any] = {"batch_size": 1000, "augmentation": AUGMENTATION, "precision": "bf16"}
    settings = usual | variant
    return RunConfig(data=DataConfig(source=str(folder)), network="airbench", **settings)


def measure(config: RunConfig) -> dict[str, Any]:
    """Validation accuracy after every epoch, and of every block and read-out at the end."""
    trainer = Trainer(config)
    began = time.perf_counter()
    trainer.fit()
    assert trainer.data.validation is not None
    return {
        "validation_accuracy": [record["validation_accuracy"] for record in trainer.history],
        "block_accuracy": trainer.history[-1]["block_accuracy"],
        "readout_accuracy": trainer.evaluate(trainer.data.validation).readout_accuracy,
        "seconds": time.perf_counter() - began,
        **conditions(trainer),
    }


def make(folder: Path, results: Path, name: str) -> None:
    """Run a variant that the result file lacks, and append it."""
    lines = results.read_text().splitlines() if results.exists() else []
    if name in {json.loads(line)["variant"] for line in lines}:
        return
    measured = measure(configuration(folder, VARIANTS[name]))
    command = f"python benchmarks/search_airbench.py FOLDER RESULTS.jsonl '{name}'"
    row = {"command": command, "variant": name, **measured}
    with results.open("a") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{name}: {row['validation_accuracy'][-1]:.2%} in {row['seconds']:.0f} s", flush=True)


def main() -> None:
    """Read the arguments, run what is missing, append; several of these at once share the work."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS))
    options = parser.parse_args()
    for name in options.variants:
        lock = FileLock(f"{options.results}.{name.replace(' ', '-')}.lock")
        try:
            with lock.acquire(timeout=0):
                make(options.folder, options.results, name)
        except Timeout:
            continue


if __name__ == "__main__":
    main()
