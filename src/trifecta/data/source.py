"""Opening a source: a local folder, or a data set of the Hugging Face Hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trifecta._utils.extras import require
from trifecta.data.local_folder import check_description, check_names

if TYPE_CHECKING:
    from datasets import DatasetDict

HUB_TIMEOUT_SECONDS = 10


def open_source(source: str, subset: str | None) -> "DatasetDict":
    """All splits of a source, undecoded. A local folder is read without the network.

    Args:
        source: a folder or a Hub id.
        subset: a configuration of the data set, or a folder within the folder.

    Raises:
        ValueError: there is no such source or subset, or it cannot be read.
        ImportError: ``datasets`` is not installed.
    """
    folder = _local_folder(source)
    if folder is None:
        with _offline(not _hub_answers(source)):
            return _load(source, subset, f"'{source}' from the Hugging Face Hub")
    if subset is not None and (folder / subset).is_dir():
        folder, subset = folder / subset, None
    check_description(folder)
    check_names(folder)
    return _load(str(folder), subset, f"folder {source}")


def _local_folder(source: str) -> Path | None:
    """The folder that ``source`` names, None if it can only be a Hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise ValueError(
            f"--data is a folder, a Hub id or 'digits', {source} is a file: give the folder that it lies in"
        )
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ValueError(f"no folder {source}: check the spelling, or try --data digits")
    return None


def _load(path: str, subset: str | None, what: str) -> "DatasetDict":
    datasets = require("datasets")
    try:
        with _quiet():
            splits: DatasetDict = datasets.load_dataset(path, subset)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        # Only the cause names a broken file.
        broken = isinstance(error, datasets.exceptions.DatasetGenerationError)
        told = error.__cause__ if broken and error.__cause__ else error
        raise ValueError(f"cannot load {what}: {_advice(told)}") from error
    return splits


def _advice(error: BaseException) -> str:
    """Return the complaint of ``datasets`` on one line, and the fix."""
    reason = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, ConnectionError):
        return (
            "there is no such folder here, and the Hub cannot be reached: check the spelling, connect to "
            "the network, or try --data digits"
        )
    if "BuilderConfig" in reason or "Config name is missing" in reason:
        return f"{reason}: choose one with --set data.subset"
    if isinstance(error, FileNotFoundError):
        return "it has no images or Parquet files: give a folder with Parquet files or images in it"
    return reason


def _hub_answers(source: str) -> bool:
    """Ask the Hub for ``source``, once: ``load_dataset`` would try for half a minute.

    Raises:
        ValueError: the Hub answers that it has no such data set, or that it may not be read.
    """
    hub = require("huggingface_hub")
    try:
        hub.HfApi().dataset_info(source, timeout=HUB_TIMEOUT_SECONDS)
    except (hub.utils.RepositoryNotFoundError, hub.utils.HFValidationError) as error:
        raise ValueError(
            f"no folder '{source}', and no data set of that name on the Hugging Face Hub that you can "
            "read: check the spelling, log in with `hf auth login` if it is private, or try --data digits"
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
