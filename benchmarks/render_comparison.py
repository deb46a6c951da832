"""Tables of methods on equal work for docs/, from the result files in benchmarks/results/compared/."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from render_experiments import made_with
from render_experiments import rows_of as experiment_rows
from trifecta.comparison import (
    COMPARISONS,
    RIVALS,
    comparison_command,
    comparison_recipes,
    published_elsewhere,
)
from trifecta.data import DataConfig
from trifecta.experiments import read_results
from trifecta.experiments.comparison import compare
from trifecta.experiments.comparison_report import comparison_table, draw_comparison
from trifecta.experiments.plan import plan_recipes
from trifecta.experiments.reproduction_report import NOT_MEASURED, accuracy_text, markdown
from trifecta.experiments.summary import RowSummary, summarise

ROOT = Path(__file__).parent.parent
NETWORK, SEEDS = "small", 3
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


def rows_of(data: str, budget: str) -> list[RowSummary]:
    """Every row with all seeds that there are; at budgets other than ``grid`` only what was measured."""
    recipes = comparison_recipes(list(COMPARISONS), [NETWORK], DataConfig(source=data))
    runs = plan_recipes(
        recipes, budget=budget, seeds=SEEDS, command=lambda recipe: comparison_command(recipe, budget)
    )
    rows = summarise(runs, read_results(ROOT / "benchmarks" / "results" / "compared"))
    return rows if budget == "grid" else [row for row in rows if row.runs]


def comparison(data: str, budget: str) -> str:
    """The rows by accuracy, and in which order their papers' figures would have them."""
    rows = rows_of(data, budget)
    if not any(row.runs for row in rows):
        return "Not measured.\n"
    head, body = comparison_table(rows, THRESHOLDS[data, budget])
    order = _order(rows) if data == "cifar10" and budget == "grid" else ""
    return markdown(head, body) + made_with(rows) + _beside_rivals(rows) + order


def memory_beside_backprop(data: str, budget: str) -> tuple[float, float]:
    """Training memory of the default method and of backprop with its optimizer, in MiB."""
    by_name = {row.summary.recipe.title.partition(",")[0]: row for row in compare(rows_of(data, budget))}
    ours, other = (by_name[name].figure("training_bytes") for name in (OURS, "backprop-muon"))
    assert ours is not None
    assert other is not None
    return ours / 2**20, other / 2**20


def short_comparison(data: str, budget: str) -> str:
    """The README's rows by accuracy, with what is not equal between them."""
    by_name = {row.summary.recipe.title.partition(",")[0]: row for row in compare(rows_of(data, budget))}
    chosen = [by_name[name] for name in SHORT_ROWS]
    chosen.sort(key=lambda row: -(row.summary.accuracy.mean if row.summary.accuracy else 0))
    body = [
        [
            f"`{row.summary.recipe.title.partition(',')[0]}`",
            NOT_MEASURED if row.summary.accuracy is None else accuracy_text(row.summary.accuracy),
            *(_number(row.figure(figure)) for figure in ("parameters", "block_parameters")),
            _millions(row.figure("multiply_adds_per_image")),
            row.summary.recipe.base.method.locality,
        ]
        for row in chosen
    ]
    head = ["", "test accuracy", "parameters", "in blocks", "multiply-adds", "crosses a block"]
    return markdown(head, body) + made_with([row.summary for row in chosen])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _millions(value: float | None) -> str:
    return "–" if value is None else f"{value / 1e6:.1f} M"


def side_by_side(table: str, budget: str) -> str:
    """The rows of a table that were made, beside plain backprop: accuracy, speed, locality."""
    rows = [row for row in experiment_rows(table, budget=budget) if row.runs]
    if not rows:
        return "Not measured.\n"
    head, body = comparison_table(rows, ())
    # Memory was not asked for.
    kept = [k for k, column in enumerate(zip(*body, strict=True)) if set(column) != {"–"}]
    return markdown([head[k] for k in kept], [[cells[k] for k in kept] for cells in body]) + made_with(rows)


def draw_accuracy(path: Path, *, data: str, budget: str) -> None:
    """Validation accuracy over seconds, if any run was timed."""
    rows = rows_of(data, budget)
    if any(row.seconds is not None for row in rows):
        draw_comparison(rows, path)


def _beside_rivals(rows: Sequence[RowSummary]) -> str:
    """By how much superfecta differs from each of its rivals that were made, and at which cost."""
    by_name = {row.summary.recipe.name: row for row in compare(rows)}
    data = rows[0].recipe.data.source
    own = by_name[f"compared-{OURS}-{NETWORK}-{data}"]
    lines = []
    for name in ("backprop", *RIVALS):
        rival = by_name.get(f"compared-{name}-{NETWORK}-{data}")
        if rival is None or own.summary.accuracy is None or rival.summary.accuracy is None:
            continue
        points = own.summary.accuracy.mean - rival.summary.accuracy.mean
        parameters, work = (
            f"{value / other:.2f}×"
            if (value := own.figure(figure)) and (other := rival.figure(figure))
            else "–"
            for figure in ("parameters", "multiply_adds_per_image")
        )
        lines.append(
            f"- less *{name}*: {points:+.2f} points; parameters {parameters}, multiply-adds {work}\n"
        )
    return f"\n*{OURS}* beside its rivals:\n\n{''.join(lines)}" if lines else ""


def _order(rows: Sequence[RowSummary]) -> str:
    """How many pairs of rows stand in the order of their published figures, and which rows do not."""
    both = [
        (published, row.accuracy.mean, row.recipe.base.method.name)
        for row in rows
        if row.accuracy and (published := published_elsewhere(row.recipe)) is not None
    ]
    pairs = [(a, b) for a, b in combinations(sorted(both), 2) if a[0] < b[0]]
    if not pairs:
        return ""
    turned = [(a[2], b[2]) for a, b in pairs if a[1] > b[1]]
    names = "; ".join(f"*{a}* ahead of *{b}*" for a, b in turned) or "none"
    return (
        f"\n{len(pairs) - len(turned)} of {len(pairs)} pairs of rows with a published figure stand in its "
        f"order; the others: {names}.\n"
    )
