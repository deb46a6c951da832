"""Tables of experiments beside the published figures: terminal, Markdown, a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trifecta._utils.files import write_atomically
from trifecta.experiments.effects import grid_effects, grids_of
from trifecta.experiments.summary import Estimate, RowSummary
from trifecta.recipes import FACTORS, ResultTable
from trifecta.report import figures
from trifecta.report.page import fill, missing_libraries
from trifecta.report.terminal import plain_console, simple_table

NOT_MEASURED = "not measured"
HEAD = ("experiment", "published", "ours", "difference", "budget", "epochs", "seconds", "hardware")
_BESIDE_PUBLISHED = ("published", "difference")
EFFECTS_HEAD = ("effect", "points", "n")


def row_table(rows: Sequence[RowSummary]) -> tuple[list[str], list[list[str]]]:
    """Heading and cells, without the columns for published figures where there are none."""
    compared = any(row.recipe.published is not None for row in rows)
    kept = [k for k, name in enumerate(HEAD) if compared or name not in _BESIDE_PUBLISHED]
    body = [_cells(row) for row in rows]
    return [HEAD[k] for k in kept], [[cells[k] for k in kept] for cells in body]


def _cells(row: RowSummary) -> list[str]:
    published = row.recipe.published
    return [
        row.recipe.title,
        "–" if published is None else f"{published.accuracy:.2f}%",
        NOT_MEASURED if row.accuracy is None else accuracy_text(row.accuracy),
        _difference(row),
        row.budget,
        str(row.recipe(row.budget).epochs),
        "–" if row.seconds is None else f"{row.seconds:.0f}",
        row.hardware or "–",
    ]


def _difference(row: RowSummary) -> str:
    """In points; at budget ``full`` with the recipe's verdict on it."""
    if row.difference is None or row.recipe.published is None:
        return "–"
    tolerance = row.recipe.published.tolerance
    verdict = "within" if abs(row.difference) <= tolerance else "not within"
    judged = f" ({verdict} ±{tolerance:.2f})" if row.budget == "full" else ""
    return f"{row.difference:+.2f}{judged}"


def effect_cells(table: ResultTable, rows: Sequence[RowSummary]) -> list[list[str]]:
    """Effects of the factors of a grid, under ``EFFECTS_HEAD``; empty for another table."""
    if not table.cells:
        return []
    effects = grid_effects(grids_of(rows, table.cells), FACTORS)
    return [[name, spread_text(value, signed=True), str(value.n)] for name, value in effects.items()]


def accuracy_text(estimate: Estimate) -> str:
    """``53.45 ± 0.56% (n = 3)``."""
    return f"{spread_text(estimate)}% (n = {estimate.n})"


def spread_text(estimate: Estimate, *, signed: bool = False) -> str:
    """``53.45 ± 0.56``; one seed has no spread."""
    mean = f"{estimate.mean:{'+' if signed else ''}.2f}"
    return mean if estimate.deviation is None else f"{mean} ± {estimate.deviation:.2f}"


def sources(rows: Sequence[RowSummary]) -> list[str]:
    """Sources of the published figures, each once."""
    found = [row.recipe.published.source for row in rows if row.recipe.published is not None]
    return [f"Published: {source}." for source in dict.fromkeys(found)]


def depth_figure(rows: Sequence[RowSummary]) -> str:
    """Test accuracy of every block alone, one line a row that has runs."""
    curves = {
        row.recipe.title: [None if e is None else e.mean for e in row.blocks()] for row in rows if row.runs
    }
    return figures.depth_curves(curves, "test accuracy of the block alone, %")


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def print_table(table: ResultTable, rows: Sequence[RowSummary]) -> None:
    """Rows and effects for a terminal."""
    console = plain_console()
    console.print(f"{table.title} ({table.name})")
    for head, body in (row_table(rows), (EFFECTS_HEAD, effect_cells(table, rows))):
        if body:
            console.print(simple_table(head, body))


def as_markdown(table: ResultTable, rows: Sequence[RowSummary]) -> str:
    """Heading, rows, effects and sources."""
    parts = [f"## {table.title}\n", markdown(*row_table(rows))]
    effects = effect_cells(table, rows)
    if effects:
        parts.append(markdown(EFFECTS_HEAD, effects))
    return "\n".join([*parts, *(f"{note}\n" for note in sources(rows))])


def as_plain(rows: Sequence[RowSummary]) -> list[dict[str, Any]]:
    """Rows for machines; accuracies in percent, None where nothing was measured."""
    return [
        {
            "recipe": row.recipe.name,
            "published": None if row.recipe.published is None else row.recipe.published.accuracy,
            "accuracy": None if row.accuracy is None else row.accuracy.mean,
            "deviation": None if row.accuracy is None else row.accuracy.deviation,
            "n": len(row.runs),
            "difference": row.difference,
            "budget": row.budget,
            "seconds": row.seconds,
            "hardware": row.hardware,
        }
        for row in rows
    ]


def write_pages(
    folder: Path, tables: Sequence[ResultTable], rows: Mapping[str, Sequence[RowSummary]]
) -> Path:
    """Write ``NAME.md`` and, where the extra is installed, ``NAME.html``; the path of the best there is."""
    folder.mkdir(parents=True, exist_ok=True)
    name = tables[0].name if len(tables) == 1 else "all-tables"
    path = folder / f"{name}.md"
    text = "\n".join(as_markdown(table, rows[table.name]) for table in tables)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    if missing_libraries():
        return path
    page = fill(
        "experiments/reproduction.html", sections=[_section(table, rows[table.name]) for table in tables]
    )
    path = path.with_suffix(".html")
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path


def _section(table: ResultTable, rows: Sequence[RowSummary]) -> dict[str, Any]:
    head, body = row_table(rows)
    return {
        "title": table.title,
        "head": head,
        "body": body,
        "effects": effect_cells(table, rows),
        "sources": sources(rows),
        "figures": [depth_figure(rows)] if any(row.runs for row in rows) else [],
    }
