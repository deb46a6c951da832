"""What was tried to bring local learning near backprop on the fast trunk, on CIFAR-10's validation split.

Network *airbench*, batches of 1,000, crops of 2 pixels and alternating flips, one seed. Seven rounds: Muon
as superfecta has it; Muon that keeps the norm of its matrices, over its rate, its momentum and Adam's rate
for everything else; then losses, schedules and sizes at the settings that were best; what lets a block
look ahead, at a quarter of the width; and there what the trunk's published code does otherwise, one by one:
crops reflect the image instead of being padded with black, a step replaces one share of every matrix,
three rounds orthogonalise it; then the trunk as it is now, whose whitening filters have no bias, where
before they had one that learnt; last a reconstruction of the image, and weights averaged over steps. One
line a variant is appended to a result file; variants that it has are not run again. The test split is not
read.

    python benchmarks/search_airbench.py FOLDER RESULTS.jsonl [PATTERN …]
"""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from further_parts import Lookahead, Reconstructed, RememberImages
from searching import search, trained
from trifecta.data import Augmentation, DataConfig
from trifecta.losses import (
    AugmentedAuxiliary,
    AuxiliaryCrossEntropy,
    Combined,
    CrossEntropy,
    Similarity,
    SupervisedContrastive,
)
from trifecta.losses.head import Objective
from trifecta.methods import Method, backprop, superfecta
from trifecta.optim import OptimizerConfig
from trifecta.recipes import FAST_AUGMENTATION, FAST_CLASSIFIER, FAST_OPTIMIZER
from trifecta.schedules import LAYER_WISE, Schedule
from trifecta.training import RunConfig
from trifecta.training.trainer import Callback

NARROW = FAST_CLASSIFIER
HIDDEN = replace(FAST_CLASSIFIER, hidden=512)
PAIRS, THREES = Schedule(size=2, overlapping=True), Schedule(size=3, overlapping=True)
TWO_MODULES = Schedule(size=3)


def muon(rate: float, **arguments: Any) -> OptimizerConfig:
    """Muon that decays along a line, as the trunk's own recipe does."""
    return OptimizerConfig(algorithm="muon", learning_rate=rate, decay="linear", arguments=arguments)


def keeping_norm(rate: float, momentum: float, adam_scale: float) -> OptimizerConfig:
    """Muon that keeps the norm of its matrices."""
    return muon(rate, momentum=momentum, normalized=True, adam_scale=adam_scale)


# The best of the second round for backprop.
CHOSEN = keeping_norm(0.025, 0.6, 0.1)
BLACK = Augmentation(crop_padding=2, flip=True, alternating=True)


def replacing(rate: float, rounds: int = 3) -> OptimizerConfig:
    """Muon whose steps replace one share of every matrix."""
    arguments = {**FAST_OPTIMIZER.arguments, "rounds": rounds, "adam_scale": 0.0024 / rate}
    return replace(FAST_OPTIMIZER, learning_rate=rate, arguments=arguments)


def end_to_end(
    optimizer: OptimizerConfig = FAST_OPTIMIZER, objective: Objective | None = None, **settings: Any
) -> dict[str, Any]:
    """Backprop for the epochs of the trunk's own recipe."""
    objective = CrossEntropy(smoothing=0.2) if objective is None else objective
    method = replace(backprop.method(), objective=objective, optimizer=optimizer)
    return {"method": method, "epochs": 10, **settings}


def local(
    objective: Objective = HIDDEN,
    optimizer: OptimizerConfig = FAST_OPTIMIZER,
    *,
    schedule: Schedule = LAYER_WISE,
    readout: str = "all-but-first",
    **settings: Any,
) -> dict[str, Any]:
    """Superfecta with another loss, optimizer, schedule or read-out."""
    method = replace(
        superfecta.method(), objective=objective, optimizer=optimizer, schedule=schedule, readout=readout
    )
    return {"method": method, "epochs": 16, **settings}


def with_term(term: Similarity | SupervisedContrastive) -> Combined:
    """A term beside the classifier."""
    return Combined(scoring=HIDDEN, terms=(term,))


