"""A page that puts runs beside each other, from what their folders say."""

from collections.abc import Sequence
from pathlib import Path

from trifecta._utils.files import write_atomically
from trifecta.report import figures
from trifecta.report.templates import fill, plain_names
from trifecta.training import RunFolder

COLUMNS = (
    "method",
    "network",
    "data",
    "test_accuracy",
    "parameters",
    "epochs",
    "seconds",
    "locality",
    "seed",
)


def compare_runs(runs: Sequence[str | Path], page: Path) -> None:
    """Write a page of finished runs to ``page``.

    Raises:
        ValueError: a run has no result yet, or is none.
    """
    folders = [RunFolder(run) for run in runs]
    names = plain_names(folder.path.name for folder in folders)
    results = {name: folder.read_result() for name, folder in zip(names, folders, strict=True)}
    if len(results) < len(folders):
        raise ValueError("runs are told apart by their folders' names: received two of the same name")
    text = fill(
        "report/compared.html",
        results=results,
        columns=COLUMNS,
        curves=figures.run_curves(
            {name: folder.read_history() for name, folder in zip(names, folders, strict=True)}
        ),
    )
    write_atomically(page, lambda path: path.write_text(text, encoding="utf-8"))
