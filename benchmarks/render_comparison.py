"""Tables of methods on equal work for docs/, from the result files in benchmarks/results/compared/."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

from render_experiments import made_with
from render_experiments import rows_of as experiment_rows
from trifecta.comparison import (
    COMPARISONS,
    RIVALS,
    Images,
    Record,
    accuracy_of,
    compare,
    comparison_chart,
    comparison_recipes,
    comparison_table,
)
from trifecta.counts import counts
from trifecta.data import DataConfig
from trifecta.experiments import RowSummary, StoredRun, plan, read_results, summarise
from trifecta.network import build_network
from trifecta.report.terminal import Columns, cells_of, markdown, shown

ROOT = Path(__file__).parent.parent
NETWORK, SEEDS = "small", 3
IMAGES = {"cifar10": Images((3, 32, 32), 10), "fashion_mnist": Images((1, 28, 28), 10)}
OURS = "superfecta"
SHORT_ROWS = (
    "superfecta",
    "superfecta-small-heads",
    "mono-forward",
    "tierce",
    "class-groups",
    "trifecta",
    "ff",
    "backprop",
    "backprop-muon",
    "backprop-muon-classifier",
    "backprop-muon-wide",
    "deep-supervision-muon-classifier",
)
THRESHOLDS = {
    ("cifar10", "grid"): (0.5, 0.6),
    ("cifar10", "cpu"): (0.6, 0.7),
    ("fashion_mnist", "grid"): (0.8, 0.85),
}


@cache
def rows_of(data: str, budget: str) -> list[RowSummary]:
    """Every row with all seeds that there are; at budgets other than ``grid`` only what was measured."""
    recipes = comparison_recipes(
        list(COMPARISONS),
        [NETWORK],
        DataConfig(source=data),
        budget=budget,
        find_images=lambda: IMAGES[data],
    )
    runs = plan(recipes, budget=budget, seeds=SEEDS)
    rows = [_with_counts(row, data) for row in summarise(runs, stored())]
    return rows if budget == "grid" else [row for row in rows if row.runs]


@cache
def stored() -> list[StoredRun]:
    """The runs of all comparisons."""
    return read_results(ROOT / "benchmarks" / "results" / "compared")


def _with_counts(row: RowSummary, data: str) -> RowSummary:
    """Add to older results what is counted, if the network is still the same."""
    method = row.config.method
    if all("block_parameters" in run.result for run in row.runs):
        return row
    network = build_network(
        method,
        row.config.network,
        sample_shape=IMAGES[data].image_shape,
        num_classes=IMAGES[data].num_classes,
        width=row.config.width,
    )
    found = counts(network, batch_size=row.config.batch_size)
    if any(run.result["parameters"] != found["parameters"] for run in row.runs):
        return row
    if method.optimizer.freeze_from < 1 or (method.finds_superclasses and not method.superclasses):
        # When blocks freeze follows from the number of images, what they learn from the images themselves.
        del found["multiply_adds_per_image"]
    return replace(row, runs=[replace(run, result=found | run.result) for run in row.runs])


def comparison(data: str, budget: str) -> str:
    """The rows by accuracy, and in which order their papers' figures would have them."""
    rows = rows_of(data, budget)
    if not any(row.runs for row in rows):
        return "Not measured.\n"
    head, body = comparison_table(rows, THRESHOLDS[data, budget])
    order = _order(rows) if data == "cifar10" and budget == "grid" else ""
    return markdown(head, body) + made_with(rows) + _beside_rivals(rows) + order


@cache
def records_of(data: str, budget: str) -> dict[str, Record]:
    """What is known of each row, by its name."""
    rows = rows_of(data, budget)
    names = [row.recipe.title.partition(",")[0] for row in rows]
    return dict(zip(names, compare(rows), strict=True))


