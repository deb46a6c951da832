"""Benchmark reports as tables and figures. matplotlib is imported where it is used."""

from collections.abc import Iterable, Mapping
from itertools import accumulate, cycle
from pathlib import Path
from typing import Any

from trifecta.report.terminal import percent, plain_console, simple_table

Report = Mapping[str, Any]
LOCAL, END_TO_END, PLAIN = "#1a7f5a", "#c2453d", "#8a8a8a"
FIGURES = (".svg", ".png", ".pdf")


def bench_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """The heading and the cells of a report, for a terminal or a page."""
    tables = {"memory": _memory_table, "accuracy": _accuracy_table, "scaling": _scaling_table}
    return tables.get(report["benchmark"], _speed_table)(report)


def print_bench(report: Report) -> None:
    """The table, and below it on what it was measured."""
    head, body = bench_table(report)
    console = plain_console()
    console.print(simple_table(head, body))
    console.print(measured_on(report), soft_wrap=True)


def measured_on(report: Report) -> str:
    """Hardware, versions, setting and date, in a line."""
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
    one = report["benchmark"] != "memory"
    network = f"{report['network']}, width {report['width']:g}, " if one else ""
    images = f"images {'×'.join(map(str, report['image_shape']))}"
    data = f"{report['data']}, " if "data" in report else ""
    rounds = f"{report['rounds']} round{'s' if report['rounds'] > 1 else ''}"
    if "steps_a_turn" in report:
        rounds += f" of {report['steps_a_turn']} batches"
    if "micro_batches" in report:
        rounds += f", {report['micro_batches']} micro-batches, one thread a process"
    return (
        f"{network}{data}{images}, batch {report['batch_size']}, {report['num_classes']} classes, "
        f"{report['precision']}, {rounds}"
    )


def _run_setting(report: Report) -> str:
    config = report["rows"][0]["config"]
    return (
        f"{config['network']}, width {config['width']:g}, {config['data']['source']}, "
        f"{config['epochs']} epochs, batch {config['batch_size']}, {report['rows'][0]['precision']}"
    )


def check_figure(path: Path) -> None:
    """Refuse a kind of file that is not drawn, before hours are spent on its figures.

    Raises:
        ValueError: neither .svg, .png nor .pdf.
    """
    if path.suffix not in FIGURES:
        raise ValueError(f"a figure is {', '.join(FIGURES)}: received '{path.name}'")


def draw_bench(report: Report, path: Path) -> None:
    """One figure: bars for speed and inference, lines over depth for memory, curves for accuracy."""
    check_figure(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawings = {"memory": _draw_memory, "accuracy": _draw_accuracy}
    draw = drawings.get(report["benchmark"], _draw_speed)
    with rc_context({"svg.hashsalt": "trifecta", "font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, report)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _speed_table(report: Report) -> tuple[list[str], list[list[str]]]:
    head = ["", "images/s", "over backprop", "bound", "over published", "efficiency", "crosses a block"]
    body = [
        [
            row["title"],
            _spread(row["images_per_second"], ".0f"),
            _spread(row.get("over_backprop"), ".2f", "×"),
            _times(row.get("bound_over_backprop")),
            _spread(row.get("over_published"), ".1f", "×"),
            f"{100 * row['efficiency']:.0f}%" if "efficiency" in row else "–",
            row["locality"],
        ]
        for row in report["rows"]
    ]
    return head, body


def _memory_table(report: Report) -> tuple[list[str], list[list[str]]]:
    head = ["network", "", "training memory", "over backprop", "held by the graph", "over backprop"]
    body = [
        [
            row["network"],
            row["title"],
            f"{row['training_bytes'] / 2**20:.0f} MiB",
            _times(row.get("over_backprop")),
            f"{row['saved_bytes'] / 2**20:.0f} MiB",
            _times(row.get("saved_over_backprop")),
        ]
        for row in report["rows"]
    ]
    return head, body


def _scaling_table(report: Report) -> tuple[list[str], list[list[str]]]:
    head = ["", "processes", "images/s", "over one process", "over 1F1B"]
    head += ["resident MiB", "counted MiB", "crosses a block"]
    body = [
        [
            row["title"],
            str(len(row["resident_bytes"])),
            _spread(row["images_per_second"], ".0f"),
            _spread(row.get("over_one_process"), ".2f", "×"),
            _spread(row.get("over_1f1b"), ".2f", "×"),
            _mebibytes(row["resident_bytes"]),
            _mebibytes(map(sum, zip(row["model_bytes"], row["saved_bytes"], strict=True))),
            row["locality"],
        ]
        for row in report["rows"]
    ]
    return head, body


def _accuracy_table(report: Report) -> tuple[list[str], list[list[str]]]:
    thresholds = [f"{t:g}" for t in report["thresholds"]]
    head = ["", "seed", *(f"s to {percent(float(t))}" for t in thresholds), "last epoch", "images/s"]
    body = []
    for row in report["rows"]:
        reached = [row["seconds_to"][t] for t in thresholds]
        body.append(
            [
                row["name"],
                str(row["seed"]),
                *("–" if seconds is None else f"{seconds:.1f}" for seconds in reached),
                percent(row["validation_accuracy"][-1]),
                f"{row['images_per_second'][-1]:,.0f}",
            ]
        )
    return head, body


def _draw_speed(axes: Any, report: Report) -> None:
    rows = report["rows"][::-1]
    values = [row["images_per_second"] for row in rows]
    medians = [value["median"] for value in values]
    errors = [
        [value["median"] - value["low"] for value in values],
        [value["high"] - value["median"] for value in values],
    ]
    axes.barh([row["title"] for row in rows], medians, xerr=errors, color=[_color(row) for row in rows])
    axes.set(xlabel=f"images a second ({report['benchmark']})")


def _draw_memory(axes: Any, report: Report) -> None:
    equal = [row for row in report["rows"] if row["network"].startswith("equal:")]
    markers = cycle("os^DvPX*")
    for title in dict.fromkeys(row["title"] for row in equal):
        own = [row for row in equal if row["title"] == title]
        depths = [int(row["network"].split(":")[1]) for row in own]
        memory = [row["training_bytes"] / 2**20 for row in own]
        axes.plot(depths, memory, marker=next(markers), color=_color(own[0]), label=title)
    axes.set(xlabel="equal blocks", ylabel="training memory above the model, MiB", ylim=(0, None))
    _legend(axes)


def _draw_accuracy(axes: Any, report: Report) -> None:
    for row in report["rows"]:
        seconds = list(accumulate(row["seconds_by_epoch"]))
        axes.plot(
            seconds, row["validation_accuracy"], marker=".", label=f"{row['name']}, seed {row['seed']}"
        )
    axes.set(xlabel="seconds of training", ylabel="validation accuracy")
    _legend(axes)


def _legend(axes: Any) -> None:
    """Write the legend beside the axes, where it lies over no curve."""
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0, frameon=False)


def _color(row: Mapping[str, Any]) -> str:
    if row["name"] in ("published", "trifecta-plain-graph"):
        return PLAIN
    return END_TO_END if row["locality"] == "end-to-end" else LOCAL


def _spread(value: Mapping[str, float] | None, form: str, unit: str = "") -> str:
    if value is None:
        return "–"
    middle, low, high = (format(value[key], form) for key in ("median", "low", "high"))
    return f"{middle}{unit} ({low} to {high})"


def _mebibytes(values: Iterable[float]) -> str:
    return ", ".join(f"{value / 2**20:.0f}" for value in values)


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"
