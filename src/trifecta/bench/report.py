"""Tables and charts of benchmark reports."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trifecta.report import figures
from trifecta.report.terminal import DASH, Cells, Columns, cells_of, percent, print_table, shown

Report = Mapping[str, Any]
Row = Mapping[str, Any]


def bench_table(report: Report) -> Cells:
    """Return the heading and the cells of a report."""
    columns = TABLES.get(report["benchmark"], _speed_columns)
    return cells_of(report["rows"], columns(report))


def print_bench(report: Report) -> None:
    """Print the table, and below it what it was measured on."""
    print_table(*bench_table(report), note=measured_on(report))


def draw_bench(report: Report, path: Path) -> None:
    """Draw the report's chart to a file.

    Raises:
        ValueError: the file is neither .svg, .png nor .pdf.
    """
    CHARTS.get(report["benchmark"], figures.speed_bars)(report).save(path)


def _speed_columns(report: Report) -> Columns[Row]:
    return [
        ("", lambda row: row["title"]),
        ("images/s", lambda row: range_text(row["images_per_second"], ".0f")),
        ("over backprop", lambda row: range_text(row.get("over_backprop"), ".2f", "×")),
        ("bound", lambda row: shown(row.get("bound_over_backprop"), "{:.2f}×")),
        ("over published", lambda row: range_text(row.get("over_published"), ".1f", "×")),
        ("efficiency", lambda row: shown(row.get("efficiency"), "{:.0%}")),
        ("crosses a block", lambda row: row["locality"]),
    ]


def _memory_columns(report: Report) -> Columns[Row]:
    return [
        ("network", lambda row: row["network"]),
        ("", lambda row: row["title"]),
        ("training memory", lambda row: f"{row['training_bytes'] / 2**20:.0f} MiB"),
        ("over backprop", lambda row: shown(row.get("over_backprop"), "{:.2f}×")),
        ("held by the graph", lambda row: f"{row['saved_bytes'] / 2**20:.0f} MiB"),
        ("over backprop", lambda row: shown(row.get("saved_over_backprop"), "{:.2f}×")),
    ]


def _accuracy_columns(report: Report) -> Columns[Row]:
    return [
        ("", lambda row: row["name"]),
        ("seed", lambda row: str(row["seed"])),
        *(
            (f"s to {percent(t)}", lambda row, t=t: shown(row["seconds_to"][f"{t:g}"], "{:.1f}"))
            for t in report["thresholds"]
        ),
        ("last epoch", lambda row: percent(row["validation_accuracy"][-1])),
        ("images/s", lambda row: shown(row["images_per_second"][-1])),
    ]


def _accuracy_chart(report: Report) -> figures.Chart:
    return figures.seconds_curves(
        [
            (
                f"{row['name']}, seed {row['seed']}",
                [
                    {"seconds": seconds, "validation_accuracy": accuracy}
                    for seconds, accuracy in zip(
                        row["seconds_by_epoch"], row["validation_accuracy"], strict=True
                    )
                ],
                row["locality"] == "end-to-end",
            )
            for row in report["rows"]
        ]
    )


# By benchmark; the others are of images a second.
TABLES: dict[str, Callable[[Report], Columns[Row]]] = {
    "memory": _memory_columns,
    "accuracy": _accuracy_columns,
}
CHARTS: dict[str, Callable[[Report], figures.Chart]] = {
    "memory": figures.memory_curves,
    "accuracy": _accuracy_chart,
}


def measured_on(report: Report) -> str:
    """Return a line with hardware, versions, setting and date."""
    setting = _run_setting(report) if report["benchmark"] == "accuracy" else _synthetic_setting(report)
    parts = [report["hardware"], f"PyTorch {report['versions']['torch']}", setting]
    if "peak_multiply_adds_per_second" in report:
        peak = report["peak_multiply_adds_per_second"]
        parts.append(
            f"peak {peak['convolution'] / 1e9:.0f} (convolution) and {peak['matrix'] / 1e9:.0f} (matrix) "
            "G multiply-adds/s"
        )
    return "; ".join([*parts, report["date"]])


def _synthetic_setting(report: Report) -> str:
    network = f"{report['network']}, width {report['width']:g}, "
    rounds = f"{report['rounds']} round{'s' if report['rounds'] > 1 else ''}"
    if "steps_a_turn" in report:
        rounds += f" of {report['steps_a_turn']} batches"
    if "micro_batches" in report:
        rounds += f", {report['micro_batches']} micro-batches, one thread a process"
    return (
        f"{'' if report['benchmark'] == 'memory' else network}"
        f"{report['data'] + ', ' if 'data' in report else ''}"
        f"images {'×'.join(map(str, report['image_shape']))}, batch {report['batch_size']}, "
        f"{report['num_classes']} classes, {report['precision']}, {rounds}"
    )


def _run_setting(report: Report) -> str:
    config = report["rows"][0]["config"]
    return (
        f"{config['network']}, width {config['width']:g}, {config['data']['source']}, "
        f"{config['epochs']} epochs, batch {config['batch_size']}, {report['rows'][0]['precision']}"
    )


def range_text(value: Mapping[str, float] | None, form: str, unit: str = "") -> str:
    """Return the median with its range, or a dash for None."""
    if value is None:
        return DASH
    middle, low, high = (format(value[key], form) for key in ("median", "low", "high"))
    return f"{middle}{unit} ({low} to {high})"
