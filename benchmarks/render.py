"""Write the figures of README.md and docs/ from the files in benchmarks/results/.

A place for figures is a pair of comments, `<!-- figures: NAME -->` and `<!-- end of figures -->`. With
`--check` nothing is written and the status says whether anything would change.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from muon_and_later_blocks import EARLIER
from render_comparison import (
    comparison,
    draw_accuracy,
    memory_beside_backprop,
    short_comparison,
    side_by_side,
)
from render_drawings import draw_overview, draw_scaling
from render_experiments import (
    depth,
    deviations,
    draw_depth,
    experiments,
    grid,
    grid_by_depth,
    grid_ends,
    night_rows,
    readouts,
)
from render_experiments import made_with as experiments_made_with
from render_experiments import rows_of as experiment_rows
from render_measured import (
    checked_simulator,
    hosts,
    predictions,
    replayed,
    returned_blocks,
    round_of,
    soak,
    trunk_optimizers,
    trunk_search,
    trunk_times,
    trunk_whole,
    trunk_work,
)
from render_night import DATA_SETS, night_fits, night_table, size_fit
from scaling import scaling_columns
from time_to_accuracy import THRESHOLDS
from trifecta.bench import bench_table, draw_bench, measured_on
from trifecta.report.terminal import Cells, cells_of

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DEEPEST = "48"
PLACE = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end of figures -->)", flags=re.DOTALL)
Row = dict[str, Any]


def rows_of(what: str) -> list[Row]:
    """The rows of every result file about ``what``, oldest file first."""
    files = sorted(RESULTS.glob(f"{what}_*.jsonl"), key=lambda f: f.stem.split("_")[-1])
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


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
    """Hardware, versions and dates behind the rows."""
    dates: dict[str, set[str]] = {}
    for row in rows:
        versions = row["versions"]
        made = f"{row['hardware']}; PyTorch {versions['torch']}, Python {versions['python']}"
        dates.setdefault(made, set()).add(row["date"])
    return "".join(f"\n{made}; {', '.join(sorted(days))}.\n" for made, days in sorted(dates.items()))


def benchmark(
    what: str,
    *,
    only: Callable[[Row], bool] = lambda row: True,
    where: Callable[[Row], bool] = lambda report: True,
    show: Callable[[Row], Cells] = bench_table,
) -> str:
    """Reports that `trifecta bench` left: their tables, and what they were measured on.

    Those ``where`` it holds, and of each the rows that ``only`` keeps.
    """
    parts = []
    for report in filter(where, rows_of(what)):
        report["rows"] = [row for row in report["rows"] if only(row)]
        if report["rows"]:
            parts.append(f"{table(*show(report))}\n{measured_on(report)}.\n")
    return "\n".join(parts) or "Not measured.\n"


def is_kept(row: Row) -> bool:
    """Whether a row is of something that is still in the library."""
    return not row["name"].endswith(("-recompute", "-compiled"))


def is_on_cpu(report: Row) -> bool:
    """Whether a report was measured on a CPU."""
    return str(report["device"]).startswith("cpu")


def is_basis(row: Row) -> bool:
    """Whether a row is what those that were left out must beat."""
    return row["name"] in ("trifecta", "class-groups", "backprop")


def left_out(what: str) -> str:
    """What was measured and left out, beside what it had to beat."""
    return benchmark(
        what,
        only=lambda row: not is_kept(row) or is_basis(row),
        where=lambda report: not all(map(is_kept, report["rows"])),
    )


def settled_accuracy() -> str:
    """Test accuracy by the share of `skip_settled`."""
    cells: dict[tuple[str, float], list[Row]] = {}
    for row in rows_of("settled-accuracy"):
        key = (row["config"]["data"]["source"], row["config"]["method"]["objective"]["skip_settled"])
        cells.setdefault(key, []).append(row)
    body = []
    for (data, share), members in sorted(cells.items()):
        accuracies = [100 * member["result"]["test_accuracy"] for member in members]
        body.append([data, f"{share:g}" if share else "off", *spread(accuracies)])
    head = ["data", "`skip_settled`", "test accuracy", "n"]
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


def many_classes() -> str:
    """Accuracy and cost of predictions among 100 classes."""
    rows = rows_of("many-classes")
    body = [
        [
            f"`{row['method']}`",
            "one pass" if row["labels"] is None else f"{row['labels'] or 'all'} labels",
            f"{100 * row['accuracy']:.2f}%",
            f"{row['multiply_adds'] / 1e6:,.0f} M",
            f"{1000 * row['seconds'] / row['test_images']:.1f}",
        ]
        for row in rows
    ]
    head = ["method", "to the last block", "test accuracy", "multiply-adds an image", "ms an image"]
    return table(head, body) + made_with(rows) if body else "Not measured.\n"


def search(what: str, *, width: float) -> str:
    """Validation accuracy of what was tried, in the round of one width."""
    body, rows = [], [row for row in rows_of(what) if row["settings"]["width"] == width]
    for row in rows:
        epochs = " ".join(f"{100 * value:.1f}" for value in row["validation_accuracy"])
        fused = row["readout_accuracy"]
        body.append(
            [row["variant"], epochs, *(f"{100 * fused[name]:.1f}%" for name in ("last", "all-but-first"))]
        )
    if not body:
        return "Not measured.\n"
    return table(["", "after each epoch, %", "last", "all but the first"], body) + made_with(rows)


def own_networks() -> str:
    """Test accuracy of the worked examples, each method for as many seconds."""
    rows = [row for row in rows_of("own-networks") if "test_accuracy" in row]
    body = [
        [
            row["example"],
            f"`{row['method']}`",
            f"{100 * row['test_accuracy']:.2f}%",
            f"{row['epochs']}",
            f"{row['seconds']:.0f}",
            f"{row['multiply_adds_per_image'] / 1e6:.0f} M",
            row["locality"],
        ]
        for row in rows
    ]
    head = ["", "", "test accuracy", "epochs", "seconds", "multiply-adds", "crosses a block"]
    return table(head, body) + made_with(rows)


def estimators() -> str:
    """The scikit-learn classifier beside scikit-learn's own: accuracy, log loss, seconds."""
    rows = rows_of("estimators")
    cells = {
        (row["classifier"], row["data"]): f"{100 * row['accuracy']:.1f} ± {100 * row['deviation']:.1f}%, "
        + (f"log loss {row['log_loss']:.2f}, " if "log_loss" in row else "")
        + f"{row['seconds']:.2f} s"
        for row in rows
    }
    names, sets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("classifier", "data"))
    body = [[f"`{name}`", *(cells[name, data] for data in sets)] for name in names]
    return table(["", *sets], body) + made_with(rows)