def reconstructing(method: Method, weight: float) -> Method:
    """A method whose blocks also decode the image."""
    return replace(method, objective=Combined(scoring=NARROW, terms=(Reconstructed(weight=weight),)))


GRID = list(product((0.0125, 0.025, 0.05), (0.6, 0.95), (0.1, 1.0)))


def grid_name(rate: float, momentum: float, adam_scale: float) -> str:
    """The settings of a cell in words."""
    return f"rate {rate:g}, momentum {momentum:g}, Adam × {adam_scale:g}"


FIRST: dict[str, dict[str, Any]] = {
    **{f"backprop, rate {rate:g}": end_to_end(muon(rate)) for rate in (0.006, 0.012, 0.024, 0.048)},
    **{f"strict, rate {rate:g}": local(NARROW, muon(rate)) for rate in (0.006, 0.012, 0.024)},
    "strict, 512 hidden units": local(HIDDEN, muon(0.012)),
    "strict, 1,024 hidden units": local(replace(HIDDEN, hidden=1024), muon(0.012)),
    "strict, no smoothing": local(replace(NARROW, smoothing=0.0), muon(0.012)),
    "strict, smoothing 0.1": local(replace(NARROW, smoothing=0.1), muon(0.012)),
    "strict, linear": local(replace(NARROW, hidden=0, normalized=True), muon(0.012)),
}
SECOND: dict[str, dict[str, Any]] = {
    **{f"2: backprop, {grid_name(*cell)}": end_to_end(keeping_norm(*cell)) for cell in GRID},
    **{f"2: strict, {grid_name(*cell)}": local(HIDDEN, keeping_norm(*cell)) for cell in GRID},
}
THIRD: dict[str, dict[str, Any]] = {
    "3: overlapping threes": local(optimizer=CHOSEN, schedule=THREES),
    "3: overlapping pairs": local(optimizer=CHOSEN, schedule=PAIRS),
    "3: strict, 40 epochs": local(optimizer=CHOSEN, epochs=40),
    "3: strict, twice the width": local(optimizer=CHOSEN, width=2.0),
    "3: strict, contrastive term": local(with_term(SupervisedContrastive(weight=0.5)), CHOSEN),
    "3: strict, convolutional classifiers": local(AuxiliaryCrossEntropy(), CHOSEN),
    "3: two modules": local(optimizer=CHOSEN, schedule=TWO_MODULES),
    "3: three modules": local(optimizer=CHOSEN, schedule=Schedule(size=2)),
    "3: strict, 256 hidden units": local(NARROW, CHOSEN),
    "3: strict, similarity term": local(with_term(Similarity()), CHOSEN),
    "3: strict, 7×7 patches": local(replace(HIDDEN, pool=7), CHOSEN),
    "3: strict, 2×2 patches": local(replace(HIDDEN, pool=2), CHOSEN),
    "3: strict, no smoothing": local(replace(HIDDEN, smoothing=0.0), CHOSEN),
    "3: strict, batches of 500": local(optimizer=CHOSEN, batch_size=500),
    "3: backprop, 16 epochs": end_to_end(CHOSEN, epochs=16),
    "3: backprop, 40 epochs": end_to_end(CHOSEN, epochs=40),
    "3: backprop, batches of 500": end_to_end(CHOSEN, batch_size=500),
    "3: backprop, the same classifier": end_to_end(CHOSEN, objective=HIDDEN),
    "3: overlapping threes, twice the width, 40 epochs": local(
        optimizer=CHOSEN, schedule=THREES, epochs=40, width=2.0
    ),
    "3: strict, twice the width, 40 epochs": local(optimizer=CHOSEN, epochs=40, width=2.0),
}
# A size at which a CPU tries much.
QUARTER: dict[str, Any] = {"width": 0.25, "epochs": 8}
FOURTH: dict[str, dict[str, Any]] = {
    "4: backprop": end_to_end(CHOSEN, **QUARTER),
    "4: strict": local(NARROW, CHOSEN, **QUARTER),
    "4: strict, 64 hidden units": local(replace(NARROW, hidden=64), CHOSEN, **QUARTER),
    **{
        f"4: strict, {depth} of the later layers": local(
            AugmentedAuxiliary(depth=depth, smoothing=0.2), CHOSEN, **QUARTER
        )
        for depth in (1, 2, 3)
    },
    "4: overlapping pairs": local(NARROW, CHOSEN, schedule=PAIRS, **QUARTER),
    "4: overlapping threes": local(NARROW, CHOSEN, schedule=THREES, **QUARTER),
    "4: overlapping fours": local(NARROW, CHOSEN, schedule=Schedule(size=4, overlapping=True), **QUARTER),
    "4: two modules": local(NARROW, CHOSEN, schedule=TWO_MODULES, **QUARTER),
    "4: strict, twice the width": local(NARROW, CHOSEN, width=0.5, epochs=8),
}
FORMER = {
    name: {"augmentation": BLACK} | variant for name, variant in (FIRST | SECOND | THIRD | FOURTH).items()
}
FIFTH: dict[str, dict[str, Any]] = {
    "5: backprop": end_to_end(**QUARTER),
    "5: backprop, black padding": end_to_end(**QUARTER, augmentation=BLACK),
    "5: backprop, five rounds": end_to_end(replacing(0.24, rounds=5), **QUARTER),
    "5: backprop, steps matched to Adam's": end_to_end(CHOSEN, **QUARTER),
    "5: backprop, rate 0.12": end_to_end(replacing(0.12), **QUARTER),
    "5: strict": local(NARROW, **QUARTER),
    "5: strict, rate 0.12": local(NARROW, replacing(0.12), **QUARTER),
    "5: strict, rate 0.48": local(NARROW, replacing(0.48), **QUARTER),
    **{
        f"5: strict, rate 0.12, {pool}×{pool} patches": local(
            replace(NARROW, pool=pool), replacing(0.12), **QUARTER
        )
        for pool in (2, 3)
    },
    "5: overlapping threes": local(NARROW, schedule=THREES, **QUARTER),
    "5: overlapping threes, rate 0.12": local(NARROW, replacing(0.12), schedule=THREES, **QUARTER),
    "5: two modules": local(NARROW, schedule=TWO_MODULES, **QUARTER),
}
SIXTH: dict[str, dict[str, Any]] = {
    "6: backprop": end_to_end(**QUARTER),
    "6: strict": local(NARROW, replacing(0.12), **QUARTER),
    "6: overlapping threes": local(NARROW, schedule=THREES, **QUARTER),
}
LOCAL: dict[str, dict[str, Any]] = {
    "strict": local(NARROW, replacing(0.12), **QUARTER),
    "overlapping threes": local(NARROW, schedule=THREES, **QUARTER),
}
LOOKAHEAD = ", averaged weights"
SEVENTH: dict[str, dict[str, Any]] = {
    **{
        f"7: {name}, reconstruction × {weight:g}": {
            **variant,
            "method": reconstructing(variant["method"], weight),
        }
        for name, variant in LOCAL.items()
        for weight in (0.1, 1.0)
    },
    **{f"7: {name}{LOOKAHEAD}": variant for name, variant in LOCAL.items()},
    f"7: backprop{LOOKAHEAD}": end_to_end(**QUARTER),
}
VARIANTS = FORMER | FIFTH | SIXTH | SEVENTH


def configured(folder: Path, variant: dict[str, Any]) -> RunConfig:
    """The run of a variant's settings."""
    usual: dict[str, Any] = {"batch_size": 1000, "augmentation": FAST_AUGMENTATION, "precision": "bf16"}
    return RunConfig(data=DataConfig(source=str(folder)), network="airbench", **(usual | variant))


def callbacks(name: str) -> list[Callback]:
    """What one variant needs while it trains."""
    if name.endswith(LOOKAHEAD):
        return [Lookahead()]
    return [RememberImages()] if "reconstruction" in name else []


def measure(folder: Path, name: str) -> dict[str, Any]:
    """Train one variant."""
    return trained(configured(folder, VARIANTS[name]), callbacks(name))


if __name__ == "__main__":
    search(__file__, __doc__, VARIANTS, measure)
