"""Tables of reproduced experiments for docs/, from the result files in benchmarks/results/reproduced/."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from trifecta.experiments import (
    NOT_MEASURED,
    Estimate,
    RowSummary,
    StoredRun,
    accuracy_text,
    depth_chart,
    effect_table,
    effects_of,
    plan,
    read_results,
    row_table,
    sources,
    summarise,
)
from trifecta.recipes import FACTORS, get_table
from trifecta.report.terminal import markdown

ROOT = Path(__file__).parent.parent
SEEDS = 3
# Choices of the published code, each away from what the library does.
PUBLISHED_CHOICES = (
    "two-states",
    "idle-last",
    "restarts",
    "constant-rate",
    "constants",
    "augmented",
    "published",
)
READOUTS = ("last", "last-half", "all-but-first", "all")
DEPTH_TABLE = "ablation-large-cifar10"
# Two corners of the grid.
DEPTH_ROWS: dict[tuple[str, ...], str] = {
    ("symmetric", "batch", "overlapping"): "Trifecta",
    ("threshold", "length", "layer-wise"): "plain FF",
}


@cache
def stored() -> list[StoredRun]:
    """The runs of all tables."""
    return read_results(ROOT / "benchmarks" / "results" / "reproduced")


@cache
def rows_of(table: str, *, budget: str | None = None) -> list[RowSummary]:
    """A table's rows with all seeds that there are, up to ``SEEDS``."""
    wanted = get_table(table)
    runs = plan(wanted.recipes, budget=budget or wanted.budget, seeds=SEEDS)
    return summarise(runs, stored())


def experiments(table: str) -> str:
    """Published beside ours, at the table's budget and larger ones: those that have a figure."""
    night = night_rows(table)
    full = [row for row in rows_of(table, budget="full") if row.recipe.published is not None or row.runs]
    rows = [*rows_of(table), *night, *full]
    notes = "".join(f"\n{note}\n" for note in sources(rows))
    return markdown(*row_table(rows)) + notes + made_with(rows)


def night_rows(table: str) -> list[RowSummary]:
    """The rows of a table that have a run of budget *night*."""
    return [row for row in rows_of(table, budget="night") if row.runs]


def grid(table: str) -> str:
    """The cells of a grid by factor, and what the factors do."""
    wanted, rows = get_table(table), rows_of(table)
    head = [*FACTORS, "last block", "all but the first"]
    body = [[*wanted.cells[row.recipe.name], *_accuracies(row, ("last", "all-but-first"))] for row in rows]
    effects = effect_table(wanted, rows)
    shown = markdown(*effects) if effects[1] else "Effects: not measured.\n"
    return f"{markdown(head, body)}\n{shown}{made_with(rows)}"


def deviations() -> str:
    """What each choice of the published code is worth, beside the Trifecta as it is here."""
    rows = {row.recipe.name.removesuffix("-small-cifar10"): row for row in rows_of("factors")}
    unchanged = rows["ablation-symmetric-batch-overlapping"]
    wanted = [unchanged, *(rows[f"factor-{name}"] for name in PUBLISHED_CHOICES)]
    body = [[row.recipe.title, *_accuracies(row, ("last",)), _less(row, unchanged)] for row in wanted]
    pair = [rows_by_name("ablation-small-cifar10")["ablation-threshold-length-layer-wise-small-cifar10"]]
    pair.append(rows["factor-elementwise"])
    body += [[row.recipe.title, *_accuracies(row, ("last",)), _less(row, pair[0])] for row in pair]
    return markdown(["", "test accuracy", "points"], body) + made_with([*wanted, *pair])


def rows_by_name(table: str) -> dict[str, RowSummary]:
    """A table's rows by the names of their recipes."""
    return {row.recipe.name: row for row in rows_of(table)}