def shrinking() -> str:
    """Networks before and after they lost channels."""
    rows = rows_of("shrinking")
    body = [
        [
            f"{row['data']}, {kind}",
            f"{100 * row[kind]['test_accuracy']:.2f}%",
            f"{row[kind]['parameters']:,}",
            f"{row[kind]['multiply_adds_per_image'] / 1e6:.1f} M",
            f"{row[kind]['bytes'] / 2**10:,.0f} KiB",
        ]
        for row in rows
        for kind in ("whole", "smaller")
    ]
    head = ["", "test accuracy", "parameters", "multiply-adds of a training step", "file"]
    return table(head, body) + made_with(rows)


def own_memory() -> str:
    """Peak memory of training ResNet-18, by method and batch size."""
    rows = [row for row in rows_of("own-networks") if "peak_bytes" in row]
    sizes = sorted({row["batch_size"] for row in rows})
    taken = {(row["method"], row["batch_size"]): f"{row['peak_bytes'] / 2**20:,.0f}" for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    body = [[f"`{method}`", *(taken.get((method, size), "–") for size in sizes)] for method in methods]
    return table(["", *(f"batch {size}" for size in sizes)], body) + made_with(rows)


def searched_trunk(number: str) -> str:
    """One round of the search on the fast trunk."""
    rows = [row for row in rows_of("search-airbench") if round_of(row) == number]
    return table(*trunk_search(rows)) + made_with(rows)


def night_accuracies() -> str:
    """Every method's accuracy after a night, on three data sets, beside the published ones."""
    rows = {data: experiment_rows(data, budget="night") for data in DATA_SETS}
    made = [row for of_data in rows.values() for row in of_data if row.runs]
    return table(*night_table(rows)) + experiments_made_with(made)


def trunk(
    show: Callable[[Sequence[Row]], Cells], *rounds: str, cpu: bool = True, whole: bool = False
) -> str:
    """Rounds of runs on the fast trunk, on CPUs or GPUs, that kept images for validation or none.

    A table for each kind of hardware.
    """
    machines: dict[str, list[Row]] = {}
    for row in rows_of("times"):
        if (
            round_of(row) in rounds
            and ("NVIDIA" not in row["hardware"]) == cpu
            and (not row["settings"]["data"]["validation"]) == whole
        ):
            machines.setdefault(row["hardware"], []).append(row)
    return "\n".join(table(*show(rows)) + made_with(rows) for rows in machines.values())


def memory_in_words() -> str:
    """Training memory of superfecta and backprop, in a deep network and in the default one."""
    report = next(report for report in rows_of("compared-memory")[::-1] if _is_over_depth(report))
    held = {
        (row["network"].split(":")[1] if ":" in row["network"] else row["network"], row["name"]): row[
            "training_bytes"
        ]
        / 2**20
        for row in report["rows"]
    }
    deep, default = (
        (held[network, "superfecta"], held[network, "backprop-muon"]) for network in (DEEPEST, "small")
    )
    narrow = memory_beside_backprop("cifar10", "grid")
    return (
        f"On {DEEPEST} equal blocks of 128 channels, training `superfecta` takes {_against(*deep)}, "
        "because backprop keeps the activations of every block and `superfecta` those of one. On the "
        "default network `small`, whose first three blocks hold most of the activations, it takes "
        f"{_against(*default)}. On `small` at an eighth of its width, with two blocks training at the same "
        f"time, the classifiers outweigh the blocks, and it takes {_against(*narrow)}.\n"
    )


def _against(ours: float, other: float) -> str:
    return f"{ours:,.0f} MiB against backprop's {other:,.0f} ({ours / other:.2f}×)"


def checkpointing_in_words() -> str:
    """Checkpointed backprop beside local methods in the deepest network."""
    held = {
        row["name"]: row["training_bytes"]
        for row in _memory_over_depth()["rows"]
        if row["network"].startswith(f"equal:{DEEPEST}:")
    }
    shares = {name: f"{taken / held['backprop']:.2f}×" for name, taken in held.items()}
    return (
        f"On {DEEPEST} equal blocks checkpointing takes {shares['backprop-checkpointed']} backprop's "
        f"training memory, the Trifecta {shares['trifecta']}, and class groups {shares['class-groups']}.\n"
    )


def graphs() -> str:
    """What CUDA graphs gain."""
    launched = rows_of("speed-launched")
    recorded = [report for report in rows_of("speed") if not is_on_cpu(report)]
    made = sorted({measured_on(report).rpartition("; ")[2] for report in launched + recorded})
    return f"{table(*replayed(launched, recorded))}\n{launched[0]['hardware']}; {', '.join(made)}.\n"


def times_of(data: str) -> Callable[[Sequence[Row]], Cells]:
    """What shows seconds to the accuracies that count on a data set."""
    return partial(trunk_times, thresholds=THRESHOLDS[data])


def worked(data: str, *rounds: str, cpu: bool = True) -> str:
    """Multiply-adds to the accuracies that count on a data set."""
    work = [row for row in rows_of("work") if round_of(row) in rounds]
    show = partial(trunk_work, thresholds=THRESHOLDS[data], work=work)
    return f"{trunk(show, *rounds, cpu=cpu)}\nMultiply-adds of an epoch: {made_with(work).lstrip()}"


def cells(what: str, show: Callable[[list[Row]], tuple[list[str], list[list[str]]]]) -> str:
    """A table of the rows about ``what``, and what they were made with."""
    return table(*show(rows_of(what))) + made_with(rows_of(what))


FIGURES: dict[str, Callable[[], str]] = {
    **{f"trunk-search-{number}": partial(searched_trunk, number) for number in "1234567"},
    "speed-airbench": lambda: benchmark("speed-airbench"),
    "memory-airbench": lambda: benchmark("memory-airbench"),
    "memory-airbench-returned": lambda: benchmark("memory-airbench-returned"),
    "returned-blocks": lambda: cells("returned-blocks", returned_blocks),
    "memory-airbench-plain": lambda: benchmark("memory-airbench-plain"),
    "trunk-optimizers": lambda: cells("muon", partial(trunk_optimizers, block=EARLIER - 1)),
    "trunk-times": lambda: trunk(times_of("cifar10"), "3", "wide", cpu=False),
    "trunk-work": lambda: worked("cifar10", "3", "wide", cpu=False),
    "trunk-work-cpu": lambda: worked("cifar10", "3"),
    "trunk-work-mnist": lambda: worked("mnist", "MNIST"),
    "trunk-work-fashion-mnist": lambda: worked("fashion_mnist", "Fashion-MNIST"),
    "trunk-whole-gpu": lambda: trunk(
        partial(trunk_whole, unit="seconds"), "3", "wide", cpu=False, whole=True
    ),
    "readme-trunk": lambda: trunk(
        partial(
            trunk_whole,
            unit="seconds",
            leave_out=[
                "superfecta, overlapping windows of three blocks, 12 epochs",
                "superfecta, two windows of three blocks, 12 epochs",
            ],
        ),
        "3",
        "wide",
        cpu=False,
        whole=True,
    ),
    "trunk-times-cpu": lambda: trunk(times_of("cifar10"), "3"),
    "trunk-times-mnist": lambda: trunk(times_of("mnist"), "MNIST"),
    "trunk-times-fashion-mnist": lambda: trunk(times_of("fashion_mnist"), "Fashion-MNIST"),
    "trunk-whole": lambda: trunk(trunk_whole, "2", "3", whole=True),
    "scaling": lambda: benchmark(
        "scaling", show=lambda report: cells_of(report["rows"], scaling_columns())
    ),
    "scaling-check": lambda: cells("scaling-check", checked_simulator),
    "scaling-predicted": lambda: cells("scaling-predicted", predictions),
    "hosts": lambda: cells("hosts", hosts),
    "deviations": deviations,
    "speed": lambda: benchmark("speed", only=is_kept, where=is_on_cpu),
    "speed-gpu": lambda: benchmark("speed", where=lambda report: not is_on_cpu(report)),
    "speed-graphs": graphs,
    "left-out-speed": lambda: left_out("speed"),
    "left-out-memory": lambda: left_out("memory"),
    "inference": lambda: benchmark("inference"),
    "memory": lambda: benchmark("memory", only=is_kept, where=is_on_cpu),
    "memory-gpu": lambda: benchmark("memory", where=lambda report: not is_on_cpu(report)),
    "settled": lambda: benchmark("settled"),
    "accuracy": lambda: benchmark("accuracy"),
    "settled-accuracy": settled_accuracy,
    "shortlist": shortlist,
    "many-classes": many_classes,
    "soak": lambda: soak(RESULTS),
    "paper-mnist": lambda: experiments("mnist"),
    "paper-fashion-mnist": lambda: experiments("fashion-mnist"),
    "paper-svhn": lambda: experiments("svhn"),
    "paper-cifar10": lambda: experiments("cifar10"),
    "night-sizes": lambda: (
        table(*size_fit(rows_of("pilot-night"), night_rows("cifar10"))) + made_with(rows_of("pilot-night"))
    ),
    "night-table": night_accuracies,
    "night": lambda: (
        table(*night_fits(night_rows("cifar10"))) + experiments_made_with(night_rows("cifar10"))
    ),
    "grid-cifar10": lambda: grid("ablation-small-cifar10"),
    "grid-fashion-mnist": lambda: grid("ablation-small-fashion-mnist"),
    "grid-depth-cifar10": lambda: grid_by_depth("cifar10"),
    "grid-ends-cifar10": lambda: grid_ends("ablation-large-cifar10"),
    "factors": lambda: readouts("factors"),
    "batch-sizes": lambda: readouts("batch-sizes"),
    "depth": depth,
    "superfecta": lambda: readouts("superfecta"),
    "tierce": lambda: readouts("tierce"),
    "superfecta-cpu": lambda: side_by_side("superfecta", "cpu"),
    "superfecta-longer": lambda: side_by_side("superfecta-longer", "cpu"),
    "search": lambda: search("search", width=0.125),
    "search-hidden": lambda: search("search", width=0.25),
    "search-tierce": lambda: search("search-tierce", width=0.125),
    "compared-speed": lambda: benchmark("compared-speed"),
    "memory-in-words": memory_in_words,
    "checkpointing-in-words": checkpointing_in_words,
    "compared-memory": lambda: benchmark("compared-memory"),
    "own-networks": own_networks,
    "own-memory": own_memory,
    "shrinking": shrinking,
    "estimators": estimators,
    "readme": lambda: short_comparison("cifar10", "grid"),
    "compared-cifar10": lambda: comparison("cifar10", "grid"),
    "compared-cifar10-cpu": lambda: comparison("cifar10", "cpu"),
    "compared-fashion-mnist": lambda: comparison("fashion_mnist", "grid"),
}


def draw_memory_over_depth(path: Path) -> None:
    """Draw the README's picture from the newest report over depth."""
    reports = [report for report in rows_of("compared-memory") if _is_over_depth(report)]
    draw_overview(path, reports[-1])


DRAWINGS: dict[str, Callable[[Path], None]] = {
    "overview.svg": draw_memory_over_depth,
    "depth.svg": draw_depth,
    "memory.svg": lambda path: draw_bench(_memory_over_depth(), path),
    "scaling.svg": lambda path: draw_scaling(path, rows_of("scaling-predicted")),
    "comparison.svg": lambda path: draw_accuracy(path, data="cifar10", budget="grid"),
}


def main() -> int:
    """Render every place; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether anything would change")
    check = parser.parse_args().check
    fresh = {file: _filled(file) for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
    with TemporaryDirectory() as folder:
        for name, draw in DRAWINGS.items():
            draw(Path(folder) / name)
            fresh[ROOT / "docs" / name] = (Path(folder) / name).read_text()
    stale = [file for file, text in fresh.items() if not file.is_file() or file.read_text() != text]
    if check and stale:
        names = ", ".join(file.name for file in stale)
        print(f"figures differ from the result files in {names}: run make docs", file=sys.stderr)
        return 1
    for file in stale:
        file.write_text(fresh[file])
    return 0


def _filled(file: Path) -> str:
    return PLACE.sub(lambda match: match[1] + _figure(match[2]) + match[3], file.read_text())


@cache
def _figure(name: str) -> str:
    return FIGURES[name]()


def _memory_over_depth() -> Row:
    report = next(report for report in rows_of("memory") if _is_over_depth(report))
    return report | {"rows": [row for row in report["rows"] if is_kept(row)]}


def _is_over_depth(report: Row) -> bool:
    return any(row["network"].startswith(f"equal:{DEEPEST}:") for row in report["rows"])


if __name__ == "__main__":
    sys.exit(main())
