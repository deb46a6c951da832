"""A page that puts runs beside each other, from what their folders say."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trifecta._utils.files import write_atomically
from trifecta._utils.yaml_files import read_yaml
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
# What a run adds to its settings, and notes.
NO_SETTINGS = ("dataset", "resolved", "recipe", "budget", "checksum")


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
    settings = differing(folders)
    text = fill(
        "report/compared.html",
        results=results,
        columns=COLUMNS,
        settings=settings,
        curves=figures.run_curves(
            {name: folder.read_history() for name, folder in zip(names, folders, strict=True)}
        ),
    )
    write_atomically(page, lambda path: path.write_text(text, encoding="utf-8"))


def differing(folders: Sequence[RunFolder]) -> dict[str, list[str]]:
    """Return the settings in which runs differ and that have no column, with a value for each run."""
    plain = [dict(_leaves(read_yaml(folder.config)[0])) for folder in folders]
    names = dict.fromkeys(name for settings in plain for name in settings)
    values = {name: [str(settings.get(name, "\N{EN DASH}")) for settings in plain] for name in names}
    return {name: told for name, told in values.items() if len(set(told)) > 1 and not _has_column(name)}


def _has_column(name: str) -> bool:
    """Whether a column says it already: the data's name, or all that follows from the method's."""
    return name in (*COLUMNS, "data.source", "method.name") or name.split(".")[0] in NO_SETTINGS


def _leaves(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