def _less(row: RowSummary, other: RowSummary) -> str:
    """Mean difference in points."""
    if row is other or row.accuracy is None or other.accuracy is None:
        return "–"
    return f"{row.accuracy.mean - other.accuracy.mean:+.1f}"


def grid_by_depth(data: str) -> str:
    """Every effect in 6 and in 12 blocks."""
    effects = []
    for network in ("small", "large"):
        table = f"ablation-{network}-{data}"
        effects.append(effects_of(get_table(table), rows_of(table)))
    shallow, deep = effects
    body = [[name, _points(shallow.get(name)), _points(deep.get(name))] for name in shallow]
    return markdown(["effect, points", "6 blocks", "12 blocks"], body) if body else "Not measured.\n"


def grid_ends(table: str) -> str:
    """The cells of a grid by factor: accuracy of the first block alone, of the middle one, of the last."""
    wanted, rows = get_table(table), rows_of(table)
    if not all(row.runs for row in rows):
        return "Not measured.\n"
    body = []
    for row in rows:
        blocks = row.blocks()
        ends = (blocks[0], blocks[len(blocks) // 2 - 1], blocks[-1])
        body.append([*wanted.cells[row.recipe.name], *map(_percent, ends)])
    return markdown([*FACTORS, "first block", "middle block", "last block"], body) + made_with(rows)


def readouts(table: str) -> str:
    """Rows by read-out."""
    rows = rows_of(table)
    body = [[row.recipe.title, *_accuracies(row, READOUTS)] for row in rows]
    return markdown(["", *READOUTS], body) + made_with(rows)


def depth() -> str:
    """Test accuracy of every block alone in the deep network."""
    rows = _depth_rows()
    if not all(row.runs for row in rows):
        return "Not measured.\n"
    columns = [row.blocks() for row in rows]
    body = [[str(block), *map(_percent, values)] for block, values in enumerate(zip(*columns, strict=True))]
    head = ["block", *(f"{row.recipe.title} (n = {len(row.runs)})" for row in rows)]
    return markdown(head, body) + made_with(rows)


def draw_depth(path: Path) -> None:
    """The same as a figure, if there is anything to draw."""
    rows = _depth_rows()
    if all(row.runs for row in rows):
        depth_chart(rows).save(path)


def made_with(rows: Sequence[RowSummary]) -> str:
    """Settings of size, hardware, versions and dates behind the rows, in one paragraph."""
    made: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        for result in (run.result for run in row.runs):
            size = f"Budget {row.budget}, width {result['width']:g}, batch {result['batch_size']}"
            versions = f"PyTorch {result['versions']['torch']}, Python {result['versions']['python']}"
            machine = f"{result['hardware']}, {result['precision']}, {versions}"
            made.setdefault(size, {}).setdefault(machine, set()).add(result["date"])
    notes = [
        f"{size}: "
        + "; ".join(f"{machine} ({', '.join(sorted(days))})" for machine, days in sorted(own.items()))
        for size, own in sorted(made.items())
    ]
    return f"\n{'. '.join(notes)}.\n" if notes else ""


def _depth_rows() -> list[RowSummary]:
    cells = get_table(DEPTH_TABLE).cells
    return [
        replace(row, recipe=replace(row.recipe, title=DEPTH_ROWS[cells[row.recipe.name]]))
        for row in rows_of(DEPTH_TABLE)
        if cells[row.recipe.name] in DEPTH_ROWS
    ]


def _accuracies(row: RowSummary, readouts: Sequence[str]) -> list[str]:
    estimates = [
        Estimate.of(100 * run.result["readout_accuracy"][name] for run in row.runs) for name in readouts
    ]
    return [accuracy_text(estimate) for estimate in estimates]


def _percent(estimate: Estimate | None) -> str:
    return NOT_MEASURED if estimate is None else f"{estimate:.2f}%"


def _points(estimate: Estimate | None) -> str:
    return NOT_MEASURED if estimate is None else f"{estimate:+.2f} (n = {estimate.n})"
