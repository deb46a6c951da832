"""Opening a source: a local folder, or a data set of the Hugging Face Hub."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trifecta._utils.extras import require
from trifecta.data.arrow_files import table_rows
from trifecta.data.config import DataConfig
from trifecta.data.folder import ARCHIVES, list_folder
from trifecta.data.rows import Rows
from trifecta.data.splits import TEST, TRAIN, VALIDATION
from trifecta.data.tables import TABLES

HUB_TIMEOUT_SECONDS = 10


class MissingSourceError(ValueError):
    """There is no such folder or data set, or it cannot be reached."""


def open_source(config: DataConfig) -> dict[str, Rows]:
    """All splits of a source, undecoded. A local folder is read without the network.

    Raises:
        MissingSourceError: there is no such source.
        ValueError: there is no such subset, or it cannot be read.
        ImportError: a library that it takes is not installed.
    """
    folder = _local_folder(config.source)
    if folder is not None:
        splits = list_folder(_subset(folder, config.subset), config.table)
        return {name: splits[name] for name in sorted(splits, key=_rank)}
    if config.table is not None:
        raise ValueError(f"table is for a folder of images: received source {config.source}; leave it out")
    with _offline(not _hub_answers(config.source)):
        return _from_hub(config.source, config.subset)


def _rank(split: str) -> tuple[int, str]:
    usual = (TRAIN, VALIDATION, TEST)
    return (usual.index(split) if split in usual else len(usual)), split


def _local_folder(source: str) -> Path | None:
    """The folder that ``source`` names, None if it can only be a Hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise ValueError(f"source is a folder, a Hub id or 'digits', {source} is a file: {_instead(path)}")
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise MissingSourceError(
            f"no folder {source}{_nearest(path)}: give the right one as source; if it has moved, its new "
            "place, or put a link to it there"
        )
    return None


def _instead(file: Path) -> str:
    if file.suffix.lower() in TABLES:
        return f"give data.source={file.parent} and data.table={file.name}"
    if file.suffix.lower() in ARCHIVES:
        return "unpack it, and give the folder of images"
    return "give the folder that it lies in"


def _nearest(path: Path) -> str:
    """How far the path exists, and what is there in place of the rest."""
    parent = next(parent for parent in path.absolute().parents if parent.is_dir())
    missing = path.absolute().relative_to(parent).parts[0]
    near = difflib.get_close_matches(missing, [entry.name for entry in parent.iterdir() if entry.is_dir()])
    return f" ({parent} has no {missing}{f', but {near[0]}' if near else ''})"


def _subset(folder: Path, subset: str | None) -> Path:
    if subset is None:
        return folder
    if not (folder / subset).is_dir():
        there = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())[:10]) or "none"
        raise ValueError(
            f"no folder {subset} in {folder}, whose folders are {there}: choose another data.subset"
        )
    return (folder / subset).resolve()


def _from_hub(source: str, subset: str | None) -> dict[str, Rows]:
    datasets = require("datasets")
    try:
        with _quiet():
            splits = datasets.load_dataset(source, subset)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        # Only the cause names a broken file.
        broken = isinstance(error, datasets.exceptions.DatasetGenerationError)
        told = error.__cause__ if broken and error.__cause__ else error
        kind = MissingSourceError if isinstance(told, ConnectionError) else ValueError
        raise kind(f"cannot load '{source}' from the Hugging Face Hub: {_advice(told)}") from error
    config, kept = datasets.config, require("huggingface_hub").constants.HF_HUB_CACHE
    own = [Path(folder) for folder in (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, kept)]
    folders = tuple(folder.absolute() for folder in [*own, *(folder.resolve() for folder in own)])
    return {name: _hub_rows(name, rows, folders) for name, rows in splits.items()}


def _hub_rows(name: str, rows: Any, folders: tuple[Path, ...]) -> Rows:
    # The fingerprint follows the version of the data set.
    return table_rows(name, rows.data.table, folders, lambda: str(rows._fingerprint))


def _advice(error: BaseException) -> str:
    """Return the complaint of ``datasets`` on one line, and the fix."""
    reason = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, ConnectionError):
        return (
            f"there is no such folder in {Path.cwd()}, and the Hub cannot be reached: check the spelling, "
            "or connect to the network"
        )
    if "BuilderConfig" in reason or "Config name is missing" in reason:
        return f"{reason}: choose one with data.subset"
    return reason


def _hub_answers(source: str) -> bool:
    """Ask the Hub for ``source``, once: ``load_dataset`` would try for half a minute.

    Raises:
        MissingSourceError: the Hub answers that it has no such data set, or that it may not be read.
    """
    hub = require("huggingface_hub")
    try:
        hub.HfApi().dataset_info(source, timeout=HUB_TIMEOUT_SECONDS)
    except (hub.utils.RepositoryNotFoundError, hub.utils.HFValidationError) as error:
        raise MissingSourceError(
            f"no folder '{source}' in {Path.cwd()}, and no data set of that name on the Hugging Face Hub "
            "that you can read: check the spelling, or log in with `hf auth login` if it is private"
        ) from error
    except Exception:  # No network, a proxy that refuses, offline mode: what was loaded before still works.
        return False
    return True


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Keep ``datasets`` to what it has on disk, if ``offline``; then restore its setting."""
    config = require("datasets").config
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no log lines of ``datasets`` (its errors are raised as well); then as before."""
    datasets, logging = require("datasets"), require("datasets.utils.logging")
    level, shown = logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    # An environment variable that decides about the bars has the last word.
    switched = shown and datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is None
    logging.set_verbosity(logging.CRITICAL)
    if switched:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if switched:
            datasets.enable_progress_bars()
