"""Methods beside each other: accuracy, speed, memory, locality, seconds to accuracy."""

import statistics
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from trifecta.bench.accuracy import seconds_to
from trifecta.report.bench import END_TO_END, check_figure
from trifecta.report.reproduction import NOT_MEASURED, accuracy_text
from trifecta.report.terminal import percent, plain_console, simple_table
from trifecta.reproduce.summary import RowSummary


def comparison_table(
    rows: Sequence[RowSummary], thresholds: Sequence[float]
) -> tuple[list[str], list[list[str]]]:
    """Heading and cells, the most accurate first, what was not measured last."""
    head = [
        "method, network",
        "test accuracy",
        "images/s",
        "training memory",
        "held by the graph",
        "crosses a block",
        *(f"s to {percent(threshold)}" for threshold in thresholds),
    ]
    ordered = sorted(rows, key=lambda row: -row.accuracy.mean if row.accuracy else 0.0)
    return head, [_cells(row, thresholds) for row in ordered]


def print_comparison(rows: Sequence[RowSummary], thresholds: Sequence[float]) -> None:
    """The table for a terminal, and what it was measured on."""
    head, body = comparison_table(rows, thresholds)
    table = simple_table(*head)
    for cells in body:
        table.add_row(*cells)
    console = plain_console()
    console.print(table)
    console.print(equal_work(rows), soft_wrap=True)


def equal_work(rows: Sequence[RowSummary]) -> str:
    """What all rows of a network have in common, in a line."""
    configs = {row.recipe.base.network: row.recipe(row.budget) for row in rows}
    sizes = "; ".join(
        f"{name}: width {config.width:g}, {config.epochs} epochs, batch {config.batch_size}"
        for name, config in configs.items()
    )
    hardware = "; ".join(sorted({row.hardware for row in rows if row.runs}))
    return (
        f"{rows[0].recipe.base.data.source}, budget {rows[0].budget}; {sizes}; {hardware or NOT_MEASURED}"
    )


def draw_comparison(rows: Sequence[RowSummary], path: Path) -> None:
    """Validation accuracy over seconds of training, one line a row (its first seed).

    Raises:
        ValueError: neither .svg, .png nor .pdf.
    """
    check_figure(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "trifecta", "font.size": 8}):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        for row in rows:
            if row.runs and row.seconds is not None:
                history = row.runs[0].history
                end_to_end = row.runs[0].result["locality"] == "end-to-end"
                axes.plot(
                    list(accumulate(record["seconds"] for record in history)),
                    [record["validation_accuracy"] for record in history],
                    marker=".",
                    linestyle="--" if end_to_end else "-",
                    color=None if not end_to_end else END_TO_END,
                    label=row.recipe.title,
                )
        axes.set(xlabel="seconds of training", ylabel="validation accuracy")
        axes.legend(fontsize=6, ncols=2)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def comparison_as_plain(rows: Sequence[RowSummary], thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """Rows for machines."""
    return [
        {
            "recipe": row.recipe.name,
            "accuracy": None if row.accuracy is None else row.accuracy.mean,
            "deviation": None if row.accuracy is None else row.accuracy.deviation,
            "n": len(row.runs),
            "images_per_second": _mean(row, "images_per_second"),
            "training_bytes": _mean(row, "training_bytes"),
            "saved_bytes": _mean(row, "saved_bytes"),
            "locality": row.recipe.base.method.locality,
            "seconds_to": {f"{t:g}": _seconds_to(row, t) for t in thresholds},
            "budget": row.budget,
            "hardware": row.hardware,
        }
        for row in rows
    ]


def _cells(row: RowSummary, thresholds: Sequence[float]) -> list[str]:
    speed = _mean(row, "images_per_second")
    memory, held = (_mean(row, name) for name in ("training_bytes", "saved_bytes"))
    reached = [_seconds_to(row, threshold) for threshold in thresholds]
    return [
        row.recipe.title,
        NOT_MEASURED if row.accuracy is None else accuracy_text(row.accuracy),
        "–" if speed is None else f"{speed:,.0f}",
        "–" if memory is None else f"{memory / 2**20:.0f} MiB",
        "–" if held is None else f"{held / 2**20:.1f} MiB",
        row.recipe.base.method.locality,
        *("–" if seconds is None else f"{seconds:.0f}" for seconds in reached),
    ]


def _mean(row: RowSummary, name: str) -> float | None:
    values = [run.result[name] for run in row.runs if name in run.result]
    return statistics.mean(values) if values else None


def _seconds_to(row: RowSummary, threshold: float) -> float | None:
    """Mean over seeds; None unless every seed gets there and was timed."""
    if row.seconds is None:
        return None
    reached = [seconds_to(run.history, threshold) for run in row.runs]
    known = [seconds for seconds in reached if seconds is not None]
    return statistics.mean(known) if len(known) == len(row.runs) else None
