"""Tables for people: on a terminal, in Markdown, and plain text where the output is no terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from trifecta._utils.references import printable
from trifecta.report.figures import Chart
from trifecta.training.run import Run

MOST_CLASSES_SHOWN = 10
DASH = "–"
T = TypeVar("T")
# Heading of each column, and what it shows of a row.
Columns = Sequence[tuple[str, Callable[[T], str]]]
Cells = tuple[list[str], list[list[str]]]


def shown(value: Any, form: str = "{:,.0f}") -> str:
    """Return a value in a format, or a dash for None; a mapping has a field for each of its keys."""
    if value is None:
        return DASH
    return form.format(**value) if isinstance(value, Mapping) else form.format(value)


def field(name: str, form: str = "{}", unit: float = 1) -> Callable[[Mapping[str, Any]], str]:
    """Return a column's function that shows a field of a row, in a unit, and a dash where it has none."""

    def show(row: Mapping[str, Any]) -> str:
        value = row.get(name)
        return shown(value if value is None or unit == 1 else value / unit, form)

    return show


def percent(share: float | None) -> str:
    """Return ``0.9612`` as ``96.12%``, and None as a dash."""
    return shown(share, "{:.2%}")


def cells_of(rows: Iterable[T], columns: Columns[T]) -> Cells:
    """Return the heading and the cells of a table, a row for each of ``rows``."""
    return [name for name, _ in columns], [[show(row) for _, show in columns] for row in rows]


def markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def print_table(head: Sequence[str], body: Iterable[Sequence[str]], note: str = "") -> None:
    """Print a table without borders, and a note below it."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for index, column in enumerate(head):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    for cells in body:
        table.add_row(*cells)
    console = plain_console()
    console.print(table)
    if note:
        console.print(note, soft_wrap=True)


def plain_console() -> Console:
    """Return a console without markup, wide enough for whole lines if its output is no terminal."""
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    console = Console(**plain)
    return console if console.is_terminal else Console(**plain, width=200)


@dataclass(frozen=True, kw_only=True)
class Section:
    """Tables under one title with notes and charts, for a terminal, Markdown or a page."""

    title: str
    tables: Sequence[Cells] = ()
    notes: Sequence[str] = ()
    charts: Sequence[Chart] = ()

    def print(self) -> None:
        """Print title, tables and notes."""
        console = plain_console()
        console.print(self.title)
        for table in self.tables:
            print_table(*table)
        for note in self.notes:
            console.print(note, soft_wrap=True)

    def markdown(self) -> str:
        """Return title, tables and notes."""
        tables = [markdown(*table) for table in self.tables]
        return "\n".join([f"## {self.title}\n", *tables, *(f"{note}\n" for note in self.notes)])


def print_run(run: Run, folder: Path) -> None:
    """Print the blocks' losses and accuracies, the result, and last the run folder's path."""
    result, console, trainer = run.result, plain_console(), run.trainer
    # The epoch whose weights were tested.
    print_blocks(run.test.block_accuracy, trainer.history[trainer.kept_epoch - 1]["loss"])
    if result["validation_accuracy"] is not None:
        kept = result["kept_epoch"]
        which = "" if kept == result["epochs"] else f", of epoch {kept}, whose weights are kept"
        console.print(f"validation accuracy {percent(result['validation_accuracy'])}{which}")
    result = result | {"s": "" if result["epochs"] == 1 else "s"}
    console.print(
        "test accuracy {test_accuracy:.2%}  ({method}, {network}, {locality}; {epochs} epoch{s} in "
        "{seconds:.1f} s, {images_per_second:,.0f} images/s, {precision} on {hardware})".format(**result)
    )
    console.print(f"run folder {folder}", soft_wrap=True)


def print_blocks(accuracy: Sequence[float | None], loss: Sequence[float | None] | None = None) -> None:
    """Print a row for each block: its training loss, and its accuracy if it alone decided."""
    columns: Columns[int] = [
        ("block", str),
        *([] if loss is None else [("loss", lambda k: shown(loss[k], "{:.4f}"))]),
        ("test accuracy of this block alone", lambda k: percent(accuracy[k])),
    ]
    print_table(*cells_of(range(len(accuracy)), columns))


def print_predictions(files: Sequence[Path], shares: Tensor, classes: Sequence[str]) -> None:
    """Print a row for each image: its label, then the probability of every class or of the likeliest."""
    classes = [printable(name) for name in classes]
    few = len(classes) <= MOST_CLASSES_SHOWN
    body = []
    for file, row in zip(files, shares, strict=True):
        best = row.topk(min(5, len(classes)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        likeliest = [", ".join(f"{classes[k]} {percent(value)}" for k, value in pairs)]
        cells = list(map(percent, row.tolist())) if few else likeliest
        body.append([printable(str(file)), classes[int(row.argmax())], *cells])
    head = ["image", "label", *(classes if few else ["the likeliest classes"])]
    print_table(head, body, "numbers are probabilities by class; the highest predicts")


def print_listing(tables: Mapping[str, Mapping[str, str]]) -> None:
    """Print names with their descriptions, one table for each kind."""
    notes = {"networks": "weights are those of the blocks at width 1, without heads"}
    for title, rows in tables.items():
        print_table([title, ""], list(rows.items()), notes.get(title, ""))
