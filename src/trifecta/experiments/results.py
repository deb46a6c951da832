"""Result files: one a finished run, with everything that its figure depends on."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trifecta._utils.files import write_atomically
from trifecta.experiments.plan import PlannedRun
from trifecta.training import RunConfig, from_plain, to_plain
from trifecta.training.trainer import Record

# What means nothing where the machine was shared with other work.
TIMES = ("seconds", "images_per_second", "evaluation_seconds", "calibration_seconds", "total_seconds")


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A result file.

    Attributes:
        name: of the run, see :class:`trifecta.experiments.plan.PlannedRun`.
        command: what makes it.
        config: its settings, with the data set's name in place of a folder.
        result: as ``result.json``, likewise.
        history: as ``history.jsonl``.
    """

    name: str
    command: str
    config: dict[str, Any]
    result: dict[str, Any]
    history: list[Record]


def settings(run: PlannedRun) -> dict[str, Any]:
    """The run's settings as a result file has them: no folders."""
    plain = to_plain(run.config)
    plain["data"]["source"] = run.recipe.data.source
    # JSON knows no tuples; equal settings must stay equal.
    as_read: dict[str, Any] = json.loads(json.dumps(plain))
    return as_read


def is_of(stored: StoredRun, run: PlannedRun) -> bool:
    """Whether the file holds this very run, whatever machine made it.

    Settings that are newer than the file have their defaults in it. Files from before ``keep`` and
    ``statistics`` hold runs that kept their last weights, and took enough steps for running averages.
    """
    if stored.name != run.name:
        return False
    wanted = settings(run)
    older = {name: wanted[name] for name in ("keep", "statistics") if wanted["keep"] == "last"}
    try:
        return _identity(older | stored.config) == _identity(wanted)
    except ValueError:  # settings that no longer exist
        return False


def _identity(config: dict[str, Any]) -> RunConfig:
    # Where a run was made, and how many blocks learnt at the same time, says nothing about which run it is.
    return replace(from_plain(config), device="auto", precision="auto", pipeline=1)


def result_path(folder: Path, run: PlannedRun, result: dict[str, Any]) -> Path:
    """``NAME_HARDWARE_DATE.json``."""
    hardware = re.sub(r"[^a-z0-9]+", "-", str(result["hardware"]).lower()).strip("-")
    return folder / f"{run.name}_{hardware}_{result['date']}.json"


def write_result(
    folder: Path,
    run: PlannedRun,
    result: dict[str, Any],
    history: Iterable[Record],
    *,
    timed: bool = True,
) -> Path:
    """Leave the run's result file in ``folder``, in place of an older one of the same run.

    Where ``timed`` is False the file holds no times, because they would say nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = result_path(folder, run, result)
    left_out = () if timed else TIMES
    whole = {
        "name": run.name,
        "command": run.command,
        "config": settings(run),
        "result": _without(result, left_out) | {"data": run.recipe.data.source},
        "history": [_without(record, left_out) for record in history],
    }
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(whole, indent=1) + "\n"))
    for older in folder.glob(f"{run.name}_*.json"):
        if older != path:
            older.unlink()
    return path


def read_results(folder: Path) -> list[StoredRun]:
    """Every result file in ``folder``, by name.

    Raises:
        ValueError: a file cannot be read as one; names it.
    """
    return [_read(path) for path in sorted(folder.glob("*_seed-*.json"))]


def find(stored: Iterable[StoredRun], run: PlannedRun) -> StoredRun | None:
    """The result of this very run; None where it was made with other settings, or not at all."""
    return next((one for one in stored if is_of(one, run)), None)


def _without(record: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def _read(path: Path) -> StoredRun:
    try:
        return StoredRun(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"not a result file: {path} ({type(error).__name__}); remove it to run it again"
        ) from None
