"""Tables about the fast trunk: what was tried on it, and how long it takes to an accuracy."""

import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
Cells = tuple[list[str], list[list[str]]]
VIEWS = ("none", "flip-shift")
# In seconds.
UNITS = {"seconds": 1, "minutes": 60}


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
    of_epoch = {row["row"].rpartition(": ")[2]: row["multiply_adds_per_epoch"] / 1e12 for row in work}
    body = []
    for name, runs in _by_row(rows).items():
        reached = [_reached(runs, str(goal), "epoch", unit=of_epoch[name]) for goal in thresholds]
        body.append([name, runs[0]["locality"], *reached, str(len(runs))])
    percents = [f"to {100 * threshold:.3g}%" for threshold in thresholds]
    return ["", "crosses a block", *percents, "n"], body


def trunk_whole(rows: Sequence[Row], *, unit: str = "minutes") -> Cells:
    """Training time and test accuracy of the runs that kept no image for validation."""
    body = []
    for name, runs in _by_row(rows).items():
        times = _spread([run["seconds"] / UNITS[unit] for run in runs], digits=1)
        title = name.removesuffix(", all images")
        body.append([title, runs[0]["locality"], times, *_tests(runs), str(len(runs))])
    return ["", "crosses a block", unit, "test", "test, views averaged", "n"], body


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
    return {name.rpartition(": ")[2]: [row for row in rows if row["row"] == name] for name in names}


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
