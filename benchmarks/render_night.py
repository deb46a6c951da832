"""Accuracy over the epochs of budget *night*, and what more epochs would bring if the curve goes on."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from render_trunk import Cells
from trifecta.experiments.results import StoredRun
from trifecta.experiments.summary import RowSummary

# Epochs that a curve is fitted from: those before follow another line.
FITTED_FROM = 5
TARGETS = (0.75, 0.84)
# An extrapolation that lies further away says nothing.
FURTHEST = 1000
# Width and epochs: half of the network, then the published size.
EXTRAPOLATED = ((0.5, 100), (1.0, 100))


def draw_night(path: Path, rows: Sequence[RowSummary]) -> None:
    """Validation accuracy after every epoch, one line a run."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "trifecta", "font.size": 8}):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        for row in rows:
            for run in row.runs:
                accuracy = [100 * value for value in _accuracies(run)]
                axes.plot(range(1, len(accuracy) + 1), accuracy, marker=".", label=row.recipe.title)
        axes.set(xlabel="epoch", ylabel="validation accuracy, %, CIFAR-10", xlim=(0, None))
        axes.legend(loc="lower right")
        figure.savefig(path, metadata={"Date": None})


def night_fits(rows: Sequence[RowSummary]) -> Cells:
    """A power of the epochs fitted to each run's error, and the epochs to each target accuracy."""
    body = []
    for row in rows:
        for run in row.runs:
            accuracies = _accuracies(run)
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
            errors += [1 - _accuracies(run)[-1] for run in row.runs]
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


def _accuracies(run: StoredRun) -> list[float]:
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
