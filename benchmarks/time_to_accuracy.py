"""Seconds of training until a validation split is read well enough, on the fast trunk.

Rows take turns, seed after seed, on a machine that does nothing else. A row's schedule ends with its last
epoch, so a threshold is reached soonest by the shortest row that reaches it. Evaluation is left out of the
seconds and reported; the test split is read once, at the end, as it is and with its views averaged.
Rows *all images* train on the validation split too, as published figures do, so they time whole runs only.

    python benchmarks/time_to_accuracy.py FOLDER RESULTS.jsonl [--seeds 3] [ROW …]

FOLDER is one of cifar10, mnist and fashion_mnist, and its name says which rows there are.
"""

import fnmatch
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from recording import append, command_line, conditions_of
from search_airbench import NARROW, QUARTER, THREES, TWO_MODULES, configured, end_to_end, local
from trifecta.data import DataConfig, ImageData, load_data
from trifecta.methods import tierce
from trifecta.recipes import FAST_AUGMENTATION, STRICT_OPTIMIZER
from trifecta.training import RunConfig, Trainer
from trifecta.training.evaluation import VIEWS, score, summarise

THRESHOLDS = {
    "cifar10": (0.8, 0.85, 0.9, 0.92, 0.93, 0.94),
    "mnist": (0.98, 0.99, 0.994),
    "fashion_mnist": (0.88, 0.9, 0.92),
}
ALL_IMAGES = "all images"
PRESENT: dict[str, dict[str, Any]] = {
    "backprop, 10 epochs": end_to_end(),
    "superfecta, 12 epochs": local(NARROW, STRICT_OPTIMIZER, epochs=12),
    "superfecta, overlapping threes, 12 epochs": local(NARROW, schedule=THREES, readout="last", epochs=12),
    "superfecta, overlapping threes, 24 epochs": local(NARROW, schedule=THREES, readout="last", epochs=24),
    "superfecta, two modules, 12 epochs": local(NARROW, schedule=TWO_MODULES, epochs=12),
}
# Round 2 had a bias of the whitening filters that learnt.
SECOND = {f"2: {name}, {ALL_IMAGES}": variant for name, variant in PRESENT.items()}
MORE: dict[str, dict[str, Any]] = {
    "superfecta, overlapping threes, 10 epochs": local(NARROW, schedule=THREES, readout="last", epochs=10),
    "tierce, 12 epochs": {"method": replace(tierce.method(), optimizer=STRICT_OPTIMIZER), "epochs": 12},
    # About an hour on two CPU cores.
    "superfecta, overlapping threes, 1.5 times the width, 24 epochs": local(
        NARROW, schedule=THREES, readout="last", width=1.5, epochs=24
    ),
}
# Round 3 is of the trunk as it is.
THIRD = {
    f"3: {name}{images}": variant
    for images in ("", f", {ALL_IMAGES}")
    for name, variant in (PRESENT | MORE).items()
}
# Twice the width, for a GPU.
DOUBLE: dict[str, Any] = {"width": 2.0, "epochs": 24}
WIDE = {
    f"wide: {name}{images}": variant
    for images in ("", f", {ALL_IMAGES}")
    for name, variant in {
        "backprop, twice the width, 24 epochs": end_to_end(**DOUBLE),
        "superfecta, twice the width, 24 epochs": local(NARROW, STRICT_OPTIMIZER, **DOUBLE),
        "superfecta, overlapping threes, twice the width, 24 epochs": local(
            NARROW, schedule=THREES, readout="last", **DOUBLE
        ),
    }.items()
}
# At a quarter of the width, which these two need no more than.
SMALLER: dict[str, dict[str, Any]] = {
    "backprop": end_to_end(**QUARTER),
    "superfecta": local(NARROW, STRICT_OPTIMIZER, **QUARTER),
    "superfecta, overlapping threes": local(NARROW, schedule=THREES, readout="last", **QUARTER),
    "superfecta, two modules": local(NARROW, schedule=TWO_MODULES, **QUARTER),
    "tierce": {"method": replace(tierce.method(), optimizer=STRICT_OPTIMIZER), **QUARTER},
}
# A digit's mirror image is another sign.
CROPS = replace(FAST_AUGMENTATION, flip=False, alternating=False)
ROWS = {
    "cifar10": SECOND | THIRD | WIDE,
    "mnist": {f"MNIST: {name}": variant | {"augmentation": CROPS} for name, variant in SMALLER.items()},
    "fashion_mnist": {f"Fashion-MNIST: {name}": variant for name, variant in SMALLER.items()},
}
DEFAULT = {"cifar10": list(THIRD)}


