"""Methods beside each other: accuracy, speed, memory, locality, seconds to accuracy."""

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from trifecta.bench.accuracy import seconds_to
from trifecta.report.bench import check_figure
from trifecta.report.reproduction import NOT_MEASURED, accuracy_text
from trifecta.report.terminal import percent, plain_console, simple_table
from trifecta.reproduce.results import StoredRun
from trifecta.reproduce.summary import RowSummary
from trifecta.schedules import END_TO_END


def comparison_table(
    rows: Sequence[RowSummary], thresholds: Sequence[float]
) -> tuple[list[str], list[list[str]]]:
    """Heading and cells, the most accurate first, what was not measured last.

    Speed and memory stand beside their ratio to plain backprop's of the same network, where it is there.
    """
    head = [
        "method, network",
        "test accuracy",
        "images/s",
        "training memory",
        "held by the graph",
        "crosses a block",
        *(f"s to {percent(threshold)}" for threshold in thresholds),
    ]
    return head, [_cells(row, _reference(row, rows), thresholds) for row in sorted(rows, key=_place)]


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
        f"{name}: width {config.width:g}, epochs {config.epochs}, batch {config.batch_size}"
        for name, config in configs.items()
    )
    hardware = "; ".join(sorted({row.hardware for row in rows if row.runs}))
    beside = "; ×: over backprop of the same network" if any(_reference(r, rows) for r in rows) else ""
    return (
        f"{rows[0].recipe.base.data.source}, budget {rows[0].budget}; {sizes}; "
        f"{hardware or NOT_MEASURED}{beside}"
    )


def draw_comparison(rows: Sequence[RowSummary], path: Path) -> None:
    """Validation accuracy over seconds of training, one line a row (its first timed seed).

    Raises:
        ValueError: neither .svg, .png nor .pdf; no run was timed.
    """
    check_figure(path)
    if not any(_timed(row) for row in rows):
        raise ValueError(
            f"a figure shows accuracy over seconds: no run here was timed, so {path} was not drawn; "
            "run seed 0 without --untimed"
        )
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "trifecta", "font.size": 8}):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        # The most accurate first, as the table has them; ten colours, then the same with another marker.
        drawn = [(row, run) for row in sorted(rows, key=_place) for run in _timed(row)[:1]]
        for number, (row, run) in enumerate(drawn):
            axes.plot(
                list(accumulate(record["seconds"] for record in run.history)),
                [record["validation_accuracy"] for record in run.history],
                marker="osD"[number // 10 % 3],
                markersize=3,
                linewidth=1,
                linestyle="--" if run.result["locality"] == "end-to-end" else "-",
                color=f"C{number % 10}",
                label=row.recipe.title,
            )
        axes.set(xlabel="seconds of training", ylabel="validation accuracy")
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
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


def _place(row: RowSummary) -> float:
    """Sorts the most accurate row first and what was not measured last."""
    return -row.accuracy.mean if row.accuracy else math.inf


def _reference(row: RowSummary, rows: Sequence[RowSummary]) -> RowSummary | None:
    """Plain backprop of the same network."""
    network = row.recipe.base.network
    candidates = (other for other in rows if other.recipe.base.network == network)
    return next((o for o in candidates if o.recipe.base.method.schedule == END_TO_END), None)


def _cells(row: RowSummary, reference: RowSummary | None, thresholds: Sequence[float]) -> list[str]:
    def beside(name: str, text: Callable[[float], str]) -> str:
        value, other = (None if one is None else _mean(one, name) for one in (row, reference))
        if value is None:
            return "–"
        return text(value) if other is None else f"{text(value)} ({value / other:.2f}×)"

    reached = [_seconds_to(row, threshold) for threshold in thresholds]
    return [
        row.recipe.title,
        NOT_MEASURED if row.accuracy is None else accuracy_text(row.accuracy),
        beside("images_per_second", lambda speed: f"{speed:,.0f}"),
        beside("training_bytes", lambda size: f"{size / 2**20:.0f} MiB"),
        beside("saved_bytes", lambda size: f"{size / 2**20:.1f} MiB"),
        row.recipe.base.method.locality,
        *("–" if seconds is None else f"{seconds:.0f}" for seconds in reached),
    ]


def _mean(row: RowSummary, name: str) -> float | None:
    values = [run.result[name] for run in row.runs if name in run.result]
    return statistics.mean(values) if values else None


def _seconds_to(row: RowSummary, threshold: float) -> float | None:
    """Mean over the seeds that were timed; None unless each of them gets there."""
    reached = [seconds_to(run.history, threshold) for run in _timed(row)]
    known = [seconds for seconds in reached if seconds is not None]
    return statistics.mean(known) if known and len(known) == len(reached) else None


def _timed(row: RowSummary) -> list[StoredRun]:
    return [run for run in row.runs if "seconds" in run.result]
