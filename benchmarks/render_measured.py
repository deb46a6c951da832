"""Tables of what scripts measured: CUDA graphs, several processes, the fast trunk, soak tests."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trifecta.report.terminal import Cells, Columns, cells_of

Row = dict[str, Any]
VIEWS = ("none", "flip-shift")
# In seconds.
UNITS = {"seconds": 1, "minutes": 60}
# Its steps are never recorded.
PUBLISHED = "published"


def replayed(launched: Sequence[Row], recorded: Sequence[Row]) -> Cells:
    """Images a second of every row, launched kernel by kernel and ``recorded``, network by network."""

    def speeds(reports: Sequence[Row]) -> dict[tuple[str, str], float]:
        return {
            (report["network"], row["title"]): row["images_per_second"]["median"]
            for report in reports
            for row in report["rows"]
            if row["name"] != PUBLISHED
        }

    then, now = speeds(launched), speeds(recorded)
    columns: Columns[tuple[str, str]] = [
        ("network", lambda row: row[0]),
        ("", lambda row: row[1]),
        ("launched one by one", lambda row: f"{then[row]:,.0f}"),
        ("replayed", lambda row: f"{now[row]:,.0f}"),
        ("ratio", lambda row: f"{now[row] / then[row]:.1f}×"),
    ]
    return cells_of(now, columns)


def checked_simulator(rows: Sequence[Row]) -> Cells:
    """Seconds a step, measured and predicted."""
    columns: Columns[Row] = [
        ("blocks", lambda row: row["kind"]),
        ("layout", lambda row: row["layout"]),
        ("processes", lambda row: str(row["processes"])),
        ("ms a step", lambda row: f"{1000 * row['seconds_a_step']:.0f}"),
        ("predicted", lambda row: f"{1000 * row['predicted']:.0f}"),
        ("error", lambda row: f"{100 * row['error']:+.1f}%"),
    ]
    return cells_of(rows, columns)


def predictions(rows: Sequence[Row]) -> Cells:
    """Speed-up over one device, by link, layout and number of devices."""
    devices = list(dict.fromkeys(n for row in rows for n in row["gain"]))
    columns: Columns[Row] = [
        ("link", lambda row: row["link"]),
        ("layout", lambda row: row["layout"]),
        *((f"{int(n):,}", lambda row, n=n: _times(row["gain"].get(n))) for n in devices),
    ]
    return cells_of(rows, columns)


def _times(gain: float | None) -> str:
    if gain is None:
        return "–"
    return f"{gain:,.0f}×" if gain >= 100 else f"{gain:.3g}×"


def hosts(rows: Sequence[Row]) -> Cells:
    """Images a second on two emulated hosts, by the rate of their link."""
    layouts = list(dict.fromkeys(row["layout"] for row in rows if row["rate"]))
    alone = next((row["images_per_second"] for row in rows if not row["rate"]), None)
    body = []
    for rate in dict.fromkeys(row["rate"] for row in rows if row["rate"]):
        own = {row["layout"]: row["images_per_second"] for row in rows if row["rate"] == rate}
        cells = [f"{own[layout]:,.0f} ({own[layout] / alone:.2f}×)" if alone else "–" for layout in layouts]
        body.append([rate, *cells])
    if alone is not None:
        body.append(["one process", f"{alone:,.0f}", *[""] * (len(layouts) - 1)])
    return ["link", *(f"{layout}, images/s" for layout in layouts)], body


def round_of(row: Row) -> str:
    """The round of a variant of the search or of a row of the times; the first has no number."""
    number, _, _ = _name(row).rpartition(": ")
    return number or "1"


def _name(row: Row) -> str:
    return str(row["variant"] if "variant" in row else row["row"])


def trunk_search(rows: Sequence[Row]) -> Cells:
    """Validation accuracy of variants."""
    body = []
    for row in rows:
        fused = row["readout_accuracy"]
        accuracies = [f"{100 * fused[readout]:.1f}%" for readout in ("last", "all-but-first")]
        name = _name(row).rpartition(": ")[2]
        body.append([name, str(row["settings"]["epochs"]), *accuracies])
    return ["", "epochs", "last block", "all but the first"], body


def trunk_optimizers(rows: Sequence[Row], *, block: int) -> Cells:
    """Validation accuracy, and the directions that features fill, of one block (from 0) and of the last."""
    body = []
    for row in rows:
        accuracies = [row["block_accuracy"][k] for k in (block, -1)]
        shown = ["–" if value is None else f"{100 * value:.1f}%" for value in accuracies]
        filled = [f"{row['directions'][k]:.0f}" for k in (block, -1)]
        body.append([_name(row), *shown, *filled])
    name = f"block {block + 1}"
    return ["", name, "last block", f"directions of {name}", "of the last block"], body


def trunk_times(rows: Sequence[Row], thresholds: Sequence[float]) -> Cells:
    """Seconds to each threshold, then test accuracy by the views that are averaged; a row for each row."""
    body = []
    for name, runs in _by_row(rows).items():
        reached = [_reached(runs, threshold, "seconds") for threshold in map(str, thresholds)]
        parameters = f"{runs[0]['parameters'] / 1e6:.1f} M"
        body.append([name, runs[0]["locality"], parameters, *reached, *_tests(runs), str(len(runs))])
    percents = [f"s to {100 * threshold:.3g}%" for threshold in thresholds]
    return ["", "crosses a block", "parameters", *percents, "test", "test, views averaged", "n"], body


def trunk_work(rows: Sequence[Row], thresholds: Sequence[float], *, work: Sequence[Row]) -> Cells:
    """Multiply-adds to each threshold, in units of 10¹²; ``work`` has those of an epoch by row."""
    of_epoch = {_title(row["row"]): row["multiply_adds_per_epoch"] / 1e12 for row in work}
    body = []
    for name, runs in _by_row(rows).items():
        reached = [_reached(runs, str(goal), "epoch", unit=of_epoch[name]) for goal in thresholds]
        body.append([name, runs[0]["locality"], *reached, str(len(runs))])
    percents = [f"to {100 * threshold:.3g}%" for threshold in thresholds]
    return ["", "crosses a block", *percents, "n"], body


PLAIN_NAMES = {
    "overlapping threes": "overlapping windows of three blocks",
    "two modules": "two windows of three blocks",
}


def trunk_whole(rows: Sequence[Row], *, unit: str = "minutes", leave_out: Sequence[str] = ()) -> Cells:
    """Training time and test accuracy of the runs that kept no image for validation."""
    body = []
    for name, runs in _by_row(rows).items():
        times = _spread([run["seconds"] / UNITS[unit] for run in runs], digits=1)
        title = name.removesuffix(", all images")
        if title in leave_out:
            continue
        body.append([title, runs[0]["locality"], times, *_tests(runs), str(len(runs))])
    return ["", "crosses a block", unit, "test accuracy, %", "views averaged, %", "n"], body


def returned_blocks(reports: Sequence[Row]) -> Cells:
    """Images a second where glibc keeps freed blocks, and where it returns them at once."""
    body = []
    for row in (row for report in reports for row in report["rows"]):
        ratio = "{median:.2f}× ({low:.2f} to {high:.2f})".format(**row["returned_over_kept"])
        body.append([row["name"], f"{row['kept']:.0f}", f"{row['returned']:.0f}", ratio])
    return ["", "images/s", "blocks returned at once", "over default"], body


def _by_row(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Runs by the name of their row."""
    names = dict.fromkeys(_name(row) for row in rows)
    return {_title(name): [row for row in rows if row["row"] == name] for name in names}


