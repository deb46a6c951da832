"""Tables of experiments beside the published figures: on a terminal, as Markdown, as a page, as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trifecta._utils.files import write_atomically
from trifecta.experiments import Estimate, RowSummary, grid_effects, grids_of
from trifecta.recipes import FACTORS, ResultTable
from trifecta.report import figures
from trifecta.report.page import fill, missing_libraries
from trifecta.report.terminal import (
    DASH,
    Cells,
    Columns,
    cells_of,
    markdown,
    plain_console,
    print_table,
    shown,
)

NOT_MEASURED = "not measured"


def row_table(rows: Sequence[RowSummary]) -> Cells:
    """Return heading and cells, without the columns for published figures if there are none."""
    published = any(row.recipe.published is not None for row in rows)
    columns: Columns[RowSummary] = [
        ("experiment", lambda row: row.recipe.title),
        *([("published", lambda row: shown(_published(row), "{:.2f}%"))] if published else []),
        ("ours", lambda row: accuracy_text(row.accuracy)),
        *([("difference", _difference)] if published else []),
        ("budget", lambda row: row.budget),
        ("epochs", lambda row: str(row.config.epochs)),
        ("seconds", lambda row: shown(row.mean("seconds"), "{:.0f}")),
        ("hardware", lambda row: row.hardware or DASH),
    ]
    return cells_of(rows, columns)


def _published(row: RowSummary) -> float | None:
    return None if row.recipe.published is None else row.recipe.published.accuracy


def _difference(row: RowSummary) -> str:
    """Return the difference in points; at budget ``full`` with the recipe's verdict on it."""
    if row.difference is None or row.recipe.published is None:
        return DASH
    tolerance = row.recipe.published.tolerance
    verdict = "within" if abs(row.difference) <= tolerance else "not within"
    judged = f" ({verdict} ±{tolerance:.2f})" if row.budget == "full" else ""
    return f"{row.difference:+.2f}{judged}"


def effect_table(table: ResultTable, rows: Sequence[RowSummary]) -> Cells:
    """Return the effects of the factors of a grid; no rows for another table."""
    effects = grid_effects(grids_of(rows, table.cells), FACTORS) if table.cells else {}
    columns: Columns[tuple[str, Estimate]] = [
        ("effect", lambda effect: effect[0]),
        ("points", lambda effect: f"{effect[1]:+.2f}"),
        ("n", lambda effect: str(effect[1].n)),
    ]
    return cells_of(effects.items(), columns)


def accuracy_text(estimate: Estimate | None) -> str:
    """Return ``53.45 ± 0.56% (n = 3)``."""
    return NOT_MEASURED if estimate is None else f"{estimate:.2f}% (n = {estimate.n})"


def sources(rows: Sequence[RowSummary]) -> list[str]:
    """Return the sources of the published figures, each once."""
    found = [row.recipe.published.source for row in rows if row.recipe.published is not None]
    return [f"Published: {source}." for source in dict.fromkeys(found)]


def depth_chart(rows: Sequence[RowSummary]) -> figures.Chart:
    """Return a chart of the test accuracy of every block alone, one line for each row that has runs."""
    curves = {
        row.recipe.title: [None if e is None else e.mean for e in row.blocks()] for row in rows if row.runs
    }
    return figures.depth_curves(curves, "test accuracy of the block alone, %")


def print_reproduction(table: ResultTable, rows: Sequence[RowSummary]) -> None:
    """Print rows and effects."""
    plain_console().print(f"{table.title} ({table.name})")
    for head, body in (row_table(rows), effect_table(table, rows)):
        if body:
            print_table(head, body)


def as_markdown(table: ResultTable, rows: Sequence[RowSummary]) -> str:
    """Return heading, rows, effects and sources."""
    tables = [markdown(head, body) for head, body in (row_table(rows), effect_table(table, rows)) if body]
    return "\n".join([f"## {table.title}\n", *tables, *(f"{note}\n" for note in sources(rows))])


def as_plain(rows: Sequence[RowSummary]) -> list[dict[str, Any]]:
    """Return the rows for machines: accuracies in percent, None where nothing was measured."""
    return [
        {
            "recipe": row.recipe.name,
            "published": _published(row),
            "accuracy": None if row.accuracy is None else row.accuracy.mean,
            "deviation": None if row.accuracy is None else row.accuracy.deviation,
            "n": len(row.runs),
            "difference": row.difference,
            "budget": row.budget,
            "seconds": row.mean("seconds"),
            "hardware": row.hardware,
        }
        for row in rows
    ]


def write_pages(
    folder: Path, tables: Sequence[ResultTable], rows: Mapping[str, Sequence[RowSummary]]
) -> Path:
    """Write ``NAME.md`` and, if the extra is installed, ``NAME.html``; return the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{tables[0].name if len(tables) == 1 else 'all-tables'}.md"
    text = "\n".join(as_markdown(table, rows[table.name]) for table in tables)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    if missing_libraries():
        return path
    page = fill("reproduction.html", sections=[_section(table, rows[table.name]) for table in tables])
    path = path.with_suffix(".html")
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path


def _section(table: ResultTable, rows: Sequence[RowSummary]) -> dict[str, Any]:
    return {
        "title": table.title,
        "rows": row_table(rows),
        "effects": effect_table(table, rows),
        "sources": sources(rows),
        "charts": [depth_chart(rows)] if any(row.runs for row in rows) else [],
    }
