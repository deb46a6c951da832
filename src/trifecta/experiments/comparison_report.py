"""Methods beside each other: accuracy, size, work, speed, memory, locality, seconds to accuracy."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from trifecta.bench.report import check_figure
from trifecta.experiments.comparison import COMPARED, FIGURES, ComparedRow, compare, timed, usual_width
from trifecta.experiments.reproduction_report import NOT_MEASURED, accuracy_text
from trifecta.experiments.summary import RowSummary
from trifecta.report.terminal import plain_console, simple_table

BESIDE = "over backprop with the same optimizer where that is a row, else over backprop"
_PUBLISHED = "published elsewhere"


def comparison_table(
    rows: Sequence[RowSummary], thresholds: Sequence[float]
) -> tuple[list[str], list[list[str]]]:
    """Heading and cells, the most accurate first, what was not measured last.

    Speed and memory stand beside their ratio to backprop's of the same network with the same optimizer, or
    with its own. Figures that papers report have a column where any row has one.
    """
    one = len({row.recipe.base.network for row in rows}) == 1
    head = [
        "row" if one else "row, network",
        _PUBLISHED,
        "test accuracy",
        "parameters",
        "in blocks",
        "multiply-adds",
        "images/s",
        "whole run, s",
        "training memory",
        "held by graph",
        "crosses a block",
        *(f"s to {100 * threshold:g}%" for threshold in thresholds),
    ]
    compared = sorted(compare(rows), key=lambda row: row.sort_key)
    published = any(row.published is not None for row in compared)
    kept = [k for k, name in enumerate(head) if published or name != _PUBLISHED]
    body = [_cells(row, thresholds) for row in compared]
    return [head[k] for k in kept], [[cells[k] for k in kept] for cells in body]


def print_comparison(rows: Sequence[RowSummary], thresholds: Sequence[float]) -> None:
    """The table for a terminal, and what it was measured on."""
    head, body = comparison_table(rows, thresholds)
    console = plain_console()
    console.print(simple_table(head, body))
    console.print(equal_work(rows), soft_wrap=True)


def equal_work(rows: Sequence[RowSummary]) -> str:
    """Describe, in a line, the settings that all rows of a network share."""
    configs = {row.recipe.base.network: row.recipe(row.budget) for row in rows}
    sizes = "; ".join(
        f"{name}: width {usual_width(rows, name):g}, epochs {config.epochs}, batch {config.batch_size}"
        for name, config in configs.items()
    )
    hardware = "; ".join(sorted({row.hardware for row in rows if row.runs}))
    beside = f"; ×: {BESIDE}" if any(row.reference for row in compare(rows)) else ""
    return (
        f"{rows[0].recipe.data.source}, budget {rows[0].budget}; {sizes}; "
        f"{hardware or NOT_MEASURED}; multiply-adds of a training step, an image{beside}"
    )


def draw_comparison(rows: Sequence[RowSummary], path: Path) -> None:
    """Validation accuracy over seconds of training, one line a row (its first timed seed).

    Raises:
        ValueError: neither .svg, .png nor .pdf; no run was timed.
    """
    check_figure(path)
    if not any(timed(row) for row in rows):
        raise ValueError(
            f"a figure shows accuracy over seconds: no run here was timed, so {path} was not drawn; "
            "run seed 0 without --untimed"
        )
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "trifecta", "font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        # The most accurate first, as the table has them; ten colours, then the same with another marker.
        ordered = sorted(compare(rows), key=lambda row: row.sort_key)
        drawn = [(row, run) for row in ordered for run in timed(row.summary)[:1]]
        for number, (row, run) in enumerate(drawn):
            axes.plot(
                list(accumulate(record["seconds"] for record in run.history)),
                [record["validation_accuracy"] for record in run.history],
                marker="osD"[number // 10 % 3],
                markersize=3,
                linewidth=1,
                linestyle="--" if run.result["locality"] == "end-to-end" else "-",
                color=f"C{number % 10}",
                label=row.title,
            )
        axes.set(xlabel="seconds of training", ylabel="validation accuracy")
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def comparison_as_plain(rows: Sequence[RowSummary], thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """Rows for machines.

    ``ratios`` are to the row that ``beside`` names; accuracies in percent; what is not known is None.
    """
    return [_plain(row, thresholds) for row in compare(rows)]


def _plain(row: ComparedRow, thresholds: Sequence[float]) -> dict[str, Any]:
    summary = row.summary
    return {
        "recipe": summary.recipe.name,
        "published": row.published,
        "accuracy": None if summary.accuracy is None else summary.accuracy.mean,
        "deviation": None if summary.accuracy is None else summary.accuracy.deviation,
        "n": len(summary.runs),
        "width": summary.recipe(summary.budget).width,
        **{name: row.figure(name) for name in FIGURES},
        "beside": None if row.reference is None else row.reference.recipe.name,
        "ratios": {name: row.ratio(name) for name in COMPARED},
        "locality": summary.recipe.base.method.locality,
        "seconds_to": {f"{t:g}": row.seconds_to(t) for t in thresholds},
        "budget": summary.budget,
        "hardware": summary.hardware,
    }


def _cells(row: ComparedRow, thresholds: Sequence[float]) -> list[str]:
    def cell(name: str, text: Callable[[float], str]) -> str:
        value, ratio = row.figure(name), row.ratio(name) if name in COMPARED else None
        if value is None:
            return "–"
        return text(value) if ratio is None else f"{text(value)} ({ratio:.2f}×)"

    accuracy, reached = row.summary.accuracy, [row.seconds_to(threshold) for threshold in thresholds]
    return [
        row.title,
        "–" if row.published is None else f"{row.published:g}%",
        NOT_MEASURED if accuracy is None else accuracy_text(accuracy),
        cell("parameters", lambda number: f"{number:,.0f}"),
        cell("block_parameters", lambda number: f"{number:,.0f}"),
        cell("multiply_adds_per_image", lambda number: f"{number / 1e6:,.1f} M"),
        cell("images_per_second", lambda speed: f"{speed:,.0f}"),
        cell("total_seconds", lambda seconds: f"{seconds:,.0f}"),
        cell("training_bytes", lambda size: f"{size / 2**20:.0f} MiB"),
        cell("saved_bytes", lambda size: f"{size / 2**20:.1f} MiB"),
        row.summary.recipe.base.method.locality,
        *("–" if seconds is None else f"{seconds:.0f}" for seconds in reached),
    ]
