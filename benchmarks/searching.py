"""What the searches share: variants on validation images, a line each in a result file."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recording import append, command_line, conditions_of
from trifecta.training import RunConfig, Trainer
from trifecta.training.trainer import Callback

Measure = Callable[[Path, str], dict[str, Any]]


def search(script: str, doc: str | None, variants: Iterable[str], measure: Measure) -> None:
    """Read the arguments, run the variants that the result file lacks, append a line for each.

    Several of these at once share the work. ``script`` and ``doc`` are the file and docstring of the
    command; ``measure`` runs a variant on the data in a folder and returns what its line has.
    """
    parser = command_line(doc, "folder", "results")
    parser.add_argument("patterns", nargs="*", default=["*"])
    options = parser.parse_args()
    for name in variants:
        if not any(fnmatchcase(name, pattern) for pattern in options.patterns):
            continue
        lock = FileLock(f"{options.results}.{name.replace(' ', '-')}.lock")
        try:
            with lock.acquire(timeout=0):
                if name not in _done(options.results):
                    command = f"python benchmarks/{Path(script).name} FOLDER RESULTS.jsonl '{name}'"
                    row = {"command": command, "variant": name, **measure(options.folder, name)}
                    append(options.results, row)
                    print(f"{name}: {row['validation_accuracy'][-1]:.2%}", flush=True)
        except Timeout:
            continue


def trained(config: RunConfig, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train, and return what :func:`accuracies` does."""
    trainer = Trainer(replace(config, keep="last"), callbacks=callbacks)
    trainer.fit()
    return accuracies(trainer)


def accuracies(trainer: Trainer) -> dict[str, Any]:
    """Validation accuracy after every epoch, and of every block and read-out at the end."""
    assert trainer.data.validation is not None
    return {
        "validation_accuracy": [record["validation_accuracy"] for record in trainer.history],
        "block_accuracy": trainer.history[-1]["block_accuracy"],
        "readout_accuracy": trainer.evaluate(trainer.data.validation).readout_accuracy,
        **conditions_of(trainer),
    }


def _done(results: Path) -> set[str]:
    lines = results.read_text().splitlines() if results.exists() else []
    return {json.loads(line)["variant"] for line in lines}