def memory_beside_backprop(data: str, budget: str) -> tuple[float, float]:
    """Training memory of the default method and of backprop with its optimizer, in MiB."""
    records = records_of(data, budget)
    ours, other = (records[name]["training_bytes"] / 2**20 for name in (OURS, "backprop-muon"))
    return ours, other


def short_comparison(data: str, budget: str) -> str:
    """The README's rows by accuracy, with what is not equal between them."""
    records = records_of(data, budget)
    rows = rows_of(data, budget)
    columns: Columns[str] = [
        ("", lambda name: f"`{name}`"),
        ("test accuracy", lambda name: accuracy_of(records[name])),
        ("parameters", lambda name: shown(records[name]["parameters"])),
        ("in blocks", lambda name: shown(records[name]["block_parameters"])),
        ("multiply-adds", lambda name: f"{records[name]['multiply_adds_per_image'] / 1e6:.1f} M"),
        ("crosses a block", lambda name: records[name]["locality"]),
    ]
    chosen = sorted(SHORT_ROWS, key=lambda name: -(records[name]["accuracy"] or 0))
    shown_rows = [row for row in rows if row.recipe.title.partition(",")[0] in chosen]
    return markdown(*cells_of(chosen, columns)) + made_with(shown_rows)


def side_by_side(table: str, budget: str) -> str:
    """The rows of a table that were made, beside plain backprop: accuracy, speed, locality."""
    rows = [_with_counts(row, "cifar10") for row in experiment_rows(table, budget=budget) if row.runs]
    if not rows:
        return "Not measured.\n"
    head, body = comparison_table(rows, ())
    # Memory was not asked for.
    kept = [k for k, column in enumerate(zip(*body, strict=True)) if set(column) != {"–"}]
    return markdown([head[k] for k in kept], [[cells[k] for k in kept] for cells in body]) + made_with(rows)


def draw_accuracy(path: Path, *, data: str, budget: str) -> None:
    """Validation accuracy over seconds, if any run was timed."""
    rows = rows_of(data, budget)
    if any(run.timed for row in rows for run in row.runs):
        comparison_chart(rows).save(path)


def _beside_rivals(rows: Sequence[RowSummary]) -> str:
    """By how much superfecta differs from each of its rivals that were made, and at which cost."""
    records = {record["recipe"]: record for record in compare(rows)}
    data = rows[0].recipe.data.source
    own = records[f"compared-{OURS}-{NETWORK}-{data}"]
    lines = []
    for name in ("backprop", *RIVALS):
        rival = records.get(f"compared-{name}-{NETWORK}-{data}")
        if rival is None or own["accuracy"] is None or rival["accuracy"] is None:
            continue
        points = own["accuracy"] - rival["accuracy"]
        parameters, work = (
            f"{own[figure] / rival[figure]:.2f}×" if own[figure] and rival[figure] else "–"
            for figure in ("parameters", "multiply_adds_per_image")
        )
        lines.append(
            f"- {points:+.2f} points against *{name}*, with {parameters} the parameters and {work} the "
            "multiply-adds\n"
        )
    return f"\n*{OURS}* compared with its rivals:\n\n{''.join(lines)}" if lines else ""


def _order(rows: Sequence[RowSummary]) -> str:
    """How many pairs of rows stand in the order of their published figures, and which rows do not."""
    both = [
        (record["published"], record["accuracy"], row.recipe.base.method.name)
        for record, row in zip(compare(rows), rows, strict=True)
        if record["accuracy"] is not None and record["published"] is not None
    ]
    pairs = [(a, b) for a, b in combinations(sorted(both), 2) if a[0] < b[0]]
    if not pairs:
        return ""
    turned = [(a[2], b[2]) for a, b in pairs if a[1] > b[1]]
    names = "; ".join(f"*{a}* ahead of *{b}*" for a, b in turned) or "none"
    return (
        f"\nOf {len(pairs)} pairs of rows with published figures, {len(pairs) - len(turned)} are in the "
        f"published order. Reversed here: {names}.\n"
    )
