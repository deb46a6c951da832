"""What was tried on the way to superfecta, each on the validation split of CIFAR-10.

Two rounds, one seed each; one line a variant is appended to a result file, and variants that it has are
not run again. The first trains *small* at an eighth of its width without augmentation, strictly local
variants for 5 epochs and all others for 4, about what takes the same time; the second at a quarter of the
width for 4 epochs with crops and flips. The test split is not read.

    python benchmarks/search_superfecta.py FOLDER RESULTS.jsonl [PATTERN …]
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from searching import search, trained
from trifecta.data import AUGMENTATIONS, DataConfig
from trifecta.losses import Combined, CrossEntropy, SupervisedContrastive
from trifecta.methods import Method, backprop, superfecta
from trifecta.optim import OptimizerConfig
from trifecta.schedules import LAYER_WISE, OVERLAPPING, Schedule
from trifecta.training import RunConfig

RAW, NORMALIZED = CrossEntropy(pool=4), CrossEntropy(pool=4, normalized=True)


def local(
    objective: CrossEntropy | Combined = RAW, *, schedule: Schedule = OVERLAPPING, **optimizer: float
) -> Method:
    """A one-pass method with Muon, judged by its last block after every epoch."""
    return replace(
        superfecta.method(),
        objective=objective,
        schedule=schedule,
        readout="last",
        optimizer=OptimizerConfig(algorithm="muon", **optimizer),  # type: ignore[arg-type]
    )


def end_to_end(objective: CrossEntropy, rate: float) -> Method:
    """Backprop with Muon."""
    return replace(
        backprop.method(),
        objective=objective,
        optimizer=OptimizerConfig(algorithm="muon", learning_rate=rate),
    )


CONTRAST = Combined(scoring=NORMALIZED, terms=(SupervisedContrastive(weight=0.5),))
FIRST: dict[str, Method] = {
    "overlapping, rate 0.006": local(learning_rate=6e-3),
    "overlapping, rate 0.012": local(learning_rate=12e-3),
    "overlapping, rate 0.006, label smoothing 0.1": local(replace(RAW, smoothing=0.1), learning_rate=6e-3),
    "overlapping, rate 0.006, 2×2 patches": local(CrossEntropy(pool=2), learning_rate=6e-3),
    "overlapping, rate 0.006, freezing, 5 epochs": local(learning_rate=6e-3, freeze_from=0.5),
    "overlapping, rate 0.006, normalised classifiers": local(NORMALIZED, learning_rate=6e-3),
    "strict, rate 0.006": local(schedule=LAYER_WISE, learning_rate=6e-3),
    "strict, rate 0.006, normalised classifiers": local(
        NORMALIZED, schedule=LAYER_WISE, learning_rate=6e-3
    ),
    "strict, rate 0.009, normalised classifiers": local(
        NORMALIZED, schedule=LAYER_WISE, learning_rate=9e-3
    ),
    "strict, rate 0.006, normalised classifiers, contrastive term": local(
        CONTRAST, schedule=LAYER_WISE, learning_rate=6e-3
    ),
    "backprop, rate 0.006": end_to_end(CrossEntropy(), 6e-3),
    "backprop, rate 0.012": end_to_end(CrossEntropy(), 12e-3),
    "backprop, rate 0.006, normalised classifier": end_to_end(CrossEntropy(normalized=True), 6e-3),
}


def hidden(units: int, *, normalized: bool = False, schedule: Schedule = LAYER_WISE) -> Method:
    """Judged by a classifier of 4×4 patches with so many hidden units."""
    classifier = replace(RAW, hidden=units, normalized=normalized)
    return local(classifier, schedule=schedule, learning_rate=6e-3)


SECOND: dict[str, Method] = {
    "strict, linear, normalised averages": hidden(0, normalized=True),
    "strict, 128 hidden units": hidden(128),
    "strict, 256 hidden units": hidden(256),
    "strict, 256 hidden units, normalised averages": hidden(256, normalized=True),
    "overlapping, 256 hidden units": hidden(256, schedule=OVERLAPPING),
    "backprop, Muon": end_to_end(CrossEntropy(), 6e-3),
    "backprop, Muon, 256 hidden units": end_to_end(replace(RAW, hidden=256), 6e-3),
}
VARIANTS = FIRST | SECOND


def measure(folder: Path, name: str) -> dict[str, Any]:
    """Train one variant."""
    method, data = VARIANTS[name], DataConfig(source=str(folder))
    if name in SECOND:
        crops = AUGMENTATIONS["crop-flip"]
        return trained(RunConfig(data=data, method=method, width=0.25, epochs=4, augmentation=crops))
    longer = method.schedule == LAYER_WISE or method.optimizer.freeze_from < 1
    return trained(RunConfig(data=data, method=method, width=0.125, epochs=5 if longer else 4))


if __name__ == "__main__":
    search(__file__, __doc__, VARIANTS, measure)
