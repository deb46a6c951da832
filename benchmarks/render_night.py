"""Accuracy at budget *night*, over its epochs, and what more of them would bring if the curve goes on."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trifecta.experiments import RowSummary, StoredRun, accuracy_text
from trifecta.report.terminal import Cells

# Epochs that a curve is fitted from: those before follow another line.
FITTED_FROM = 5
TARGETS = (0.75, 0.84)
# An extrapolation that lies further away says nothing.
FURTHEST = 1000
# Width and epochs: half of the network, then the published size.
EXTRAPOLATED = ((0.5, 100), (1.0, 100))


# Recipes by the data set at their end.
DATA_SETS = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
# In every panel a method has the same colour.
METHODS = ("trifecta", "published-trifecta", "published-ff", "symba", "backprop", "longer-backprop")


def night_table(rows_by_data: Mapping[str, Sequence[RowSummary]]) -> Cells:
    """Test accuracy by method and data set, below what was published for the Trifecta."""
    body: dict[str, list[str]] = {"published: Trifecta, large": []}
    for data, rows in rows_by_data.items():
        by_name = {row.recipe.name: row for row in rows}
        published = by_name[f"published-trifecta-large-{data}"].recipe.published
        body["published: Trifecta, large"].append("–" if published is None else f"{published.accuracy}%")
        for method in METHODS:
            row = by_name[f"{method}-small-{data}"]
            body.setdefault(row.recipe.title, []).append(accuracy_text(row.accuracy))
    return ["", *map(DATA_SETS.__getitem__, rows_by_data)], [
        [title, *cells] for title, cells in body.items()
    ]


def method_of(row: RowSummary) -> str:
    """Name of a row's method."""
    return row.recipe.name.partition("-small-")[0]


def night_fits(rows: Sequence[RowSummary]) -> Cells:
    """A power of the epochs fitted to each run's error, and the epochs to each target accuracy."""
    body = []
    for row in rows:
        for run in row.runs:
            accuracies = accuracies_of(run)
            scale, power = _fitted([1 - value for value in accuracies])
            body.append(
                [
                    row.recipe.title,
                    f"{scale:.2f} · epochs^{power:.2f}",
                    f"{100 * accuracies[-1]:.1f}%",
                    *(_passed(accuracies, scale, power, target) for target in TARGETS),
                ]
            )
    heads = [f"{100 * target:.0f}% after" for target in TARGETS]
    return ["", "error", "last epoch, validation", *heads], body


def size_fit(pilots: Sequence[Mapping[str, Any]], rows: Sequence[RowSummary]) -> Cells:
    """A power of epochs and of width fitted to the last error of whole runs, and what it says of others.

    Args:
        pilots: lines of ``pilot_night.py``.
        rows: of budget *night*, the Trifecta's among them.

    Returns:
        For each size its width, epochs, the accuracy that was measured, if it was, and the fitted one.
    """
    if not pilots:
        return [], []
    sizes = [(row["settings"]["width"], row["settings"]["epochs"]) for row in pilots]
    errors = [1 - row["validation_accuracy"][-1] for row in pilots]
    for row in rows:
        if row.recipe.name.startswith("trifecta-"):
            sizes += [(run.config["width"], run.config["epochs"]) for run in row.runs]
            errors += [1 - accuracies_of(run)[-1] for run in row.runs]
    terms = np.array([[1, math.log(epochs), math.log(width)] for width, epochs in sizes])
    powers = np.linalg.lstsq(terms, np.log(errors), rcond=None)[0]

    def line(width: float, epochs: int, measured: str) -> list[str]:
        fitted = math.exp(powers @ [1, math.log(epochs), math.log(width)])
        return [f"{width:g}", str(epochs), measured, f"{100 * (1 - fitted):.1f}%"]

    known = [
        line(*size, f"{100 * (1 - error):.1f}%") for size, error in sorted(zip(sizes, errors, strict=True))
    ]
    unknown = [line(*size, "not measured: extrapolated") for size in EXTRAPOLATED]
    return ["width", "epochs", "validation accuracy", "fitted"], known + unknown


def accuracies_of(run: StoredRun) -> list[float]:
    """Validation accuracy after each epoch."""
    return [record["validation_accuracy"] for record in run.history]


def _fitted(errors: Sequence[float]) -> tuple[float, float]:
    """Least squares of log error = log scale + power · log epoch."""
    points = [(math.log(k), math.log(error)) for k, error in enumerate(errors, 1) if k >= FITTED_FROM]
    power, intercept = statistics.linear_regression(*zip(*points, strict=True))
    return math.exp(intercept), power


def _passed(accuracies: Sequence[float], scale: float, power: float, target: float) -> str:
    """The epoch that passed a target; where none did, the one that the fitted error would."""
    for epoch, accuracy in enumerate(accuracies, 1):
        if accuracy >= target:
            return f"{epoch} epochs"
    epochs = ((1 - target) / scale) ** (1 / power) if power < 0 else math.inf
    if epochs > FURTHEST:
        return f"over {FURTHEST:,} epochs (extrapolated)"
    return f"{epochs:.0f} epochs (extrapolated)"
