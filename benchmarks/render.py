"""Write the figures of README.md and docs/ from the result files in benchmarks/.

A place for figures is a pair of comments, `<!-- figures: NAME -->` and `<!-- end of figures -->`. With
`--check` nothing is written and the status says whether anything would change.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from render_experiments import (
    depth,
    deviations,
    draw_depth,
    experiments,
    grid,
    grid_by_depth,
    grid_ends,
    readouts,
)
from render_league import draw_league, league, side_by_side
from trifecta.report.bench import bench_table, measured_on

ROOT = Path(__file__).parent.parent
PLACE = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end of figures -->)", flags=re.DOTALL)
Row = dict[str, Any]


def rows_of(what: str) -> list[Row]:
    """The rows of every result file about ``what``, oldest file first."""
    files = sorted((ROOT / "benchmarks").glob(f"{what}_*.jsonl"), key=lambda f: f.stem.split("_")[-1])
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def printed(what: str) -> str:
    """What a command printed when it was last recorded."""
    rows = rows_of(what)
    return f"```text\n{rows[-1]['printed']}\n```\n" if rows else "Not measured.\n"


def first_runs() -> str:
    """One row a recorded run: method, data, accuracy, seconds."""
    head = ["data", "method", "test accuracy", "seconds", "images/s", "epochs", "precision", "locality"]
    body = []
    for row in rows_of("first-runs"):
        result = row["result"]
        accuracy = f"{100 * result['test_accuracy']:.2f}%"
        seconds, speed = f"{result['seconds']:.0f}", f"{result['images_per_second']:,.0f}"
        rest = [str(result[key]) for key in ("epochs", "precision", "locality")]
        body.append([result["data"], result["method"], accuracy, seconds, speed, *rest])
    return table(head, body) + made_with([row["result"] for row in rows_of("first-runs")])


def spread(values: list[float]) -> list[str]:
    """Mean ± standard deviation, and how many."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return [f"{statistics.mean(values):.2f}{deviation}%", str(len(values))]


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table, or a plain statement that there is nothing to show."""
    if not body:
        return "Not measured.\n"
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def made_with(rows: list[Row]) -> str:
    """Hardware, versions and date behind the rows."""
    notes = {
        f"{row['hardware']}; PyTorch {row['versions']['torch']}, Python {row['versions']['python']}; "
        f"{row['date']}"
        for row in rows
    }
    return "".join(f"\n{note}.\n" for note in sorted(notes))


def benchmark(what: str, *, only: Callable[[Row], bool] = lambda row: True) -> str:
    """Every report that `trifecta bench` left: its table, and what it was measured on."""
    parts = []
    for report in rows_of(what):
        report["rows"] = [row for row in report["rows"] if only(row)]
        if report["rows"]:
            parts.append(f"{table(*bench_table(report))}\n{measured_on(report)}.\n")
    return "\n".join(parts) or "Not measured.\n"


def settled_accuracy() -> str:
    """Test accuracy by the share of `--skip-settled`."""
    cells: dict[tuple[str, float], list[Row]] = {}
    for row in rows_of("settled-accuracy"):
        key = (row["config"]["data"]["source"], row["config"]["method"]["objective"]["skip_settled"])
        cells.setdefault(key, []).append(row)
    body = []
    for (data, share), members in sorted(cells.items()):
        accuracies = [100 * member["result"]["test_accuracy"] for member in members]
        body.append([data, f"{share:g}" if share else "off", *spread(accuracies)])
    head = ["data", "`--skip-settled`", "test accuracy", "n"]
    return table(head, body) + made_with([row["result"] for row in rows_of("settled-accuracy")])


def shortlist() -> str:
    """Test accuracy by the number of labels kept."""
    body = []
    for row in rows_of("shortlist"):
        setting = f"{row['data']}, {row['network']} × {row['width']:g}, {row['epochs']} epochs"
        body.append([setting, *(f"{100 * value:.2f}%" for value in row["accuracy"].values())])
    if not body:
        return table([], [])
    kept = [f"{labels} labels" for labels in rows_of("shortlist")[-1]["accuracy"]]
    return table(["", *kept], body) + made_with(rows_of("shortlist"))


def search(*, width: float) -> str:
    """Validation accuracy of what was tried on the way to superfecta, in the round of one width."""
    body, rows = [], [row for row in rows_of("search") if row["settings"]["width"] == width]
    for row in rows:
        epochs = " ".join(f"{100 * value:.1f}" for value in row["validation_accuracy"])
        fused = row["readout_accuracy"]
        body.append(
            [row["variant"], epochs, *(f"{100 * fused[name]:.1f}%" for name in ("last", "all-but-first"))]
        )
    if not body:
        return "Not measured.\n"
    return table(["", "after each epoch, %", "last", "all but the first"], body) + made_with(rows)


FIGURES: dict[str, Callable[[], str]] = {
    "demo": lambda: printed("demo"),
    "test-suite": lambda: printed("test-suite"),
    "first-runs": first_runs,
    "deviations": deviations,
    "speed": lambda: benchmark("speed"),
    "inference": lambda: benchmark("inference"),
    "memory": lambda: benchmark("memory"),
    "memory-12": lambda: benchmark("memory", only=lambda row: row["network"].startswith("equal:12:")),
    "loading": lambda: benchmark("loading"),
    "settled": lambda: benchmark("settled"),
    "accuracy": lambda: benchmark("accuracy"),
    "settled-accuracy": settled_accuracy,
    "shortlist": shortlist,
    "paper-mnist": lambda: experiments("mnist"),
    "paper-fashion-mnist": lambda: experiments("fashion-mnist"),
    "paper-svhn": lambda: experiments("svhn"),
    "paper-cifar10": lambda: experiments("cifar10"),
    "grid-cifar10": lambda: grid("ablation-small-cifar10"),
    "grid-fashion-mnist": lambda: grid("ablation-small-fashion-mnist"),
    "grid-depth-cifar10": lambda: grid_by_depth("cifar10"),
    "grid-ends-cifar10": lambda: grid_ends("ablation-large-cifar10"),
    "factors": lambda: readouts("factors"),
    "batch-sizes": lambda: readouts("batch-sizes"),
    "depth": depth,
    "superfecta": lambda: readouts("superfecta"),
    "superfecta-cpu": lambda: side_by_side("superfecta", "cpu"),
    "superfecta-longer": lambda: side_by_side("superfecta-longer", "cpu"),
    "search": lambda: search(width=0.125),
    "search-hidden": lambda: search(width=0.25),
    "league-speed": lambda: benchmark("league-speed"),
    "league-memory": lambda: benchmark("league-memory"),
    "league-cifar10": lambda: league("cifar10", "grid"),
    "league-cifar10-cpu": lambda: league("cifar10", "cpu"),
    "league-fashion-mnist": lambda: league("fashion_mnist", "grid"),
}


def main() -> int:
    """Render every place; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether anything would change")
    check = parser.parse_args().check
    stale = []
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = file.read_text()
        fresh = PLACE.sub(lambda match: match[1] + FIGURES[match[2]]() + match[3], text)
        if fresh != text:
            stale.append(file.name)
            if not check:
                file.write_text(fresh)
    if not check:
        draw_depth(ROOT / "docs" / "depth.svg")
        draw_league(ROOT / "docs" / "league.svg", data="cifar10", budget="grid")
    if stale and check:
        print(f"figures differ from the result files in {', '.join(stale)}: run make docs", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