def _title(name: str) -> str:
    """Return a row's name in a reader's words."""
    title = name.rpartition(": ")[2]
    for short, plain in PLAIN_NAMES.items():
        title = title.replace(short, plain)
    return title


def _tests(runs: Sequence[Row]) -> list[str]:
    """Test accuracy as images are, and with views averaged."""
    return [
        _spread([100 * run["test_accuracy"][view] for run in runs])
        if view in runs[0]["test_accuracy"]
        else "–"
        for view in VIEWS
    ]


def _reached(runs: Sequence[Row], threshold: str, what: str, *, unit: float = 1) -> str:
    """Mean seconds, or epochs, times ``unit`` where all runs reached it; else how many did."""
    taken = [run["reached"][threshold][what] * unit for run in runs if threshold in run["reached"]]
    if len(taken) < len(runs):
        return f"{len(taken)} of {len(runs)} runs" if taken else "–"
    return _spread(taken, digits=1)


def _spread(values: Sequence[float], *, digits: int = 2) -> str:
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def soak(folder: Path) -> str:
    """Each part of `make soak` with what was done and what failed, from its latest result file."""
    files = sorted(folder.glob("soak_*.json"), key=lambda file: file.stem.split("_")[-1])
    if not files:
        return "Not measured.\n"
    record = json.loads(files[-1].read_text())
    lines = ["| part | done | failed |", "|---|---|---|"]
    lines += [f"| {name} | {_done(part)} | {part['failed']} |" for name, part in record["parts"].items()]
    made = f"{record['hardware']}; PyTorch {record['versions']['torch']}; {record['date']}; `make soak`"
    return "\n".join(lines) + f"\n\n{made}.\n"


def _done(part: dict[str, Any]) -> str:
    if "moments" in part:
        moments = ", ".join(f"{count} {name}" for name, count in part["moments"].items())
        return f"{sum(part['moments'].values())} kills ({moments}) in {part['runs']} trainings"
    if "growth" in part:
        grown = ", ".join(
            f"{n.replace('_', ' ')} {100 * share:+.2f}%" for n, share in part["growth"].items()
        )
        return f"{part['times']:,}: {grown}"
    cases: dict[str, int] = part["cases"]
    by_status: dict[str, int] = {}
    for name, count in cases.items():
        status = name.split(": ")[1]
        by_status[status] = by_status.get(status, 0) + count
    statuses = ", ".join(f"{count:,} × {status}" for status, count in sorted(by_status.items()))
    return f"{sum(cases.values()):,} cases; exit statuses {statuses}"