def split_of(folder: Path, name: str) -> DataConfig:
    """The images of a row."""
    config = DataConfig(source=str(folder))
    return replace(config, validation=0.0) if name.endswith(ALL_IMAGES) else config


def measure(config: RunConfig, data: ImageData) -> dict[str, Any]:
    """Train, then say when each threshold was passed and how the test split is read."""
    trainer = Trainer(config, data=data)
    trainer.fit()
    history = trainer.history
    test, labels = trainer.data.test, trainer.data.test.labels.to(trainer.device)
    accuracy, readouts = {}, {}
    # Views flip an image, which only means the same where training did.
    for name in VIEWS if config.augmentation.flip else ("none",):
        scores = score(
            trainer.network,
            test,
            mean=trainer.data.mean,
            std=trainer.data.std,
            precision=trainer.learner.precision,
            views=name,
        )
        measured = summarise(trainer.network, labels, scores)
        accuracy[name], readouts[name] = measured.accuracy, measured.readout_accuracy
    reached = {}
    assert config.data is not None
    for threshold in THRESHOLDS[Path(config.data.source).name]:
        passed = next((h["epoch"] for h in history if (h["validation_accuracy"] or 0) >= threshold), None)
        if passed is not None:
            seconds = sum(h["seconds"] for h in history[:passed])
            reached[str(threshold)] = {"epoch": passed, "seconds": seconds}
    return {
        "reached": reached,
        "seconds": sum(h["seconds"] for h in history),
        "evaluation_seconds": sum(h.get("evaluation_seconds", 0.0) for h in history),
        "validation_accuracy": [h["validation_accuracy"] for h in history],
        "test_accuracy": accuracy,
        "test_readout_accuracy": readouts,
        "locality": config.method.locality,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        **conditions_of(trainer),
    }


def take_steps(trainer: Trainer, steps: int) -> None:
    """Take steps on the first batch as it is."""
    for _ in range(steps):
        images = trainer.data.train.images[: trainer.config.batch_size].float() / 255
        trainer.learner.step(images, trainer.data.train.labels[: len(images)].to(images.device))


def main() -> None:
    """Read the arguments, run what is missing, append."""
    parser = command_line(__doc__, "folder", "results")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="a name, or a pattern with * in it")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_intermixed_args()
    known = ROWS[options.folder.name]
    asked = options.rows or DEFAULT.get(options.folder.name, list(known))
    rows = [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in asked)]
    splits = {name: split_of(options.folder, name) for name in rows}
    loaded = {split: load_data(split) for split in set(splits.values())}
    for name, split in splits.items():
        # The first steps of a process set things up.
        take_steps(Trainer(configured(options.folder, known[name]), data=loaded[split]), 2)
    for seed in range(options.seeds):
        for name in rows:
            lines = options.results.read_text().splitlines() if options.results.exists() else []
            if (name, seed) in {(row["row"], row["seed"]) for row in map(json.loads, lines)}:
                continue
            config = replace(configured(options.folder, known[name]), seed=seed, data=splits[name])
            command = (
                f"python benchmarks/time_to_accuracy.py FOLDER RESULTS.jsonl --seeds {seed + 1} '{name}'"
            )
            measured = measure(config, loaded[splits[name]])
            row = {"command": command, "row": name, "seed": seed, **measured}
            append(options.results, row)
            views = ", ".join(f"{view} {value:.2%}" for view, value in row["test_accuracy"].items())
            print(f"{name}, seed {seed}: {row['seconds']:.1f} s, test {views}", flush=True)


if __name__ == "__main__":
    main()
